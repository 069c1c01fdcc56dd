"""The module behind every named loss: weights, two sides and guidance, put through the one term."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from tailwise.labels import LabelStats, require_stats
from tailwise.losses.autograd import ClosedForm, attach, is_transformed
from tailwise.losses.checks import check_batch, check_targets
from tailwise.losses.eager import Eager, differentiable_term
from tailwise.losses.guidance import Guidance, add_over_processes
from tailwise.losses.implementation import (
    IMPLEMENTATIONS,
    Backend,
    Implementation,
    choose,
    known_in_advance,
)
from tailwise.losses.steering import Steering
from tailwise.losses.targets import dense_rows, is_sparse, sparse_row_sums
from tailwise.losses.term import Coefficients, Factor, FocalOn, PairWeight, Side, known_pairs
from tailwise.losses.weights import Weighting
from tailwise.shapes import Bool, Float, Shaped

EAGER = Eager()
_NOTHING = nullcontext()

Reduction: TypeAlias = Literal["mean", "sum", "batchmean", "none"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)

FactorChoice: TypeAlias = float | ArrayLike | Tensor | Mapping[str, float] | None
"""A factor of each class: a number, (K,) values, ``{group: value}`` laid over the base, or None for the base."""

Allowed: TypeAlias = Literal["positive", "not negative", "finite"]
"""Which numbers a parameter may take."""


class MultiLabelLoss(nn.Module):
    """A loss of the one term (see :mod:`tailwise.losses.term`), for a set of classes.

    Args:
        stats: statistics of the training labels.
        weight: rule for the weights w; None is 1.
        positive: parameters of the positive side.
        negative: parameters of the negative side.
        scale: c, a plain factor of the loss.
        margin: ASL's probability margin on the negative side.
        guidance: adapts the sides to each batch, or to the course of the training.
        focal_on: argument of the focal factor: the ``"regularized"`` logit or the ``"plain"`` one.
        reduction: ``"mean"`` over known pairs, ``"sum"``, ``"batchmean"`` (sum over classes, mean over samples), or
            ``"none"``.
        validate: check the range of the targets of the first batch. It costs a device synchronisation, once.
        impl: what evaluates the term: ``"auto"``, ``"eager"`` operations of torch, ``"numba"`` loops for a CPU,
            ``"compile"`` for torch.compile, or ``"triton"`` kernels for CUDA. They give the same.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        stats: LabelStats,
        *,
        weight: Weighting | None = None,
        positive: Side = Side(),  # noqa: B008 - a NamedTuple cannot change
        negative: Side = Side(),  # noqa: B008
        scale: float = 1.0,
        margin: float = 0.0,
        guidance: Guidance | Steering | None = None,
        focal_on: FocalOn = "regularized",
        reduction: Reduction = "mean",
        validate: bool = True,
        impl: Implementation = "auto",
    ) -> None:
        super().__init__()
        require_stats(stats)
        if impl not in IMPLEMENTATIONS:
            raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        if focal_on not in get_args(FocalOn):
            raise ValueError(f"focal_on must be 'regularized' or 'plain', got {focal_on!r}")
        self.num_classes = stats.num_classes
        self.scale, self.margin = float(scale), float(margin)
        self.focal_on, self.reduction = focal_on, reduction
        self.weight = weight
        self.impl = impl
        self.guidance = guidance
        self._fixed: dict[str, float] = {}
        for name, side in (("positive", positive), ("negative", negative)):
            for field, factor in side._asdict().items():
                self._keep(f"{name}_{field}", factor)
        self._validate_next = validate

    def forward(
        self,
        logits: Float[Tensor, "B C"],
        targets: Shaped[Tensor, "B C"],
        mask: Bool[Tensor, "B C"] | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            logits: (B, C) raw scores, of any floating-point type; half precision is computed in float32.
            targets: (B, C) labels: 0, 1, soft in [0, 1] (floating point), or unknown (−1 or NaN); dense, or sparse CSR,
                where what is not stored is 0.
            mask: (B, C), False where the label is unknown.

        Returns:
            A scalar, or (B, C) losses for ``reduction="none"``; 0 where nothing is known.

        Raises:
            ValueError: what is given is no tensor, or not of the shape, type or device that is expected, or (first
                batch, unless ``validate=False``) targets are out of range.
        """
        check_batch(logits, targets, mask, self.num_classes)
        self.check_first_batch(targets)
        device = logits.device.type
        # Autocast would run the small products of weights and statistics in half precision.
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else _NOTHING:
            transformed = is_transformed(logits)
            with torch.no_grad():
                backend = EAGER if transformed or torch.compiler.is_compiling() else choose(self.impl, logits)
                coefficients = self._coefficients(backend, logits, targets, mask)
            if transformed:
                return self._transformed(logits, targets, mask, coefficients)
            return self._reduced(backend, logits, targets, mask, coefficients)

    def check_first_batch(self, targets: Tensor) -> None:
        """Raise ValueError if the targets of the first batch are out of range, or on another device than the loss."""
        if self._validate_next and not (torch.compiler.is_compiling() or is_transformed(targets)):
            check_targets(targets)
            for name, buffer in self.named_buffers():
                if buffer.device != targets.device:
                    raise ValueError(
                        f"the loss ({name}) is on {buffer.device}, its batch on {targets.device}: move it with "
                        f"loss.to({str(targets.device)!r})"
                    )
            self._validate_next = False

    def weigh(self, backend: Backend, targets: Tensor, mask: Tensor | None) -> PairWeight:
        """The weights of a batch, from its labels of all classes."""
        if self.weight is None:
            return PairWeight()
        values = self.weight.class_values()
        if values is None:
            sums = None
        elif is_sparse(targets) and mask is None:
            sums = sparse_row_sums(targets, values)
        else:
            sums = backend.row_sums(targets, mask, values)
        pair_weight: PairWeight = self.weight(sums)
        return pair_weight

    def share_sums(self, sums: Tensor) -> Tensor:
        """Add the sums behind the guidance over all processes, in training, unless each is to use its own."""
        if self.training and self.guidance is not None and self.guidance.sync == "auto":
            add_over_processes(sums)
        return sums

    def _coefficients(self, backend: Backend, logits: Tensor, targets: Tensor, mask: Tensor | None) -> Coefficients:
        positive, negative = self.side("positive"), self.side("negative")
        if self.guidance is not None:
            sums = self.share_sums(backend.probability_sums(logits, targets, mask))
            positive, negative = self.guidance(sums, positive, negative)
        return self.coefficients(positive, negative, self.weigh(backend, targets, mask))

    def coefficients(self, positive: Side, negative: Side, weight: PairWeight) -> Coefficients:
        """All that the term takes, given the sides and weights of a batch."""
        return Coefficients(positive, negative, weight, self.scale, self.margin, self.focal_on)

    def _reduced(
        self, backend: Backend, logits: Tensor, targets: Tensor, mask: Tensor | None, coefficients: Coefficients
    ) -> Tensor:
        """The reduced value, with its gradient."""
        wants_values, wants_gradient = self.reduction == "none", torch.is_grad_enabled() and logits.requires_grad
        divisor = divisor_in_advance(self.reduction, targets, mask)
        # In float16 a gradient divided by the number of pairs would lose its digits before a scaler can save them.
        folds = divisor is not None and logits.dtype != torch.float16
        factor = 1 / divisor if divisor is not None and folds else 1.0

        evaluate = partial(
            backend.evaluate,
            targets=targets,
            mask=mask,
            coefficients=coefficients,
            gradient=wants_gradient,
            values=wants_values,
            factor=factor,
        )
        rest: Tensor | float = 1.0
        with torch.no_grad():
            evaluated = evaluate(logits)
        if evaluated.values is not None:
            value = evaluated.values
        else:
            inverse = _inverse(evaluated.known if divisor is None else divisor, evaluated.total.dtype)
            value, rest = evaluated.total * inverse, (1.0 if folds else inverse)
        if evaluated.gradient is None:
            return value
        closed = ClosedForm(
            rest,
            again=lambda z: evaluate(z).gradient,
            differentiable=lambda z: differentiable_term(z, targets, mask, coefficients)[1] * factor,
            scale=backend.scale_,
            beside=(targets, mask),
        )
        return attach(logits, value, evaluated.gradient, closed)

    def _transformed(self, logits: Tensor, targets: Tensor, mask: Tensor | None, coefficients: Coefficients) -> Tensor:
        """The reduced value as operations that torch transforms."""
        values, _ = differentiable_term(logits, targets, mask, coefficients)
        if self.reduction == "none":
            return values
        divisor = divisor_in_advance(self.reduction, targets, mask)
        if divisor is None:
            known = known_pairs(dense_rows(targets, slice(None)), mask)
            assert known is not None
            return values.sum() * _inverse(known.sum(), values.dtype)
        return values.sum() * _inverse(divisor, values.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MultiLabelLoss:
        """Move buffers, but leave their type: what is computed in float32 has float32 parameters.

        ``model.bfloat16()`` then gives the same loss of the same logits, and steps add up.
        """

        def moved(tensor: Tensor) -> Tensor:
            given = fn(tensor)
            return given if given.dtype == tensor.dtype else tensor.to(given.device)

        applied: MultiLabelLoss = super()._apply(moved, recurse)
        return applied

    def side(self, name: Literal["positive", "negative"]) -> Side:
        """Parameters of a side, before guidance."""
        names = {field: f"{name}_{field}" for field in Side._fields}
        return Side(**{f: self._fixed[n] if n in self._fixed else getattr(self, n) for f, n in names.items()})

    def extra_repr(self) -> str:
        changed = [
            f"{name}={value:g}" for name, value in self._fixed.items() if value != Side()._asdict()[_field(name)]
        ]
        return ", ".join(
            [f"classes={self.num_classes}", *changed, f"scale={self.scale:g}", f"reduction={self.reduction!r}"]
        )

    def _keep(self, name: str, factor: Factor) -> None:
        if isinstance(factor, Tensor):
            self.register_buffer(name, factor)
        else:
            self._fixed[name] = float(factor)


def _inverse(whole: Tensor | int, dtype: torch.dtype) -> Tensor | float:
    """One over the number of known pairs, or over 1 where there is none."""
    return 1 / (whole.clamp(min=1).to(dtype) if isinstance(whole, Tensor) else max(whole, 1))


def divisor_in_advance(reduction: Reduction, targets: Tensor, mask: Tensor | None) -> int | None:
    """What the sum of the losses is divided by, or None for a mean whose known pairs have to be counted.

    ``"mean"`` divides by the number of known pairs, ``"batchmean"`` by the number of samples, ``"sum"`` and ``"none"``
    by nothing. A batch without a known pair gives 0.
    """
    if reduction == "batchmean":
        return max(targets.shape[0], 1)
    if reduction == "mean":
        known = known_in_advance(targets, mask)
        return None if known is None else max(known, 1)
    return 1


def per_class(
    name: str, choice: FactorChoice, base: float, stats: LabelStats, *, allowed: Allowed = "positive"
) -> Factor:
    """Resolve a parameter: a number, (K,) values, or ``{group: value}`` over the base.

    Raises:
        ValueError: a group that does not exist, a wrong number of values, or one that is not finite or not allowed.
    """
    if choice is None:
        return float(base)
    if isinstance(choice, Mapping):
        values = np.full(stats.num_classes, float(base))
        for group, value in choice.items():
            if group not in stats.groups:
                raise ValueError(f"{name} names the group {group!r}; there are {', '.join(stats.groups)}")
            values[stats.groups[group]] = _numbers(name, value)
    else:
        values = _numbers(name, choice.numpy(force=True) if isinstance(choice, Tensor) else choice)
        if values.ndim != 0 and values.shape != (stats.num_classes,):
            raise ValueError(f"{name} must be a number or {stats.num_classes} values, got shape {values.shape}")
    is_allowed = {"positive": values > 0, "not negative": values >= 0, "finite": True}[allowed]
    if not (np.isfinite(values) & is_allowed).all():
        expected = "finite" if allowed == "finite" else f"{allowed} and finite"
        raise ValueError(f"{name} must be {expected}, got {choice!r}")
    return float(values) if values.ndim == 0 else torch.from_numpy(values).float()


def _numbers(name: str, given: ArrayLike) -> NDArray[np.float64]:
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number, one per class, or by group, got {given!r}") from error


def _field(name: str) -> str:
    return name.split("_", 1)[1]
