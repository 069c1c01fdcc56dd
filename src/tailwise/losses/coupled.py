"""Losses that are not sums over labels: functions of all labels of a sample, or of a batch, by operations of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from tailwise.labels import LabelStats
from tailwise.losses.backends import Implementation
from tailwise.losses.backends.eager import in_full_precision
from tailwise.losses.batches import dense_rows, has_soft
from tailwise.losses.formula import known_pairs
from tailwise.losses.loss import REDUCTIONS, Loss, Reduction

Part: TypeAlias = tuple[Tensor, Tensor]
"""Losses of samples or of classes, and which of them count in a mean."""


class Coupled(NamedTuple):
    """A loss of whole samples."""

    function: Callable[[Tensor, Tensor, Tensor], tuple[Part, ...]]
    """Its parts, from (B, C) logits and the weights of each pair as a positive, y, and as a negative, 1 − y; both are 0
    where the label is unknown."""
    reductions: tuple[Reduction, ...] = REDUCTIONS
    takes_soft: bool = True
    """Whether targets between 0 and 1 have a meaning."""


class CoupledLoss(Loss):
    """A loss of whole samples. Its derivatives are autograd's; it takes the memory of several (B, C) tables.

    Args:
        stats: statistics of the training labels.
        coupled: the function, and what it takes.
        reduction: ``"mean"`` over the samples (and classes) that count, ``"sum"``, ``"batchmean"`` over all samples, or
            ``"none"`` for (B,) losses.
        validate: as for :class:`Loss`.
        impl: ``"auto"`` or ``"eager"``.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        stats: LabelStats,
        coupled: Coupled,
        *,
        reduction: Reduction = "mean",
        validate: bool = True,
        impl: Implementation = "auto",
    ) -> None:
        super().__init__(stats, reduction=reduction, validate=validate, impl=impl)
        if impl not in ("auto", "eager"):
            raise ValueError(f"impl must be 'auto' or 'eager' for a loss that is no sum over labels, got {impl!r}")
        if reduction not in coupled.reductions:
            raise ValueError(
                f"reduction must be one of {', '.join(coupled.reductions)} for this loss, got {reduction!r}"
            )
        self._coupled, self.reductions = coupled, coupled.reductions

    def value(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
        labels, z = dense_rows(targets, slice(None)), in_full_precision(logits)
        known, y = known_pairs(labels, mask), labels.to(z.dtype).clamp(max=1)
        rest = 1 - y
        if known is not None:
            z, y, rest = (table.masked_fill(~known, 0) for table in (z, y, rest))
        parts = [(values.masked_fill(~counts, 0), counts) for values, counts in self._coupled.function(z, y, rest)]
        if self.reduction == "none":
            return parts[0][0]
        divisors = {"mean": lambda counts: counts.sum().clamp(min=1), "batchmean": lambda counts: max(len(counts), 1)}
        divisor = divisors.get(self.reduction, lambda _: 1)
        return torch.stack([values.sum() / divisor(counts) for values, counts in parts]).sum()

    def check_first_batch(self, targets: Tensor) -> None:
        checks = self._validate_next and not self._coupled.takes_soft
        super().check_first_batch(targets)
        if checks and not self._validate_next and has_soft(targets):
            raise ValueError("targets must be 0, 1 or unknown (-1 or NaN) for this loss, which has no soft ones")

    def extra_repr(self) -> str:
        return f"classes={self.num_classes}, reduction={self.reduction!r}"


def two_way(z: Tensor, positive: Tensor, negative: Tensor, temperature: float) -> tuple[Part, ...]:
    """sp( log Σ_n eᶻⁿ + T log Σ_p e^(−z_p / T) ) of each sample, and the same of each class over the samples.

    n are negatives and p positives. Samples and classes without a positive do not count; without a negative the loss is
    0 (Kobayashi, "Two-way Multi-Label Loss", CVPR 2023).
    """
    parts = []
    for dim in (1, 0):
        low, has_negative = _log_sum(z, negative, dim)
        high, has_positive = _log_sum(-z / temperature, positive, dim)
        loss = functional.softplus(low + temperature * high)
        parts.append((loss.masked_fill(~has_negative, 0), has_positive))
    return tuple(parts)


def zlpr(z: Tensor, positive: Tensor, negative: Tensor) -> tuple[Part, ...]:
    """log(1 + Σ (1 − y) eᶻ) + log(1 + Σ y e⁻ᶻ) of each sample; one without known labels does not count.

    Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022; for soft targets, labels weigh the terms.
    """
    one = z.new_zeros(len(z), 1)
    low, high = (torch.cat([one, a], 1).logsumexp(1) for a in (z + negative.log(), positive.log() - z))
    return ((low + high, (positive + negative > 0).any(1)),)


def _log_sum(a: Tensor, weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """log Σ w eᵃ along a dimension, and where there is a weight; elsewhere it is finite."""
    has_weight = (weight > 0).any(dim)
    return torch.where(has_weight.unsqueeze(dim), a + weight.log(), 0.0).logsumexp(dim), has_weight
