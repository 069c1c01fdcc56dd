"""Comparisons from partial results: what a test leaves out of them has values that do not matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from tailwise.experiments.results import Comparison, MethodResult, RunScores, Scores
from tailwise.records import from_json

_DATA: dict[str, Any] = {
    "source": "labels.csv",
    "train_split": "train",
    "test_split": "test",
    "num_train": 10,
    "num_test": 20,
    "class_names": [],
    "class_counts": [],
    "test_counts": None,
    "groups": {},
}


def comparison_of(given: Mapping[str, Any]) -> Comparison:
    """The comparison that has this much of the content of results.json."""
    usual = {"mode": "probe", "folds": 0, "baseline": None, "shared": {}}
    return from_json(Comparison, usual | dict(given) | {"data": _DATA | dict(given["data"])})


def result_of(name: str, scores: Mapping[str, Sequence[float | None]]) -> MethodResult:
    """A method whose runs have this mAP by group; a group that is not given has none."""
    groups, num_runs = ("total", "head", "medium", "tail"), len(scores["total"])
    by_group = {group: scores.get(group, [None] * num_runs) for group in groups}
    known = {group: [value for value in values if value is not None] for group, values in by_group.items()}
    runs = (RunScores(seed, {group: values[seed] for group, values in by_group.items()}) for seed in range(num_runs))
    test = Scores(
        means={group: fmean(values) if values else None for group, values in known.items()},
        deviations={group: stdev(values) if len(values) > 1 else None for group, values in known.items()},
        runs=tuple(runs),
    )
    return MethodResult(name, test=test)
