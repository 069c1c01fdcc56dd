"""Scores of methods on the same images: means, deviations, intervals and paired differences, in percent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tailwise.data.dataset import Dataset
from tailwise.experiments.executors import failure_of
from tailwise.experiments.methods import Method, portable
from tailwise.experiments.plan import FOLDS, Chosen, Plan
from tailwise.experiments.recommend import recommend
from tailwise.experiments.results import (
    SINGLE_SCORES,
    Bootstrap,
    Comparison,
    Data,
    Difference,
    Highest,
    MethodResult,
    RunFailure,
    RunScores,
    Scores,
    Validation,
    percent,
)
from tailwise.labels import LabelStats
from tailwise.matrix import count_positives, to_dense
from tailwise.metrics import average_precision, fit_decisions, group_means
from tailwise.metrics.bootstrap import Replicates, Resamples, interval, replicate
from tailwise.metrics.groups import TOTAL
from tailwise.options import Role, names_of
from tailwise.records import read_json
from tailwise.training.config import TrainConfig, to_mapping
from tailwise.training.folder import METRICS_FILE, PREDICTIONS_FILE, THRESHOLDS_FILE, read_logits
from tailwise.training.resolution import resolve
from tailwise.training.testing import score_decisions

# The options that all runs of a comparison share, but for where data are and how runs show themselves. The sampler is
# that of methods which name none.
_SHARED = {*names_of(TrainConfig, Role.DATA, Role.METHOD, Role.PROTOCOL, of_one_run=False), "sampler"}


@dataclass(frozen=True, eq=False)
class Judged:
    """Scores of the runs of a method.

    Attributes:
        groups: mAP of each run by group, as fractions; NaN where it is undefined.
        classes: (S, K) average precision of each run, as fractions; one run of a solved head.
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
        num_runs: S, the number of runs of each method that has more than one.
        replicates: number of bootstrap replicates, the same for all methods.
        level: confidence level of intervals.

    Attributes:
        methods: scores of the methods added, by name.
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

    def difference(self, name: str, other: str | None) -> dict[str, Difference] | None:
        """How much better a method is than another, by group: the difference of mAP and its interval, in percent."""
        if other is None:
            return None
        one, two = self.methods[name], self.methods[other]
        result = {}
        for group in one.groups:
            low, high = interval(one.replicates.groups[group] - two.replicates.groups[group], self.level)
            result[group] = Difference(percent(one.mean(group) - two.mean(group)), percent(low), percent(high))
        return result


def class_intervals(replicates: Replicates, level: float) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """Lower and upper ends of the intervals of all classes, in percent."""
    ends = [interval(values, level) for values in replicates.classes.T]
    return tuple(percent(low) for low, _ in ends), tuple(percent(high) for _, high in ends)


def summarize(plan: Plan, chosen: Sequence[Chosen], train: Dataset, test: Dataset) -> Comparison:
    """Score all runs of a comparison, and recommend a method.

    Thresholds and calibration of each method are fitted to its held-out predictions, saved in the folder of its fold
    runs, and applied to its test predictions.

    Args:
        plan: the comparison.
        chosen: its methods.
        train: the images of the training split that could be read.
        test: those of the test split.

    Raises:
        InputError: predictions are of other images.
    """
    stats = LabelStats.from_targets(train.targets, train.class_names, plan.shared.thresholds)
    intervals: dict[str, Any] = {"replicates": plan.replicates, "level": plan.level}
    tested = Board(to_dense(test.targets), stats.groups, num_runs=len(plan.seeds), **intervals)
    validated = Board(to_dense(train.targets), stats.groups, num_runs=1, **intervals)
    failures = {entry.method.name: _first_failure(plan, entry.method) for entry in chosen}
    decided = {
        name: _add(plan, entry.method, (tested, test), (validated, train), stats)
        for entry in chosen
        if failures[name := entry.method.name] is None
    }
    baseline = plan.baseline if plan.baseline in tested.methods else None
    comparison = Comparison(
        data=_data(plan, stats, test),
        mode=plan.shared.mode,
        seeds=tuple(plan.seeds),
        folds=plan.folds,
        baseline=baseline,
        bootstrap=Bootstrap(**intervals),
        shared=shared_options(plan.shared),
        methods=tuple(
            MethodResult(
                name=entry.method.name,
                title=entry.method.title or entry.method.name,
                options=portable(entry.method.options),
                chosen=None if entry.found is None else portable(entry.found),
                failed=failures[entry.method.name],
                test=_test(tested, entry.method.name, plan.seeds, baseline, decided),
                validation=_validation(validated, entry.method.name),
                solved=_solved(plan, entry.method, failures[entry.method.name]),
            )
            for entry in chosen
        ),
        highest=Highest(tested.best, validated.best),
    ).located(plan.folder)
    return replace(comparison, recommendation=recommend(comparison))


def _add(
    plan: Plan, method: Method, tested: tuple[Board, Dataset], validated: tuple[Board, Dataset], stats: LabelStats
) -> dict[str, float | None]:
    """Score the runs of a method; returns its single scores, means over the runs.

    Thresholds and calibration are fitted to the predictions for all held-out images together.
    """
    (board, test), (held_out, train) = tested, validated
    logits = [read_logits([run.folder / PREDICTIONS_FILE], test) for run in plan.test_runs(method)]
    board.add(method.name, logits)
    decisions = None
    if files := plan.held_out(method):
        pooled = read_logits(files, train)
        held_out.add(method.name, [pooled])
        decisions = fit_decisions(
            pooled,
            held_out.targets,
            train.class_names,
            plan.shared.threshold_objective,
            target=plan.shared.threshold_target,
            method=plan.shared.calibration,
        )
        folder = plan.folder / FOLDS / method.name
        folder.mkdir(parents=True, exist_ok=True)
        decisions.save(folder / THRESHOLDS_FILE)
    scores = [score_decisions(torch.from_numpy(run), board.targets, stats, decisions) for run in logits]
    values = {name: [run[name] for run in scores if run.get(name) is not None] for name in SINGLE_SCORES}
    return {name: percent(fmean(found) / 100) if found else None for name, found in values.items()}


def shared_options(config: TrainConfig) -> dict[str, Any]:
    """The options of a configuration that the methods of a comparison share, as JSON."""
    resolved = resolve(replace(config, loss="bce"))
    chosen = replace(config, sampler=resolved.sampler, head=replace(config.head, solver=resolved.head.solver))
    shared: dict[str, Any] = portable(to_mapping(chosen))
    return {name: value for name, value in shared.items() if name in _SHARED}


def _data(plan: Plan, stats: LabelStats, test: Dataset) -> Data:
    return Data(
        source=Path(plan.shared.data).name,
        train_split=plan.shared.train_split,
        test_split=plan.shared.test_split,
        num_train=stats.num_samples,
        num_test=len(test),
        class_names=tuple(stats.class_names),
        class_counts=tuple(stats.class_counts.tolist()),
        test_counts=tuple(count_positives(test.targets).tolist()),
        groups={name: tuple(members.tolist()) for name, members in stats.groups.items()},
    )


def _test(
    board: Board,
    name: str,
    seeds: Sequence[int],
    baseline: str | None,
    decided: Mapping[str, Mapping[str, float | None]],
) -> Scores | None:
    if name not in board.methods:
        return None
    judged = board.methods[name]
    low, high = class_intervals(judged.replicates, board.level)
    runs = (
        RunScores(
            seed,
            {group: percent(values[number]) for group, values in judged.groups.items()},
            tuple(percent(value) for value in judged.classes[number]),
        )
        for number, seed in enumerate(seeds[: len(judged.classes)])
    )
    return Scores(
        means=judged.means,
        deviations=judged.deviations,
        **decided[name],
        AP=tuple(judged.class_means),
        AP_low=low,
        AP_high=high,
        runs=tuple(runs),
        against_best=board.difference(name, board.best),
        against_baseline=board.difference(name, baseline),
    )


def _validation(board: Board, name: str) -> Validation | None:
    if name not in board.methods:
        return None
    judged = board.methods[name]
    return Validation(judged.means, tuple(judged.class_means), board.difference(name, board.best))


def _solved(plan: Plan, method: Method, failed: RunFailure | None) -> Mapping[str, Any] | None:
    """How the heads of a method were chosen; None where they are trained by steps."""
    if failed is not None or not plan.is_solved(method):
        return None
    (run,) = plan.test_runs(method)
    found: Mapping[str, Any] = read_json(run.folder / METRICS_FILE)["solved"]
    return found


def _first_failure(plan: Plan, method: Method) -> RunFailure | None:
    for run in plan.runs(method):
        failure = failure_of(run)
        if failure is not None:
            return RunFailure(run.name, failure.reason)
    return None
