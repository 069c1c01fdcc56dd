"""Thresholds and calibration from all training images, each scored by a model that has not seen it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tailwise.config import NO_SPLIT, TrainConfig
from tailwise.labels import LabelStats
from tailwise.metrics import Decisions
from tailwise.training.inputs import RunSplits, check_labels, each_fold
from tailwise.training.outputs import VALIDATION_FILE, read_logits
from tailwise.training.task import Task
from tailwise.training.testing import judge_validation

FOLDS_FOLDER = "folds"

_logger = logging.getLogger(__name__)


def cross_fit(
    config: TrainConfig,
    splits: RunSplits,
    task: Task,
    stats: LabelStats,
    folder: Path,
    train: Callable[[TrainConfig, RunSplits], Any],
) -> tuple[dict[str, Any], Decisions]:
    """Hold out each part of the training split from a run of its own, and fit thresholds to all these scores together.

    The runs lie in folders ``folds/0``, ``folds/1``, ... of the run folder, each as any run with that part held out and
    without a test split. Those that are finished are taken as they are, interrupted ones go on. validation.parquet has
    the scores of all training images, thresholds.json what was fitted to them.

    Args:
        config: the run, resolved.
        splits: its labels.
        task: its training images, of which there may be fewer than labels.
        stats: statistics of the training labels; they make the groups.
        folder: the run folder.
        train: trains a run with a configuration on labels.

    Returns:
        The metrics of the scores, at probability 1/2, and what was fitted.

    Raises:
        InputError: a part cannot be trained without, or scored.
    """
    parts = each_fold(splits, config.val_folds)
    for part in parts:  # all of them before hours are spent on the first
        labels = part.train
        check_labels(part, LabelStats.from_targets(labels.targets, labels.class_names), tell=False)
    places = [folder / FOLDS_FOLDER / str(fold) for fold in range(config.val_folds)]
    for fold, (part, place) in enumerate(zip(parts, places, strict=True)):
        _logger.info("holding out fold %d of %d (from 0)", fold, config.val_folds)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # the whole split has its own
            train(_held_out(config, fold, place), replace(part, test=None))
    split = task.train.split
    logits = torch.from_numpy(read_logits([place / VALIDATION_FILE for place in places], split))
    named = replace(split, name=f"{split.name}, cross-validated in {config.val_folds} folds")
    metrics, decisions = judge_validation(config, logits, named, stats, folder)
    total = metrics["mAP"]["total"]
    found = "undefined" if total is None else f"{total:.2f}"
    _logger.info("cross-validated mAP: %s; now training on all images of split %r", found, split.name)
    return {"folds": config.val_folds, **metrics}, decisions


def _held_out(config: TrainConfig, fold: int, place: Path) -> TrainConfig:
    """The run that holds out a fold, which goes on if it was begun."""
    return replace(
        config, val_fold=fold, output=str(place), test_split=NO_SPLIT, keep_backbone=False, resume=place.exists()
    )
