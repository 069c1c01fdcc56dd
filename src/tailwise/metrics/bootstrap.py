"""Bootstrap confidence intervals over test images and seeds, paired between methods.

Each replicate draws as many images as there are, with replacement, and as many seeds: the same for all methods, so
that variation common to the methods cancels in their differences (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapters 8 and 13). Average precision is computed exactly for every replicate, with the number of
times that an image was drawn as its weight. A class without a positive or without a known negative among the drawn
images is left out of the mean of that replicate, for all methods.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.metrics.groups import TOTAL
from tailwise.metrics.ranking_loops import weighted_precision

# Weights of this many replicates and a few thousand images fit a core's cache.
_REPLICATES_AT_ONCE = 256
_STREAM_IMAGES, _STREAM_SEEDS = 0, 1


@dataclass(frozen=True, eq=False)
class Resamples:
    """Images and seeds drawn by each of B replicates.

    Attributes:
        images: (N, B) number of times that each image is drawn.
        seeds: (B, S) numbers of the runs that are drawn.
    """

    images: NDArray[np.uint16]
    seeds: NDArray[np.int64]

    @classmethod
    def draw(cls, num_images: int, num_seeds: int, replicates: int, *, seed: int = 0) -> Resamples:
        """Draw replicates, each of as many images and seeds as there are.

        The draws are a pure function of the arguments: more replicates begin with the fewer ones.

        Args:
            num_images: N, at least 1.
            num_seeds: S, at least 1.
            replicates: B, at least 1.
            seed: of all draws.

        Raises:
            ValueError: a number is below 1.
        """
        if min(num_images, num_seeds, replicates) < 1:
            raise ValueError(
                f"images, seeds and replicates must be 1 at least, got {num_images}, {num_seeds} and {replicates}"
            )
        images = np.empty((num_images, replicates), dtype=np.uint16)
        seeds = np.empty((replicates, num_seeds), dtype=np.int64)
        for b in range(replicates):
            drawn = _uniform(num_images, seed, b, _STREAM_IMAGES)
            images[:, b] = np.bincount(drawn, minlength=num_images)
            seeds[b] = _uniform(num_seeds, seed, b, _STREAM_SEEDS)
        return cls(images, seeds)


def _uniform(below: int, *entropy: int) -> NDArray[np.int64]:
    """``below`` integers from 0 to ``below`` - 1, from doubles of PCG64, whose stream NumPy guarantees."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
    return (generator.random(below) * below).astype(np.int64)


def weighted_average_precision(
    scores: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Average precision of every class for each column of weights.

    Equal to scikit-learn's ``average_precision_score`` with ``sample_weight``, of the rows whose label is known.

    Args:
        scores: (N, K) finite numbers, higher means more likely.
        targets: (N, K) labels: 1, 0, or -1 for unknown, which is not counted in its class.
        weights: (N, B) whole numbers, not negative.

    Returns:
        (B, K) values in (0, 1]; NaN where no positive or no negative has a weight.

    Raises:
        ValueError: shapes disagree, or a score is not finite.
    """
    if scores.ndim != 2 or scores.shape != targets.shape or weights.ndim != 2 or len(weights) != len(scores):
        raise ValueError(
            f"scores and targets must be (N, K) and weights (N, B), got {scores.shape}, {targets.shape}, "
            f"{weights.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite numbers to be ranked")
    result = np.empty((scores.shape[1], weights.shape[1]), dtype=np.float64)
    rankings = [_ranking(scores[:, k], targets[:, k]) for k in range(scores.shape[1])]
    for start in range(0, weights.shape[1], _REPLICATES_AT_ONCE):
        block = slice(start, start + _REPLICATES_AT_ONCE)
        columns = np.ascontiguousarray(weights[:, block])
        for k, ranking in enumerate(rankings):
            weighted_precision(*ranking, columns, result[k, block])
    return result.T


def _ranking(
    scores: NDArray[Any], targets: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Known rows by falling score; whether the next score differs; and which are positive."""
    known = np.flatnonzero(targets >= 0)
    order = known[np.argsort(-scores[known], kind="stable")]
    ranked = scores[order]
    return order, np.append(ranked[1:] != ranked[:-1], True)[: len(order)], targets[order] == 1


@dataclass(frozen=True, eq=False)
class Replicates:
    """Scores of the replicates of one method, as fractions.

    Attributes:
        classes: (B, K) average precision of each class, the mean over the seeds drawn; NaN where it is undefined.
        groups: (B,) mean of the classes of each group, of "total" first; NaN where it is undefined.
    """

    classes: NDArray[np.float64]
    groups: Mapping[str, NDArray[np.float64]]


def replicate(
    logits: Sequence[NDArray[Any]],
    targets: NDArray[Any],
    resamples: Resamples,
    groups: Mapping[str, NDArray[np.intp]],
    *,
    threads: int | None = None,
) -> Replicates:
    """Score one method on every replicate.

    Args:
        logits: (N, K) logits of each of its S runs, or of the only one of a method without seeds.
        targets: (N, K) labels: 1, 0, or -1 for unknown.
        resamples: draws of the replicates; the same for methods that are compared.
        groups: class indices by group.
        threads: runs at a time, by default as many as the machine has cores; it does not change the result.

    Raises:
        ValueError: the numbers of runs or images are not those of the resamples.
    """
    if len(logits) not in (1, resamples.seeds.shape[1]):
        raise ValueError(f"{len(logits)} runs, and resamples of {resamples.seeds.shape[1]}")
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        score = partial(weighted_average_precision, targets=targets, weights=resamples.images)
        by_run = np.stack(list(pool.map(score, logits)))
    rows = np.arange(len(resamples.seeds))
    drawn_runs = resamples.seeds.T if len(logits) > 1 else np.zeros((1, len(rows)), dtype=np.intp)
    classes = np.mean([by_run[drawn, rows] for drawn in drawn_runs], axis=0)
    members = {TOTAL: np.arange(classes.shape[1]), **groups}
    return Replicates(classes, {name: _mean_of_defined(classes[:, index]) for name, index in members.items()})


def interval(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Percentile interval of replicates, ignoring NaN; NaN if all are.

    Args:
        values: (B,) replicates.
        level: share of the replicates inside, in (0, 1).

    Example:
        >>> interval(np.arange(101.0), 0.5)
        (25.0, 75.0)
    """
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mean_of_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row, ignoring NaN; NaN if all are."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    total = np.where(defined, values, 0).sum(axis=1)
    result = np.full(len(values), np.nan)
    np.divide(total, count, out=result, where=count > 0)
    return result
