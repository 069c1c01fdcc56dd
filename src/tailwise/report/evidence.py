"""Curves, intervals, mistakes and label suspects of a results page, from predictions and labels read again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tailwise.data.dataset import Dataset
from tailwise.errors import InputError
from tailwise.experiments.results import Bootstrap, Comparison, MethodResult
from tailwise.experiments.scoring import class_intervals
from tailwise.matrix import count_negatives, count_positives
from tailwise.metrics.bootstrap import Resamples, replicate
from tailwise.metrics.decisions import f1_of_counts
from tailwise.report.mistakes import ClassMistakes, Predictions, find_mistakes, read_test_rows
from tailwise.report.suspect_labels import SuspectLabels, read_suspect_labels

# They keep a page below a few megabytes.
_MOST_POINTS = 300_000
_MOST_POINTS_OF_A_CURVE = 200
_FEWEST_POINTS_OF_A_CURVE = 20

BOOTSTRAP = Bootstrap(1000, 0.95)
"""The bootstrap for results without intervals, the same as in a comparison."""

NUM_THRESHOLDS = 201
"""Thresholds of a sweep: the probabilities 0, .005, ..., 1."""

_MOST_INTERVALS = 300

_logger = logging.getLogger(__name__)


class PrecisionRecall(NamedTuple):
    """Points of a precision-recall curve by falling threshold: recall hits / positives, precision hits / predicted."""

    hits: NDArray[np.int64]
    """(n,) positives at or above the threshold."""
    predicted: NDArray[np.int64]
    """(n,) samples at or above the threshold."""


@dataclass(eq=False)
class Evidence:
    """Results computed from predictions, beyond the scores.

    Attributes:
        sweeps: (T,) CF1 and OF1 over thresholds by method, means over its runs.
        points: precision-recall points of every class by method, of its first run; none where no class has any.
        positives: K positives of each class in the test split; None without labels.
        known: K images whose label is known.
        intervals: of a single run, whose results have none: "AP_low" and "AP_high" by method, K percentages each.
        mistakes: the worst mistakes on tail classes.
        mistaken: the method whose first run made them.
        suspects: labels of training images that held-out predictions contradict; None where none were looked for.
        missing: sentences on files that could not be read, and why.
        left_out: names of methods without precision-recall curves because there would be too many.
    """

    sweeps: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    points: dict[str, list[PrecisionRecall]] = field(default_factory=dict)
    positives: NDArray[np.int64] | None = None
    known: NDArray[np.int64] | None = None
    intervals: dict[str, dict[str, tuple[float | None, ...]]] = field(default_factory=dict)
    mistakes: list[ClassMistakes] = field(default_factory=list)
    mistaken: str = ""
    suspects: SuspectLabels | None = None
    missing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def gather(results: Comparison, methods: Sequence[MethodResult]) -> Evidence:
    """Read labels and predictions, and compute curves, intervals and mistakes.

    Args:
        results: results whose data are read.
        methods: the methods with scores, the most important first: its mistakes are shown, and curves are kept in this
            order as long as there is room.
    """
    found = Evidence()
    if results.folder is not None:
        _add_suspects(found, results, results.folder)
    if results.data.test_split is None:
        found.missing.append(
            "The run was not tested (test_split none), so there are no test scores, curves of classes or "
            "mistakes. The command below tests it on other data."
        )
        return found
    data = _read_again(results, methods, found)
    if data is not None:
        _judge(found, data, results, methods)
    for sentence in found.missing:
        _logger.warning("%s", sentence)
    return found


def _add_suspects(found: Evidence, results: Comparison, folder: Path) -> None:
    """Add the label suspects in the folder, if it has any."""
    config = next((method.config for method in results.methods if method.config is not None), None)
    try:
        found.suspects = read_suspect_labels(folder, config, results.stats)
    except InputError as error:
        found.missing.append(f"{error}.")
        return
    if found.suspects is not None and found.suspects.problem:
        found.missing.append(found.suspects.problem)


def _read_again(results: Comparison, methods: Sequence[MethodResult], found: Evidence) -> Dataset | None:
    """The test split; None if it cannot be read, with the reason among the sentences on missing files."""
    config = next((method.config for method in methods if method.config is not None), None)
    if config is None:
        found.missing.append("The folder holds no finished runs, only their results.")
        return None
    try:
        return read_test_rows(config, results.stats.class_names, is_of_all_rows=results.is_of_all_rows)
    except InputError as error:
        found.missing.append(f"The labels of the test split cannot be read again: {error}.")
        return None


def _judge(found: Evidence, data: Dataset, results: Comparison, methods: Sequence[MethodResult]) -> None:
    """Add curves, intervals and mistakes of the methods."""
    found.positives = count_positives(data.targets)
    found.known = found.positives + count_negatives(data.targets)
    found.mistaken = methods[0].name
    keeps, most = _room(found.positives, len(methods))
    for place, method in enumerate(methods):
        try:
            first = _add_sweep(found, data, method)
        except InputError as error:
            found.missing.append(f"The predictions of {method.name} cannot be used: {error}.")
            continue
        if place < keeps:
            columns = zip(first.logits.T, first.targets.T, strict=True)
            curves = [precision_recall(scores, labels, most) for scores, labels in columns]
            if any(len(curve.hits) for curve in curves):
                found.points[method.name] = curves
        else:
            found.left_out.append(method.name)
        if not results.is_comparison and results.stats.num_classes <= _MOST_INTERVALS:
            found.intervals[method.name] = _intervals(first)
        if place == 0:
            found.mistakes = find_mistakes(data, first, results.stats)


def _add_sweep(found: Evidence, data: Dataset, method: MethodResult) -> Predictions:
    """Add a method's mean CF1 and OF1 over thresholds; returns the predictions of its first run."""
    if not method.folders:
        raise InputError("there is no finished run of it in the folder")
    first: Predictions | None = None
    sweeps = []
    for folder in method.folders:
        predicted = Predictions.of(folder, data)
        sweeps.append(sweep_thresholds(predicted.logits, predicted.targets))
        first = first or predicted
    assert first is not None
    cf1, of1 = np.mean(sweeps, axis=0)
    found.sweeps[method.name] = (cf1, of1)
    return first


def _intervals(predicted: Predictions) -> dict[str, tuple[float | None, ...]]:
    """Bootstrap intervals of the classes' average precision over test images."""
    resamples = Resamples.draw(len(predicted.rows), 1, BOOTSTRAP.replicates)
    replicates = replicate([predicted.logits], predicted.targets, resamples, {})
    return dict(zip(("AP_low", "AP_high"), class_intervals(replicates, BOOTSTRAP.level), strict=True))


def _room(positives: NDArray[np.int64], num_methods: int) -> tuple[int, int]:
    """For how many methods there is room for precision-recall curves, and of how many points each."""

    def needed(most: int) -> int:
        return max(1, int(np.minimum(positives, most).sum()))

    for most in range(_MOST_POINTS_OF_A_CURVE, _FEWEST_POINTS_OF_A_CURVE - 1, -10):
        if needed(most) * num_methods <= _MOST_POINTS:
            return num_methods, most
    return max(1, _MOST_POINTS // needed(_FEWEST_POINTS_OF_A_CURVE)), _FEWEST_POINTS_OF_A_CURVE


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
