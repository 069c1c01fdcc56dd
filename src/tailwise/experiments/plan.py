"""The plan of a comparison: its runs, and the folder of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

from tailwise.errors import InputError
from tailwise.experiments.executors import Run
from tailwise.experiments.methods import Method, require_test
from tailwise.experiments.results import RUNS
from tailwise.training.config import TrainConfig

FOLDS, SEARCH = "folds", "search"

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

    def test_runs(self, method: Method) -> list[Run]:
        """Its runs on the whole training split, one for each seed."""
        return [self._run(method, f"{RUNS}/{method.name}/seed{seed}", seed) for seed in self.seeds]

    def fold_runs(self, method: Method) -> list[Run]:
        """Its runs that hold out a fold each."""
        return [self._fold_run(method, f"{FOLDS}/{method.name}", fold) for fold in range(self.folds)]

    def runs(self, method: Method) -> list[Run]:
        """All runs of a method whose options are settled."""
        return [*self.test_runs(method), *self.fold_runs(method)]

    def search_runs(self, method: Method) -> list[list[Run]]:
        """For its options as they are and for each of its search, runs that hold out a fold each."""
        return [
            [self._fold_run(candidate, f"{SEARCH}/{method.name}/{index}", fold) for fold in range(self.folds)]
            for index, candidate in enumerate(candidates(method))
        ]

    def _fold_run(self, method: Method, place: str, fold: int) -> Run:
        return self._run(method, f"{place}/fold{fold}", fold, (self.folds, fold))

    def _run(self, method: Method, name: str, seed: int, held_out: tuple[int, int] = (0, 0)) -> Run:
        folder = self.folder / name
        return Run(name, folder, partial(_configure, method, self.shared, seed, folder, held_out))


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
