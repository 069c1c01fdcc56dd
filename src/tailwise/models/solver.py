"""Linear heads on fixed features, solved to convergence for any loss with an L2 penalty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from tailwise.errors import InputError
from tailwise.losses.backends import Wanted, choose
from tailwise.losses.batches import LabelChunks
from tailwise.losses.chunked import of_classes
from tailwise.losses.formula import PairWeight
from tailwise.losses.guidance import Steering
from tailwise.losses.loss import FormulaLoss, Loss
from tailwise.shapes import Float, Shaped

Objective: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(N, K) logits to losses, of pairs, rows or all together, and the (N, K) derivatives of their sum."""

# Steps with one preconditioner, and how often it is made anew where these do not suffice.
_STEPS, _RESTARTS = 40, 10
# Of the gradient, in coordinates in which curvatures are about 1 and losses at the start are 1.
_TOLERANCE = 1e-3
_SETTLING_ROUNDS, _SETTLING_TOLERANCE, _DAMPING = 40, 1e-3, 0.5
_NEWTON_STEPS, _LARGEST_NEWTON_STEP, _NEWTON_TOLERANCE = 100, 1.0, 1e-4
_SMALLEST_EIGENVALUE = 1e-10
# A step that float32 resolves, in logits.
_DIFFERENCE = 1e-2


@dataclass(frozen=True, eq=False)
class Design:
    """Features on their principal axes, where the Hessian of a penalised loss is nearly diagonal.

    Attributes:
        rows: (N, D) centred features on the axes, D ≤ min(N, F), float64.
        center: (F,) mean of the features.
        axes: (F, D) orthonormal directions.
    """

    rows: Float[Tensor, "N D"]
    center: Float[Tensor, "F"]
    axes: Float[Tensor, "F D"]

    @classmethod
    def of(cls, features: Float[Tensor, "N F"]) -> Design:
        """Center and rotate features, by an eigendecomposition of the smaller Gram matrix."""
        center = features.double().mean(0)
        centered = features.double() - center
        is_wide = len(centered) < centered.shape[1]
        values, vectors = torch.linalg.eigh(centered @ centered.T if is_wide else centered.T @ centered)
        kept = values > values[-1].clamp(min=1e-30) * _SMALLEST_EIGENVALUE
        values, vectors = values[kept], vectors[:, kept]
        if is_wide:
            return cls(vectors * values.sqrt(), center, centered.T @ (vectors / values.sqrt()))
        return cls(centered @ vectors, center, vectors)

    @cached_property
    def variance(self) -> float:
        """Mean squared distance of a row from the center."""
        return float((self.rows * self.rows).sum() / len(self.rows))

    def linear(self, head: Head) -> tuple[Float[Tensor, "K F"], Float[Tensor, "K"]]:
        """Weight and bias of a layer that takes the features themselves, float32."""
        weight = self.axes @ head.weight.double()
        return weight.T.float(), (head.bias - self.center @ weight).float()


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head on principal axes.

    Attributes:
        weight: (D, K).
        bias: (K,).
        converged: whether it is a minimum to the tolerance, and adaptive factors have settled.
    """

    weight: Float[Tensor, "D K"]
    bias: Float[Tensor, "K"]
    converged: bool = True

    def logits(self, rows: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """Raw scores of rows on the axes."""
        return torch.addmm(self.bias, rows, self.weight)


class Chunk(NamedTuple):
    """Some neighbouring classes of a loss."""

    classes: slice
    weight: PairWeight
    """The weights of pairs of all classes, which depend on all labels of a row."""


class Problem:
    r"""The minimisation of :math:`\sum_i ω_i \ell(z_i, y_i) + \frac{α}{2} \lVert W \rVert^2` with z = Wᵀφ + b.

    The bias is not penalised. A class without a positive, or without a negative, has the weight 0 and the log-odds of
    its labels as its bias. Factors and exponents that follow the batch, and corrected labels, are those of all rows at
    the solution: a fixed point.

    Args:
        rows: (N, D) features, best on the axes of a :class:`Design`.
        targets: (N, K) labels: 1, 0, soft, or unknown (−1 or NaN).
        loss: a loss of tailwise, with ``reduction="none"`` where it has that, or any module of logits and targets.
        weights: (N,) image weights ω; None for 1.
        chunk: the classes of the loss that ``targets`` has, if not all.

    Attributes:
        curvature: mean second derivative of the losses of pairs at the start, the unit of penalties.

    Raises:
        InputError: the images have different weights, and the loss has no value of each image.
    """

    def __init__(
        self,
        rows: Float[Tensor, "N D"],
        targets: Shaped[Tensor, "N K"],
        loss: nn.Module,
        weights: Float[Tensor, "N"] | None = None,
        chunk: Chunk | None = None,
    ) -> None:
        self.rows, self.loss, self._chunk = rows, loss, chunk
        self.targets = targets.nan_to_num(-1) if targets.is_floating_point() else targets
        self.weights = rows.new_ones(len(rows)) if weights is None else weights.to(rows)
        self._require_values()
        mass = self.weights @ (self.targets >= 0).to(rows)
        positives = self.weights @ self.targets.clamp(min=0).to(rows)
        self.solvable = (positives > 0) & (positives < mass)
        self._corrected = self.targets
        self._sums = rows.new_zeros(4, len(mass))
        self._start = self._constant_head(((positives + 0.5) / (mass - positives + 0.5)).log())
        objective, logits = self._objective(), self._start.logits(rows)
        values = self._weighed(objective(logits)[0])
        total = values.sum(0) if values.ndim == 2 else values.sum().expand(len(mass))
        self._scale = total.clamp(min=1e-6).rsqrt()
        curvatures = self._curvatures(objective, logits)[:, self.solvable]
        self.curvature = float(curvatures.sum() / (self.weights.sum() * max(curvatures.shape[1], 1)))

    def solve(self, penalty: float, start: Head | None = None) -> Head:
        """The head for a penalty α; it is found faster from a start near it."""
        start, change = self._start if start is None else start, 0.0
        self._sums = self._probability_sums(start)
        head = self._minimum(penalty, start)
        for _ in range(_SETTLING_ROUNDS if self._is_adaptive else 0):
            change = self._settle(head)
            if change < _SETTLING_TOLERANCE:
                break
            head = self._minimum(penalty, head)
        return replace(head, converged=head.converged and change < _SETTLING_TOLERANCE)

    @property
    def _is_adaptive(self) -> bool:
        loss = self.loss
        return isinstance(loss, FormulaLoss) and (loss.guidance is not None or loss.correction is not None)

    def _require_values(self) -> None:
        has_values = isinstance(self.loss, Loss) and self.loss.reduction == "none"
        if not has_values and bool((self.weights != self.weights[0]).any()):
            raise InputError(
                f"{type(self.loss).__name__} has no loss of each image, so images cannot have weights: use --sampler "
                "uniform"
            )

    def _objective(self) -> Objective:
        """The loss, with its adaptive parts as they were last settled."""
        if not isinstance(self.loss, FormulaLoss):
            return _by_autograd(self.loss, self.targets)
        loss, backend = self.loss, choose(self.loss.impl, self.rows)
        positive, negative = loss.side("positive"), loss.side("negative")
        if self._chunk is None:
            weight, classes = loss.weigh(backend, self.targets, None), slice(None)
        else:
            classes, weight = self._chunk
            positive, negative = of_classes(positive, classes), of_classes(negative, classes)
            weight = weight if weight.label is None else weight._replace(label=weight.label[classes])
        if loss.guidance is not None:
            positive, negative = loss.guidance.settled(self._sums, positive, negative, classes)
        coefficients = loss.coefficients(positive, negative, weight)
        targets = self._corrected

        def evaluate(logits: Tensor) -> tuple[Tensor, Tensor]:
            found = backend.evaluate(logits, targets, None, coefficients, Wanted(gradient=True, values=True))
            assert found.values is not None
            assert found.gradient is not None
            return found.values, found.gradient

        return evaluate

    def _settle(self, head: Head) -> float:
        """Move the adaptive parts towards those at a head; returns by how much they are from them, relatively."""
        assert isinstance(self.loss, FormulaLoss)
        change = 0.0
        if self.loss.guidance is not None:
            found = self._probability_sums(head)
            distance = (found - self._sums).abs() / self._sums.clamp(min=1e-6)
            change = float(distance[:, self.solvable].max())
            self._sums = self._sums + _DAMPING * (found - self._sums)
        if self.loss.correction is not None:
            now = torch.ones((), dtype=torch.bool, device=self.rows.device)
            corrected = self.loss.correction(head.logits(self.rows), self.targets, now)
            change = max(change, float((corrected != self._corrected).float().mean()))
            self._corrected = corrected
        return change

    def _probability_sums(self, head: Head) -> Float[Tensor, "4 K"]:
        """Weighted Σ p y, Σ y, Σ p (1 − y) and Σ (1 − y) over the known pairs of each class."""
        p, known = torch.sigmoid(head.logits(self.rows)), self.targets >= 0
        y = torch.where(known, self.targets, 0).to(p.dtype)
        rest = known.to(p.dtype) - y
        return torch.stack([self.weights @ table for table in (p * y, y, p * rest, rest)])

    def _constant_head(self, log_odds: Float[Tensor, "K"]) -> Head:
        """The best bias without features, by damped steps of Newton's method in every class at once."""
        head = Head(self.rows.new_zeros(self.rows.shape[1], len(log_odds)), log_odds)
        self._sums = self._probability_sums(head)
        if not isinstance(self.loss, FormulaLoss):
            return head
        objective = self._objective()
        for _ in range(_NEWTON_STEPS):
            logits = head.bias.expand(self.targets.shape).contiguous()
            slope = self.weights @ objective(logits)[1]
            curvature = self._curvatures(objective, logits).sum(0)
            step = (slope / curvature.clamp(min=1e-12)).clamp(-_LARGEST_NEWTON_STEP, _LARGEST_NEWTON_STEP)
            step = torch.where(self.solvable, step, 0.0)
            head = replace(head, bias=head.bias - step)
            if float(step.abs().max()) < _NEWTON_TOLERANCE:
                break
        return head

    def _curvatures(self, objective: Objective, logits: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        """Weighted second derivatives by each logit, never negative; those of coupled logits are estimates.

        Differences along random signs give the diagonal of the Hessian where pairs are not coupled, and an unbiased
        estimate elsewhere (Bekas, Kokiopoulou and Saad, Applied Numerical Mathematics, 2007).
        """
        signs = torch.randint(0, 2, logits.shape, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
        shift = _DIFFERENCE * signs.to(logits)
        difference = objective(logits + shift)[1] - objective(logits - shift)[1]
        return (self.weights[:, None] * difference / (2 * shift)).clamp(min=0)

    def _minimum(self, penalty: float, head: Head) -> Head:
        """The minimum by L-BFGS in coordinates scaled by the diagonal of the Hessian, made anew where it has moved."""
        objective, converged = self._objective(), False
        for _ in range(_RESTARTS):
            head, converged = self._steps(objective, penalty, head)
            if converged:
                break
        weight = torch.where(self.solvable, head.weight, 0.0)
        return Head(weight, torch.where(self.solvable, head.bias, self._start.bias), converged)

    def _steps(self, objective: Objective, penalty: float, head: Head) -> tuple[Head, bool]:
        curvature = self._curvatures(objective, head.logits(self.rows)) * self.solvable
        diagonal = torch.cat([(self.rows * self.rows).T @ curvature + penalty, curvature.sum(0, keepdim=True)])
        diagonal = diagonal.clamp(min=1e-6 * float(diagonal.mean()))
        scale = diagonal.rsqrt() / self._scale
        point = (torch.cat([head.weight, head.bias[None]]) / scale).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [point],
            max_iter=_STEPS,
            tolerance_grad=_TOLERANCE,
            tolerance_change=0.0,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        @torch.no_grad()
        def closure() -> Tensor:
            weight, bias = _parts(point * scale)
            values, slopes = objective(torch.addmm(bias, self.rows, weight))
            slopes = slopes * self.weights[:, None] * self.solvable
            by_parameter = torch.cat([self.rows.T @ slopes + penalty * weight, slopes.sum(0, keepdim=True)])
            point.grad = by_parameter * scale * self._scale**2
            return self._total(values, weight, penalty)

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        assert point.grad is not None
        weight, bias = _parts(point.detach() * scale)
        return Head(weight, bias), float(point.grad.abs().max()) <= _TOLERANCE

    def _total(self, values: Tensor, weight: Tensor, penalty: float) -> Tensor:
        """The objective, each class in the unit of its loss at the start."""
        units = self._scale.double() ** 2
        penalties = (weight.double() ** 2).sum(0) * penalty / 2
        if values.ndim < 2:
            return self._weighed(values.double()).sum() * units[0] + (penalties * units).sum()
        return ((self._weighed(values.double()).sum(0) * self.solvable + penalties) * units).sum()

    def _weighed(self, values: Tensor) -> Tensor:
        """Losses of pairs or rows times the weights of their rows; all together as they are."""
        return values * self.weights[(...,) + (None,) * (values.ndim - 1)] if values.ndim else values


def solve_in_chunks(
    design: Design, targets: Shaped[Tensor, "N K"], loss: FormulaLoss, penalty: float, *, size: int = 256
) -> tuple[Float[Tensor, "K F"], Float[Tensor, "K"]]:
    """Solve the head of very many classes, some at a time: memory is that of the head and of one chunk.

    Args:
        design: N rows of features.
        targets: (N, K) labels: 1, 0, or unknown (−1 or NaN), best sparse CSR.
        loss: a loss of pairs, with ``reduction="none"``.
        penalty: α.
        size: classes of a chunk.

    Returns:
        Weight and bias of a layer that takes the features themselves, float32.

    Raises:
        InputError: the loss has factors that depend on all classes.
    """
    if isinstance(loss.guidance, Steering):
        raise InputError("the factors of pg-auto depend on all classes: solve them at once, or take another loss")
    rows, num_classes = design.rows.float(), targets.shape[1]
    pair_weight = loss.weigh(choose(loss.impl, rows), targets, None)
    chunks = LabelChunks(targets, None, range(num_classes), size)
    weight, bias = rows.new_empty(num_classes, len(design.axes)), rows.new_empty(num_classes)
    for classes in chunks.slices:
        labels, _ = chunks.labels(classes)
        head = Problem(rows, labels, loss, chunk=Chunk(classes, pair_weight)).solve(penalty)
        weight[classes], bias[classes] = design.linear(head)
    return weight, bias


def _by_autograd(loss: nn.Module, targets: Shaped[Tensor, "N K"]) -> Objective:
    """A loss that is not a sum over pairs; a mean over rows counts as their sum."""

    def evaluate(logits: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            variable = logits.detach().requires_grad_()
            values = loss(variable, targets)
            values = values if values.ndim else values * len(logits)
            (slopes,) = torch.autograd.grad(values.sum(), variable)
        return values.detach(), slopes

    return evaluate


def _parts(parameters: Float[Tensor, "E K"]) -> tuple[Tensor, Tensor]:
    """(D, K) weight and (K,) bias of a table of both."""
    return parameters[:-1], parameters[-1]
