"""The search for a method's own options, on held-out folds of the training split."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.data.dataset import Dataset
from tailwise.experiments.executors import Run, failure_of
from tailwise.experiments.plan import Plan, candidates
from tailwise.experiments.scoring import Chosen, percent, portable
from tailwise.labels import IndexArray, LabelStats
from tailwise.matrix import to_dense
from tailwise.metrics import average_precision, group_means
from tailwise.metrics.groups import TOTAL
from tailwise.training.config import save
from tailwise.training.folder import CONFIG_FILE, VALIDATION_FILE, read_logits, write_json

SEARCH_FILE = "search.json"


def settle(plan: Plan, train: Dataset, do: Callable[[Sequence[Sequence[Run]]], None]) -> list[Chosen]:
    """Settle the options of every method: those of its search that do best on the folds, if there is a search.

    Best is the highest mAP of the predictions for all held-out images together; the first of several, so that a method
    keeps its own options where no mAP is defined. All scores go into search.json. Runs with the options chosen become
    the method's fold runs.

    Args:
        plan: the comparison.
        train: the images of the training split that could be read.
        do: executes runs, given by method.
    """
    searched = [method for method in plan.methods if plan.search and method.search]
    do([list(chain(*plan.search_runs(method))) for method in searched])
    settled = {method.name: Chosen(method) for method in plan.methods}
    if not searched:
        return list(settled.values())
    targets = to_dense(train.targets)
    groups = LabelStats.from_targets(targets, train.class_names, plan.shared.thresholds).groups
    record: dict[str, Any] = {"folds": plan.folds, "methods": {}}
    for method in searched:
        scores = [_score(runs, train, targets, groups) for runs in plan.search_runs(method)]
        totals = [_total(score) for score in scores]
        index = totals.index(max(totals))
        tried = [{}, *method.search]
        chosen = Chosen(candidates(method)[index], tried[index])
        settled[method.name] = chosen
        record["methods"][method.name] = [
            {"options": portable(options), **score} for options, score in zip(tried, scores, strict=True)
        ]
        for source, target in zip(plan.search_runs(method)[index], plan.fold_runs(chosen.method), strict=True):
            _keep(source, target)
    write_json(plan.folder / SEARCH_FILE, record)
    return list(settled.values())


def _total(score: Mapping[str, Any]) -> float:
    """The criterion of a search: mAP over all classes; below every score where there is none."""
    total: float | None = None if score["mAP"] is None else score["mAP"][TOTAL]
    return -1.0 if total is None else total


def _score(
    runs: list[Run], train: Dataset, targets: NDArray[np.int8], groups: Mapping[str, IndexArray]
) -> dict[str, Any]:
    """mAP of held-out predictions by group, in percent; or why there are none."""
    for run in runs:
        failure = failure_of(run)
        if failure is not None:
            return {"mAP": None, "failed": {"run": run.name, "reason": failure.reason}}
    logits = read_logits([run.folder / VALIDATION_FILE for run in runs], train)
    means = group_means(average_precision(logits, targets), groups)
    return {"mAP": {group: percent(value) for group, value in means.items()}, "failed": None}


def _keep(source: Run, target: Run) -> None:
    """Copy a finished run to where it belongs, whole or not at all."""
    if target.folder.exists() or failure_of(source) is not None:
        return
    target.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.folder.parent, prefix=".") as temporary:
        copied = Path(temporary) / target.folder.name
        shutil.copytree(source.folder, copied)
        save(target.configure(), copied / CONFIG_FILE)
        copied.rename(target.folder)
