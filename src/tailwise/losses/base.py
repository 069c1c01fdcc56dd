"""The module behind every named loss: weights, two sides and guidance, put through the one term."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from tailwise.labels import LabelStats
from tailwise.losses.autograd import attach
from tailwise.losses.eager import Eager
from tailwise.losses.guidance import Guidance, add_over_processes
from tailwise.losses.implementation import (
    IMPLEMENTATIONS,
    Backend,
    Implementation,
    choose,
    known_in_advance,
)
from tailwise.losses.steering import Steering
from tailwise.losses.targets import is_sparse, sparse_row_sums
from tailwise.losses.term import Coefficients, Factor, FocalOn, PairWeight, Side
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
            ValueError: shapes disagree, or (first batch, unless ``validate=False``) targets are out of range.
        """
        self._check_shapes(logits, targets, mask)
        self.check_first_batch(targets)
        device = logits.device.type
        # Autocast would run the small products of weights and statistics in half precision.
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else _NOTHING:
            with torch.no_grad():
                backend = EAGER if torch.compiler.is_compiling() else choose(self.impl, logits)
                coefficients = self._coefficients(backend, logits, targets, mask)
            return self._reduced(backend, logits, targets, mask, coefficients)

    def check_first_batch(self, targets: Tensor) -> None:
        """Raise ValueError if targets are out of range: of the first batch, where the loss is to check it."""
        if self._validate_next and not torch.compiler.is_compiling():
            check_targets(targets)
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

        rest: Tensor | float = 1.0
        evaluate = partial(
            backend.evaluate,
            logits,
            targets,
            mask,
            coefficients,
            gradient=wants_gradient,
            values=wants_values,
            factor=factor,
        )
        with torch.no_grad():
            evaluated = evaluate()
        if evaluated.values is not None:
            value = evaluated.values
        else:
            whole = evaluated.known if divisor is None else divisor
            inverse = 1 / (whole.clamp(min=1) if isinstance(whole, Tensor) else max(whole, 1))
            value, rest = evaluated.total * inverse, (1.0 if folds else inverse)
        if evaluated.gradient is None:
            return value
        return attach(logits, value, evaluated.gradient, rest, evaluate, backend.scale_)

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

    def _check_shapes(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> None:
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(f"logits must be (batch, {self.num_classes}), got {tuple(logits.shape)}")
        if not logits.is_floating_point():
            raise ValueError(f"logits must be floating point, got {logits.dtype}")
        if targets.shape != logits.shape:
            raise ValueError(
                f"targets must have the shape of the logits {tuple(logits.shape)}, got {tuple(targets.shape)}"
            )
        if mask is not None and (mask.shape != logits.shape or mask.dtype != torch.bool):
            raise ValueError(
                f"mask must be boolean with the shape of the logits {tuple(logits.shape)}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )


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


def check_targets(targets: Tensor) -> None:
    """Raise ValueError unless every target is in [0, 1] or unknown, and whole if its type is."""
    if is_sparse(targets):
        targets = targets.values()
    if targets.dtype == torch.bool:
        return
    allowed = ((targets >= 0) & (targets <= 1)) | (targets == -1) | (targets != targets)
    if not bool(allowed.all()):
        wrong = targets[~allowed][0].item()
        raise ValueError(f"targets must be 0, 1, soft in [0, 1], or unknown (-1 or NaN); found {wrong}")


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
