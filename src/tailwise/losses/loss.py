"""Loss modules: the base class of all named losses, and the class of those that are points of the formula."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn

from tailwise.labels import LabelStats, require_stats
from tailwise.losses.autograd import ClosedForm, attach, is_transformed
from tailwise.losses.backends import IMPLEMENTATIONS, Backend, Implementation, Wanted, choose, known_in_advance
from tailwise.losses.backends.eager import EAGER, differentiable_term
from tailwise.losses.batches import check_batch, check_targets, dense_rows, is_sparse, sparse_row_sums
from tailwise.losses.formula import SIDE_FACTORS, Coefficients, FocalOn, PairWeight, Side, known_pairs
from tailwise.losses.guidance import Correction, Guidance, Steering
from tailwise.losses.statistics import Weighting
from tailwise.shapes import Bool, Float, Shaped

Reduction: TypeAlias = Literal["mean", "sum", "batchmean", "none"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)

_NOTHING = nullcontext()
_SIDES: tuple[Literal["positive", "negative"], ...] = ("positive", "negative")


class Loss(nn.Module):
    """A loss of logits and labels: checks, precision and the first batch, shared by all subclasses.

    Args:
        stats: statistics of the training labels.
        reduction: ``"mean"`` over known pairs, ``"sum"``, ``"batchmean"`` (sum over classes, mean over samples), or
            ``"none"``.
        validate: check the range of the targets of the first batch. It costs one device synchronisation.
        impl: implementation of the term: ``"auto"``, ``"eager"`` operations of torch, ``"numba"`` loops for a CPU, or
            ``"triton"`` kernels for CUDA. The results agree.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        stats: LabelStats,
        *,
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
        self.num_classes = stats.num_classes
        self.reduction, self.impl = reduction, impl
        self.reductions = REDUCTIONS
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
                where entries that are not stored are 0.
            mask: (B, C), False where the label is unknown.

        Returns:
            A scalar, or the losses of ``reduction="none"``; 0 where nothing is known.

        Raises:
            ValueError: an argument is not a tensor of the expected shape, type and device, or (first batch, unless
                ``validate=False``) targets are out of range.
        """
        check_batch(logits, targets, mask, self.num_classes)
        self.check_first_batch(targets)
        device = logits.device.type
        # Autocast would run the small products of weights and statistics in half precision.
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else _NOTHING:
            return self.value(logits, targets, mask)

    def value(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
        """The reduced loss of a batch that has been checked."""
        raise NotImplementedError

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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Loss:
        """Move buffers, but keep their dtype: computations in float32 have float32 parameters.

        ``model.bfloat16()`` then gives the same loss of the same logits, and steps add up.
        """

        def moved(tensor: Tensor) -> Tensor:
            given = fn(tensor)
            return given if given.dtype == tensor.dtype else tensor.to(given.device)

        applied: Loss = super()._apply(moved, recurse)
        return applied


class Formula(NamedTuple):
    """Parameters of the term for a set of classes, and the rules that change them from batch to batch."""

    positive: Side = Side()
    negative: Side = Side()
    weight: Weighting | None = None
    """Rule for the weights w; None is 1."""
    scale: float = 1.0
    """c, a plain factor."""
    guidance: Guidance | Steering | None = None
    """Adapts the sides to each batch, or to running means over the training."""
    focal_on: FocalOn = "regularized"
    """Argument of the focal factor, the regularised logit or the plain one."""
    correction: Correction | None = None
    """Relabels some negatives as positives in the term; weights and guidance keep the labels as given."""


class FormulaLoss(Loss):
    """A loss of the one term (see :mod:`tailwise.losses.formula`), for a set of classes.

    Args:
        stats: statistics of the training labels.
        formula: parameters of the term.
        reduction: as for :class:`Loss`.
        validate: as for :class:`Loss`.
        impl: as for :class:`Loss`.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        stats: LabelStats,
        formula: Formula,
        *,
        reduction: Reduction = "mean",
        validate: bool = True,
        impl: Implementation = "auto",
    ) -> None:
        super().__init__(stats, reduction=reduction, validate=validate, impl=impl)
        if formula.focal_on not in get_args(FocalOn):
            raise ValueError(f"focal_on must be 'regularized' or 'plain', got {formula.focal_on!r}")
        self.scale, self.focal_on = float(formula.scale), formula.focal_on
        self.weight, self.guidance, self.correction = formula.weight, formula.guidance, formula.correction
        self._fixed: dict[str, Side] = {}
        for name in _SIDES:
            side: Side = getattr(formula, name)
            for field, factor in zip(SIDE_FACTORS, side.factors, strict=True):
                if isinstance(factor, Tensor):
                    self.register_buffer(f"{name}_{field}", factor)
            self._fixed[name] = side.with_factors(0.0 if isinstance(f, Tensor) else float(f) for f in side.factors)

    def side(self, name: Literal["positive", "negative"]) -> Side:
        """Parameters of a side, before guidance."""
        side = self._fixed[name]
        if not self._buffers:
            return side
        names = [f"{name}_{field}" for field in SIDE_FACTORS]
        return side.with_factors(
            getattr(self, f) if f in self._buffers else v for f, v in zip(names, side.factors, strict=True)
        )

    def value(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
        transformed = is_transformed(logits)
        with torch.no_grad():
            backend = EAGER if transformed or torch.compiler.is_compiling() else choose(self.impl, logits)
            positive, negative = self.side("positive"), self.side("negative")
            if self.guidance is not None:
                sums = self.guidance.shared(backend.probability_sums(logits, targets, mask))
                positive, negative = self.guidance(sums, positive, negative)
            coefficients = self.coefficients(positive, negative, self.weigh(backend, targets, mask))
            if self.correction is not None:
                now = self.correction.observe(len(logits), sync=True)
                targets = self.correction(logits.detach(), dense_rows(targets, slice(None)), now)
        if transformed:
            return self._transformed(logits, targets, mask, coefficients)
        return self._reduced(backend, logits, targets, mask, coefficients)

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

    def coefficients(self, positive: Side, negative: Side, weight: PairWeight) -> Coefficients:
        """All parameters of the term, given the sides and weights of a batch."""
        return Coefficients(positive, negative, weight, self.scale, self.focal_on)

    def _reduced(
        self, backend: Backend, logits: Tensor, targets: Tensor, mask: Tensor | None, coefficients: Coefficients
    ) -> Tensor:
        """The reduced value, with its gradient."""
        wants_gradient = torch.is_grad_enabled() and logits.requires_grad
        divisor = divisor_in_advance(self.reduction, targets, mask)
        # In float16 a gradient divided by the number of pairs would underflow before a gradient scaler can prevent it.
        folds = divisor is not None and logits.dtype != torch.float16
        factor = 1 / divisor if divisor is not None and folds else 1.0
        wanted = Wanted(gradient=wants_gradient, values=self.reduction == "none", factor=factor)

        rest: Tensor | float = 1.0
        with torch.no_grad():
            evaluated = backend.evaluate(logits, targets, mask, coefficients, wanted)
        if evaluated.values is not None:
            value = evaluated.values
        else:
            inverse = _inverse(evaluated.known if divisor is None else divisor, evaluated.total.dtype)
            value, rest = evaluated.total * inverse, (1.0 if folds else inverse)
        if evaluated.gradient is None:
            return value
        closed = ClosedForm(
            rest,
            again=lambda z: backend.evaluate(z, targets, mask, coefficients, wanted).gradient,
            differentiable=lambda z: differentiable_term(z, targets, mask, coefficients)[1] * factor,
            scale=backend.scale_,
            labels=(targets, mask),
        )
        return attach(logits, value, evaluated.gradient, closed)

    def _transformed(self, logits: Tensor, targets: Tensor, mask: Tensor | None, coefficients: Coefficients) -> Tensor:
        """The reduced value by operations that torch transforms."""
        values, _ = differentiable_term(logits, targets, mask, coefficients)
        if self.reduction == "none":
            return values
        divisor: Tensor | int | None = divisor_in_advance(self.reduction, targets, mask)
        if divisor is None:
            known = known_pairs(dense_rows(targets, slice(None)), mask)
            assert known is not None
            divisor = known.sum()
        return values.sum() * _inverse(divisor, values.dtype)

    def extra_repr(self) -> str:
        changed = [
            f"{name}_{field}={value:g}"
            for name in _SIDES
            for field, value, usual in zip(SIDE_FACTORS, self._fixed[name].factors, Side().factors, strict=True)
            if value != usual and f"{name}_{field}" not in self._buffers
        ]
        return ", ".join(
            [f"classes={self.num_classes}", *changed, f"scale={self.scale:g}", f"reduction={self.reduction!r}"]
        )


def _inverse(whole: Tensor | int, dtype: torch.dtype) -> Tensor | float:
    """One over the number of known pairs, or over 1 where there is none."""
    return 1 / (whole.clamp(min=1).to(dtype) if isinstance(whole, Tensor) else max(whole, 1))


def divisor_in_advance(reduction: Reduction, targets: Tensor, mask: Tensor | None) -> int | None:
    """The divisor of the sum of the losses, or None for a mean over known pairs that have to be counted.

    ``"mean"`` divides by the number of known pairs, ``"batchmean"`` by the number of samples, ``"sum"`` and ``"none"``
    by nothing. A batch without a known pair gives 0.
    """
    if reduction == "batchmean":
        return max(targets.shape[0], 1)
    if reduction == "mean":
        known = known_in_advance(targets, mask)
        return None if known is None else max(known, 1)
    return 1
