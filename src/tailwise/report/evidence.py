"""What a results page computes from predictions and labels, which it reads again, and what it could not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tailwise.data.dataset import Dataset
from tailwise.errors import InputError
from tailwise.experiments.board import percent
from tailwise.matrix import count_negatives, count_positives
from tailwise.metrics.bootstrap import Resamples, interval, replicate
from tailwise.report.class_curves import PrecisionRecall, precision_recall, sweep_thresholds
from tailwise.report.mistakes import ClassMistakes, Predictions, find_mistakes, read_test_rows
from tailwise.report.results import MethodResults, Results

# Together they make a page of a few megabytes.
_MOST_POINTS = 300_000
_MOST_POINTS_OF_A_CURVE = 200
_FEWEST_POINTS_OF_A_CURVE = 20

# Of the bootstrap for what has no intervals yet, as in a comparison.
REPLICATES, LEVEL = 1000, 0.95
_MOST_INTERVALS = 300

_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Evidence:
    """What predictions show beyond the scores.

    Attributes:
        sweeps: (T,) CF1 and OF1 over thresholds by method, means over its runs.
        points: precision-recall points of every class by method, of its first run; none where no class has any.
        positives: K positives of each class in the test split; None without labels.
        known: K images whose label is known.
        intervals: of a single run, whose results have none: "AP_low" and "AP_high" by method, K percentages each.
        mistakes: the worst mistakes on tail classes.
        mistaken: the method whose first run made them.
        missing: what could not be read, and why, as sentences.
        left_out: names of methods without precision-recall curves because there would be too many.
    """

    sweeps: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    points: dict[str, list[PrecisionRecall]] = field(default_factory=dict)
    positives: NDArray[np.int64] | None = None
    known: NDArray[np.int64] | None = None
    intervals: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    mistakes: list[ClassMistakes] = field(default_factory=list)
    mistaken: str = ""
    missing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def gather(results: Results, methods: Sequence[MethodResults]) -> Evidence:
    """Read labels and predictions, and compute what the page shows of them.

    Args:
        results: whose data to read.
        methods: the methods with scores, the most important first: its mistakes are shown, and curves are kept in this
            order as long as there is room.
    """
    found = Evidence()
    if not results.is_tested:
        found.missing.append(
            "The run was tested on nothing (test_split none), so there are no test scores, curves of classes or "
            "mistakes. The command below tests it on other data."
        )
        return found
    data = _read_again(results, methods, found)
    if data is not None:
        _judge(found, data, results, methods)
    for sentence in found.missing:
        _logger.warning("%s", sentence)
    return found


def _read_again(results: Results, methods: Sequence[MethodResults], found: Evidence) -> Dataset | None:
    """The test split; None, with the reason among what is missing, where it cannot be read."""
    config = next((method.config for method in methods if method.config is not None), None)
    if config is None:
        found.missing.append("The folder holds no finished runs, only their results.")
        return None
    try:
        return read_test_rows(config, results.stats.class_names, is_of_all_rows=results.is_of_all_rows)
    except InputError as error:
        found.missing.append(f"The labels of the test split cannot be read again: {error}.")
        return None


def _judge(found: Evidence, data: Dataset, results: Results, methods: Sequence[MethodResults]) -> None:
    """Add what the predictions of the methods show."""
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


def _add_sweep(found: Evidence, data: Dataset, method: MethodResults) -> Predictions:
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


def _intervals(predicted: Predictions) -> dict[str, list[float | None]]:
    """Bootstrap intervals of the classes' average precision over test images."""
    resamples = Resamples.draw(len(predicted.rows), 1, REPLICATES)
    replicates = replicate([predicted.logits], predicted.targets, resamples, {})
    ends = [interval(values, LEVEL) for values in replicates.classes.T]
    return {"AP_low": [percent(low) for low, _ in ends], "AP_high": [percent(high) for _, high in ends]}


def _room(positives: NDArray[np.int64], num_methods: int) -> tuple[int, int]:
    """For how many methods there is room for precision-recall curves, and of how many points each."""

    def needed(most: int) -> int:
        return max(1, int(np.minimum(positives, most).sum()))

    for most in range(_MOST_POINTS_OF_A_CURVE, _FEWEST_POINTS_OF_A_CURVE - 1, -10):
        if needed(most) * num_methods <= _MOST_POINTS:
            return num_methods, most
    return max(1, _MOST_POINTS // needed(_FEWEST_POINTS_OF_A_CURVE)), _FEWEST_POINTS_OF_A_CURVE
