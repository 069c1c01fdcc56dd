"""F1 of thresholded predictions: per class and overall."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.metrics.inputs import scores_and_targets
from tailwise.shapes import Float, Int


class F1Scores(NamedTuple):
    """The two F1 values that multi-label papers report."""

    cf1: float
    """Per-class F1: harmonic mean of the mean precision and the mean recall of the classes."""
    of1: float
    """Overall F1: from the counts of all labels together (micro-averaged)."""


def f1_scores(
    logits: Tensor | NDArray[Any],
    targets: Tensor | NDArray[Any],
    thresholds: float | Tensor | NDArray[Any] = 0.0,
) -> F1Scores:
    r"""CF1 and OF1 of the predictions ``logits >= thresholds``.

    With true positives :math:`TP_k`, predicted positives :math:`M_k` and known positives :math:`n_k` of class
    :math:`k` (Wang et al., "CNN-RNN: A Unified Framework for Multi-label Image Classification", CVPR 2016):

    .. math::
        CP = \operatorname{mean}_k \frac{TP_k}{M_k}, \quad CR = \operatorname{mean}_k \frac{TP_k}{n_k}, \quad
        CF1 = \frac{2\, CP \cdot CR}{CP + CR}, \quad
        OF1 = \frac{2 \sum_k TP_k}{\sum_k M_k + \sum_k n_k}

    CF1 is not the mean of the classes' F1 values (:func:`f1_by_class`). The precision of a class that is never
    predicted is 0. A class without a known positive is left out of CP and CR, as it is left out of mAP; its false
    positives still count in OF1. A class without a known negative, of which no prediction could be wrong, is left out
    of all three.

    Args:
        logits: (N, K) raw scores.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point); unknown labels are not counted.
        thresholds: one threshold, or (K,) one per class, on the scale of ``logits``: logit 0 is probability .5.

    Returns:
        Both values, in [0, 1]; ``cf1`` is NaN where no class has both a positive and a known negative, ``of1`` where
        the classes with a known negative have neither a positive nor a prediction.

    Raises:
        ValueError: the shapes disagree, a logit is NaN, or a target is none of 1, 0 and unknown.
    """
    counts = _count(logits, targets, thresholds)
    cf1, of1 = f1_of_counts(*counts)
    return F1Scores(float(cf1), float(of1))


def f1_by_class(
    logits: Tensor | NDArray[Any],
    targets: Tensor | NDArray[Any],
    thresholds: float | Tensor | NDArray[Any] = 0.0,
) -> Float[Tensor, " K"]:
    r"""F1 of each class, :math:`2\,TP_k / (M_k + n_k)`, of the predictions ``logits >= thresholds``.

    Args:
        logits: as in :func:`f1_scores`.
        targets: as in :func:`f1_scores`.
        thresholds: as in :func:`f1_scores`.

    Returns:
        (K,) float64 values in [0, 1], NaN for a class without a known positive or without a known negative.

    Raises:
        ValueError: as :func:`f1_scores`.
    """
    counts = _count(logits, targets, thresholds)
    f1 = 2 * counts.hits.double() / (counts.predicted + counts.positive)
    return f1.masked_fill((counts.positive == 0) | (counts.negative == 0), torch.nan)


def f1_of_counts(
    hits: Int[Tensor, "*T K"],
    num_predicted: Int[Tensor, "*T K"],
    num_positive: Int[Tensor, " K"],
    num_negative: Int[Tensor, " K"],
) -> tuple[Float[Tensor, "*T"], Float[Tensor, "*T"]]:
    """CF1 and OF1 of counts per class, as :func:`f1_scores` defines them; for one set of thresholds or for many.

    Args:
        hits: true positives.
        num_predicted: predicted positives.
        num_positive: known positives.
        num_negative: known negatives.

    Returns:
        CF1 and OF1, float64.
    """
    hits = hits.double()
    can_fail = num_negative > 0
    scored = can_fail & (num_positive > 0)
    precision = (hits / num_predicted.clamp(min=1))[..., scored].mean(dim=-1)
    recall = (hits / num_positive)[..., scored].mean(dim=-1)
    # No hit at all makes both means 0, and their harmonic mean 0 as well.
    cf1 = torch.where(precision == 0, precision, 2 * precision * recall / (precision + recall))
    hits, num_predicted, num_positive = hits[..., can_fail], num_predicted[..., can_fail], num_positive[can_fail]
    of1 = 2 * hits.sum(dim=-1) / (num_predicted.sum(dim=-1) + num_positive.sum())
    return cf1, of1


class _Counts(NamedTuple):
    """Counts of each class among its known labels."""

    hits: Int[Tensor, " K"]
    predicted: Int[Tensor, " K"]
    positive: Int[Tensor, " K"]
    negative: Int[Tensor, " K"]


def _count(
    logits: Tensor | NDArray[Any], targets: Tensor | NDArray[Any], thresholds: float | Tensor | NDArray[Any]
) -> _Counts:
    s, t = scores_and_targets(logits, targets)
    bounds = torch.as_tensor(thresholds, device=s.device)
    if bounds.ndim > 1 or (bounds.ndim == 1 and len(bounds) != s.shape[1]):
        raise ValueError(
            f"thresholds must be one number or one for each of the {s.shape[1]} classes, got {tuple(bounds.shape)}"
        )
    predicted = (s >= bounds) & (t >= 0)
    positive = t == 1
    return _Counts((predicted & positive).sum(dim=0), predicted.sum(dim=0), positive.sum(dim=0), (t == 0).sum(dim=0))
