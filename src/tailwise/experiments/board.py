"""Scores of methods on one set of images: means, deviations, intervals and paired differences, in percent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from tailwise.metrics import average_precision, group_means
from tailwise.metrics.bootstrap import Replicates, Resamples, interval, replicate
from tailwise.metrics.groups import TOTAL

_DECIMALS = 6


@dataclass(frozen=True, eq=False)
class Judged:
    """What the runs of a method score.

    Attributes:
        groups: mAP of each run by group, as fractions; NaN where it is undefined.
        classes: (S, K) average precision of each run, as fractions.
        replicates: the same for resampled images and runs.
    """

    groups: Mapping[str, Sequence[float]]
    classes: NDArray[np.float64]
    replicates: Replicates

    def mean(self, group: str) -> float:
        """Mean over the runs."""
        return fmean(self.groups[group])

    @property
    def means(self) -> dict[str, float | None]:
        """Mean over the runs, by group, in percent."""
        return {group: percent(self.mean(group)) for group in self.groups}

    @property
    def deviations(self) -> dict[str, float | None]:
        """Standard deviation over the runs, by group; None of one run."""
        return {
            group: percent(stdev(values)) if len(values) > 1 and not math.isnan(values[0]) else None
            for group, values in self.groups.items()
        }

    @property
    def class_means(self) -> list[float | None]:
        """Average precision of each class, mean over the runs, in percent."""
        return [percent(value) for value in self.classes.mean(axis=0)]


class Board:
    """Methods compared on the same images.

    Args:
        targets: (N, K) labels: 1, 0, or -1 for unknown.
        groups: class indices by group.
        num_runs: S, the number of runs of each method.
        replicates: number of bootstrap replicates, the same for all methods.
        level: probability that intervals are made for.

    Attributes:
        methods: what has been added, by name.
    """

    def __init__(
        self,
        targets: NDArray[np.int8],
        groups: Mapping[str, NDArray[np.intp]],
        *,
        num_runs: int,
        replicates: int,
        level: float,
    ) -> None:
        self.targets = targets
        self.groups = groups
        self.level = level
        self.methods: dict[str, Judged] = {}
        self._resamples = Resamples.draw(len(targets), num_runs, replicates)

    def add(self, name: str, logits: Sequence[NDArray[np.float32]]) -> None:
        """Score the (N, K) logits of each run of a method."""
        classes = np.stack([average_precision(run, self.targets).numpy() for run in logits])
        by_run = [group_means(values, self.groups) for values in classes]
        groups = {group: [means[group] for means in by_run] for group in by_run[0]}
        self.methods[name] = Judged(groups, classes, replicate(logits, self.targets, self._resamples, self.groups))

    @property
    def best(self) -> str | None:
        """The method with the highest mean mAP over all classes, the first of several; None where none is defined."""
        scores = {name: judged.mean(TOTAL) for name, judged in self.methods.items()}
        defined = [name for name, score in scores.items() if not math.isnan(score)]
        return max(defined, key=scores.__getitem__, default=None)

    def class_intervals(self, name: str) -> tuple[list[float | None], list[float | None]]:
        """Lower and upper ends of the intervals of a method's classes, in percent."""
        ends = [interval(values, self.level) for values in self.methods[name].replicates.classes.T]
        return [percent(low) for low, _ in ends], [percent(high) for _, high in ends]

    def difference(self, name: str, other: str | None) -> dict[str, dict[str, float | None]] | None:
        """How much better a method is than another, by group: the difference of mAP and its interval, in percent."""
        if other is None:
            return None
        one, two = self.methods[name], self.methods[other]
        result = {}
        for group in one.groups:
            low, high = interval(one.replicates.groups[group] - two.replicates.groups[group], self.level)
            result[group] = {
                "difference": percent(one.mean(group) - two.mean(group)),
                "low": percent(low),
                "high": percent(high),
            }
        return result


def percent(fraction: float) -> float | None:
    """A fraction in percent as JSON holds it: None for NaN."""
    # Adding 0 makes -0 a plain 0.
    return None if math.isnan(fraction) else round(100 * float(fraction), _DECIMALS) + 0.0
