"""The plan of a comparison: its runs, the folder of each, and the search for options of methods."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.data.dataset import Dataset
from tailwise.errors import InputError
from tailwise.experiments.executors import Run, failure_of
from tailwise.experiments.methods import Method, portable, require_test
from tailwise.experiments.results import RUNS, percent
from tailwise.labels import IndexArray, LabelStats
from tailwise.matrix import to_dense
from tailwise.metrics import average_precision, group_means
from tailwise.metrics.groups import TOTAL
from tailwise.training.config import TrainConfig, save
from tailwise.training.folder import CONFIG_FILE, VALIDATION_FILE, read_logits, write_json
from tailwise.training.resolution import resolve

FOLDS, SEARCH = "folds", "search"
SEARCH_FILE = "search.json"

_MOST_REPLICATES = 100_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A comparison of methods on one data set.

    Attributes:
        folder: the folder of the comparison.
        shared: the configuration that the methods change.
        methods: the methods.
        seeds: seeds of the runs that are tested: they train on the whole training split.
        folds: parts of the training split that further runs hold out in turn, for choosing; 0 for none.
        baseline: name of the method that the others are also compared with, if any.
        replicates: number of bootstrap replicates.
        level: confidence level of intervals.
        search: whether methods try the options of their search on the folds first.
        holds_more: whether the folder may hold other files.

    Raises:
        InputError: values that do not go together.
    """

    folder: Path
    shared: TrainConfig
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    folds: int
    baseline: str | None = None
    replicates: int = 1000
    level: float = 0.95
    search: bool = False
    holds_more: bool = False

    def __post_init__(self) -> None:
        rules = (
            ("seeds", len(self.seeds), len(self.seeds) >= 1, "at least 1"),
            ("folds", self.folds, self.folds == 0 or self.folds >= 2, "0, or 2 or more"),
            ("replicates", self.replicates, 1 <= self.replicates <= _MOST_REPLICATES, f"from 1 to {_MOST_REPLICATES}"),
            ("level", self.level, 0 < self.level < 1, "between 0 and 1"),
        )
        for name, value, allowed, expected in rules:
            if not allowed:
                raise InputError(f"{name} must be {expected}, got {value}")
        names = [method.name for method in self.methods]
        if self.baseline is not None and self.baseline not in names:
            raise InputError(f"baseline {self.baseline!r} is none of the methods that are compared: {', '.join(names)}")
        require_test(self.shared)
        if self.search and not self.folds:
            raise InputError("a search chooses on held-out folds of the training split: give --folds 2 or more")

    def is_solved(self, method: Method) -> bool:
        """Whether its heads are solved: then it needs one seed, and its run holds out the folds itself."""
        try:
            return resolve(method.configure(self.shared, 0)).is_solved
        except InputError:
            return False  # its runs will say why

    def test_runs(self, method: Method) -> list[Run]:
        """Its runs on the whole training split, one for each seed."""
        seeds = self.seeds[:1] if self.is_solved(method) else self.seeds
        return [self._run(method, f"{RUNS}/{method.name}/seed{seed}", seed) for seed in seeds]

    def fold_runs(self, method: Method) -> list[Run]:
        """Its further runs that hold out a fold each."""
        folds = 0 if self.is_solved(method) else self.folds
        return [self._fold_run(method, f"{FOLDS}/{method.name}", fold) for fold in range(folds)]

    def held_out(self, method: Method) -> list[Path]:
        """The files of its held-out scores; none where nothing was held out."""
        runs = self.test_runs(method) if self.folds and self.is_solved(method) else self.fold_runs(method)
        return [run.folder / VALIDATION_FILE for run in runs]

    def runs(self, method: Method) -> list[Run]:
        """All runs of a method whose options are settled."""
        return [*self.test_runs(method), *self.fold_runs(method)]

    def search_runs(self, method: Method) -> list[list[Run]]:
        """For its options as they are and for each of its search, runs that hold out a fold each."""
        tried = [(candidate, f"{SEARCH}/{method.name}/{index}") for index, candidate in enumerate(candidates(method))]
        if self.is_solved(method):
            return [[self._run(candidate, f"{place}/seed0", self.seeds[0])] for candidate, place in tried]
        return [[self._fold_run(candidate, place, fold) for fold in range(self.folds)] for candidate, place in tried]

    def _fold_run(self, method: Method, place: str, fold: int) -> Run:
        return self._run(method, f"{place}/fold{fold}", fold, (self.folds, fold))

    def _run(self, method: Method, name: str, seed: int, held_out: tuple[int, int] = (0, 0)) -> Run:
        folder = self.folder / name
        holds_out_itself = self.folds and self.is_solved(method)
        head = replace(self.shared.head, folds=self.folds) if holds_out_itself else self.shared.head
        return Run(name, folder, partial(_configure, method, replace(self.shared, head=head), seed, folder, held_out))


@dataclass(frozen=True)
class Chosen:
    """A method with its options settled.

    Attributes:
        method: with the options that its runs have.
        found: the options of its search that did best, empty where its own did; None without a search.
    """

    method: Method
    found: Mapping[str, Any] | None = None


def in_rounds(groups: Iterable[Sequence[Run]]) -> list[Run]:
    """The first run of every group, then the second of every group, and so on: each group soon has a result."""
    rounds = zip_longest(*groups)
    return [run for runs in rounds for run in runs if run is not None]


def candidates(method: Method) -> Sequence[Method]:
    """The method as it is, and with each of the options that its search tries."""
    return [method, *(method.tried(options) for options in method.search)]


def _configure(method: Method, shared: TrainConfig, seed: int, folder: Path, held_out: tuple[int, int]) -> TrainConfig:
    folds, fold = held_out
    config = method.configure(shared, seed)
    # A hundred runs need not keep the same backbone each.
    config = replace(config, output=str(folder), val_folds=folds, val_fold=fold, keep_backbone=False)
    if config.mode == "probe" and config.precision != "fp16":
        # Features are computed before; heads are trained side by side on cores, which gives the same on any machine's
        # number of workers. fp16, which would be refused on a CPU, is of the features only.
        config = replace(config, accelerator="cpu")
    return config


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
    labels = to_dense(train.targets)
    groups = LabelStats.from_targets(labels, train.class_names, plan.shared.thresholds).groups
    record: dict[str, Any] = {"folds": plan.folds, "methods": {}}
    for method in searched:
        scores = [_score(runs, train, labels, groups) for runs in plan.search_runs(method)]
        totals = [_total(score) for score in scores]
        index = totals.index(max(totals))
        tried = [{}, *method.search]
        chosen = Chosen(candidates(method)[index], tried[index])
        settled[method.name] = chosen
        record["methods"][method.name] = [
            {"options": portable(options), **score} for options, score in zip(tried, scores, strict=True)
        ]
        targets = plan.test_runs(chosen.method) if plan.is_solved(method) else plan.fold_runs(chosen.method)
        for source, target in zip(plan.search_runs(method)[index], targets, strict=True):
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
