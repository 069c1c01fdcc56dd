"""Predictions as a page can hold them: precision-recall points of a class, F1 over thresholds, training curves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tailwise.metrics.decisions import f1_of_counts

NUM_THRESHOLDS = 201
"""Thresholds of a sweep: the probabilities 0, .005, ..., 1."""


class PrecisionRecall(NamedTuple):
    """Points of a precision-recall curve by falling threshold: recall hits / positives, precision hits / predicted."""

    hits: NDArray[np.int64]
    """(n,) positives at or above the threshold."""
    predicted: NDArray[np.int64]
    """(n,) samples at or above the threshold."""


def precision_recall(scores: NDArray[np.floating], targets: NDArray[np.integer], most: int) -> PrecisionRecall:
    """The points of a class at which recall rises, which average precision is the mean over.

    Args:
        scores: (N,) scores of the class.
        targets: (N,) labels of the class: 1, 0, or -1 for unknown, which is left out.
        most: keep no more points than these, spread evenly, first and last included.

    Returns:
        The points; none without a positive or a known negative, as average precision is undefined then.
    """
    if not (targets == 0).any():
        targets = np.minimum(targets, 0)
    known = np.sort(scores[targets >= 0])
    positive = np.sort(scores[targets == 1])
    levels = np.unique(positive)[::-1]
    if len(levels) > most:
        levels = levels[np.linspace(0, len(levels) - 1, most).round().astype(int)]
    return PrecisionRecall(
        len(positive) - np.searchsorted(positive, levels), len(known) - np.searchsorted(known, levels)
    )


def sweep_thresholds(
    logits: NDArray[np.float32], targets: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """CF1 and OF1 at one probability threshold for all classes, for each of the thresholds.

    Args:
        logits: (N, K) raw scores.
        targets: (N, K) labels: 1, 0, or -1 for unknown.

    Returns:
        (T,) values in [0, 1] as :func:`tailwise.metrics.f1_scores` computes them with the logit of each threshold,
        NaN where they are undefined.
    """
    bounds = threshold_logits()
    num_classes = logits.shape[1]
    # How many of the rising thresholds a score reaches: counts of these, added from the highest, are the predictions.
    reached = np.searchsorted(bounds, logits, side="right")
    cell = reached + np.arange(num_classes) * (NUM_THRESHOLDS + 1)

    def at_each_threshold(chosen: NDArray[np.bool_]) -> torch.Tensor:
        counts = np.bincount(cell[chosen], minlength=num_classes * (NUM_THRESHOLDS + 1))
        counts = counts.reshape(num_classes, NUM_THRESHOLDS + 1)[:, :0:-1].cumsum(axis=1)[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(counts.T))

    cf1, of1 = f1_of_counts(
        at_each_threshold(targets == 1),
        at_each_threshold(targets >= 0),
        torch.from_numpy((targets == 1).sum(axis=0)),
        torch.from_numpy((targets == 0).sum(axis=0)),
    )
    return cf1.numpy(), of1.numpy()


def threshold_logits() -> NDArray[np.float32]:
    """The logits of the thresholds of a sweep, from -inf to inf."""
    probabilities = np.linspace(0, 1, NUM_THRESHOLDS)
    with np.errstate(divide="ignore"):
        return (np.log(probabilities) - np.log1p(-probabilities)).astype(np.float32)
