"""What a comparison found, as one JSON mapping that is the same however its runs were interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tailwise.data.dataset import Dataset
from tailwise.experiments.board import Board, percent
from tailwise.experiments.executors import failure_of
from tailwise.experiments.methods import Method
from tailwise.experiments.plan import FOLDS, Plan
from tailwise.experiments.recommend import recommend
from tailwise.labels import LabelStats
from tailwise.matrix import count_positives, to_dense
from tailwise.metrics import Decisions, fit_decisions
from tailwise.training.config import DEFAULT_SAMPLER, TrainConfig, to_mapping
from tailwise.training.folder import PREDICTIONS_FILE, THRESHOLDS_FILE, VALIDATION_FILE, read_logits
from tailwise.training.testing import score_decisions

FORMAT = "tailwise-comparison-1"

# Options that say where data lie, what a single run is, or how it shows itself.
_NOT_SHARED = frozenset(
    (
        *("data", "output", "classes", "root", "split_file", "cache", "seed", "loss", "loss_options", "val_split"),
        *("val_folds", "val_fold", "accelerator", "devices", "num_nodes", "num_workers", "checkpoint_minutes"),
        *("compile", "keep_backbone", "quiet", "resume", "tensorboard"),
    )
)
_FILES = ("weights", "label_embeddings")
# Of what a test finds, the scores that depend on thresholds and probabilities.
_DECIDED = ("CF1", "OF1", "CF1_tuned", "OF1_tuned", "calibration_error", "calibration_error_calibrated")


@dataclass(frozen=True)
class Chosen:
    """A method with its options settled.

    Attributes:
        method: with the options that its runs have.
        found: the options of its search that did best, empty where its own did; None without a search.
    """

    method: Method
    found: Mapping[str, Any] | None = None


def summarize(plan: Plan, chosen: Sequence[Chosen], train: Dataset, test: Dataset) -> dict[str, Any]:
    """Read all runs of a comparison, and judge them.

    Thresholds and calibration of each method are fitted to its held-out predictions, kept beside its fold runs, and
    used on its test predictions.

    Args:
        plan: what was run.
        chosen: its methods.
        train: the training split: the images that could be read.
        test: the test split, likewise.

    Returns:
        The content of results.json: scores in percent, None for what is undefined.

    Raises:
        InputError: predictions are not of these images.
    """
    stats = LabelStats.from_targets(train.targets, train.class_names, plan.shared.thresholds)
    intervals: dict[str, Any] = {"replicates": plan.replicates, "level": plan.level}
    tested = Board(to_dense(test.targets), stats.groups, num_runs=len(plan.seeds), **intervals)
    validated = Board(to_dense(train.targets), stats.groups, num_runs=1, **intervals)
    failures = {entry.method.name: _first_failure(plan, entry.method) for entry in chosen}
    decided: dict[str, dict[str, float | None]] = {}
    for method in (entry.method for entry in chosen if failures[entry.method.name] is None):
        logits = [read_logits([run.folder / PREDICTIONS_FILE], test) for run in plan.test_runs(method)]
        tested.add(method.name, logits)
        decisions = None
        if plan.folds:
            pooled = read_logits([run.folder / VALIDATION_FILE for run in plan.fold_runs(method)], train)
            validated.add(method.name, [pooled])
            decisions = _fit_decisions(plan.shared, pooled, validated.targets, train.class_names)
            decisions.save(plan.folder / FOLDS / method.name / THRESHOLDS_FILE)
        decided[method.name] = _decided(logits, tested.targets, stats, decisions)
    baseline = plan.baseline if plan.baseline in tested.methods else None
    results: dict[str, Any] = {
        "format": FORMAT,
        "data": _data(plan, stats, test),
        "mode": plan.shared.mode,
        "seeds": list(plan.seeds),
        "folds": plan.folds,
        "baseline": baseline,
        "bootstrap": intervals,
        "shared": _shared(plan.shared),
        "methods": [
            {
                "name": entry.method.name,
                "title": entry.method.title or entry.method.name,
                "options": portable(entry.method.options),
                "chosen": None if entry.found is None else portable(entry.found),
                "failed": failures[entry.method.name],
                "test": _test(tested, entry.method.name, plan, baseline, decided),
                "validation": _validation(validated, entry.method.name),
            }
            for entry in chosen
        ],
        "best": {"test": tested.best, "validation": validated.best},
    }
    return {**results, "recommendation": recommend(results)}


def _data(plan: Plan, stats: LabelStats, test: Dataset) -> dict[str, Any]:
    return {
        "source": Path(plan.shared.data).name,
        "train_split": plan.shared.train_split,
        "test_split": plan.shared.test_split,
        "num_train": stats.num_samples,
        "num_test": len(test),
        "class_names": list(stats.class_names),
        "class_counts": stats.class_counts.tolist(),
        "test_counts": count_positives(test.targets).tolist(),
        "groups": {name: members.tolist() for name, members in stats.groups.items()},
    }


def _test(
    board: Board, name: str, plan: Plan, baseline: str | None, decided: Mapping[str, Mapping[str, float | None]]
) -> dict[str, Any] | None:
    if name not in board.methods:
        return None
    judged = board.methods[name]
    low, high = board.class_intervals(name)
    return {
        "mean": judged.means,
        "std": judged.deviations,
        **decided[name],
        "AP": judged.class_means,
        "AP_low": low,
        "AP_high": high,
        "runs": [
            {
                "seed": seed,
                "mAP": {group: percent(values[number]) for group, values in judged.groups.items()},
                "AP": [percent(value) for value in judged.classes[number]],
            }
            for number, seed in enumerate(plan.seeds)
        ],
        "against_best": board.difference(name, board.best),
        "against_baseline": board.difference(name, baseline),
    }


def _validation(board: Board, name: str) -> dict[str, Any] | None:
    if name not in board.methods:
        return None
    judged = board.methods[name]
    return {"mAP": judged.means, "AP": judged.class_means, "against_best": board.difference(name, board.best)}


def _fit_decisions(
    config: TrainConfig, pooled: NDArray[np.float32], targets: NDArray[np.int8], class_names: Sequence[str]
) -> Decisions:
    """Thresholds and calibration, fitted to the predictions for all held-out images together."""
    return fit_decisions(
        pooled,
        targets,
        class_names,
        config.threshold_objective,
        target=config.threshold_target,
        method=config.calibration,
    )


def _decided(
    logits: Sequence[NDArray[np.float32]], targets: NDArray[np.int8], stats: LabelStats, decisions: Decisions | None
) -> dict[str, float | None]:
    """Scores of decisions and probabilities, mean over the runs: as they are, and with what was fitted."""
    scores = [score_decisions(torch.from_numpy(run), targets, stats, decisions) for run in logits]
    values = {name: [run[name] for run in scores if run.get(name) is not None] for name in _DECIDED}
    return {name: percent(fmean(found) / 100) if found else None for name, found in values.items()}


def _first_failure(plan: Plan, method: Method) -> dict[str, str] | None:
    for run in plan.runs(method):
        failure = failure_of(run)
        if failure is not None:
            return {"run": run.name, "reason": failure.reason}
    return None


def _shared(config: TrainConfig) -> dict[str, Any]:
    shared: dict[str, Any] = portable(to_mapping(replace(config, sampler=config.sampler or DEFAULT_SAMPLER)))
    return {name: value for name, value in shared.items() if name not in _NOT_SHARED}


def portable(value: Any) -> Any:
    """Options as JSON has them, and paths as the names of their files: results say nothing of where they were made."""
    if isinstance(value, Mapping):
        return {
            str(key): Path(item).name if key in _FILES and item is not None else portable(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute()):
        return Path(value).name
    return value
