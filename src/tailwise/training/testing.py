"""Testing a trained model, and fitting its thresholds and calibration on validation images."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailwise.config import TrainConfig
from tailwise.data.targets import to_dense
from tailwise.labels import LabelStats
from tailwise.metrics import Decisions, fit_decisions
from tailwise.shapes import Float
from tailwise.training.inference import forward_table
from tailwise.training.inputs import Images, Split
from tailwise.training.outputs import (
    PREDICTIONS_FILE,
    THRESHOLDS_FILE,
    VALIDATION_FILE,
    score,
    write_predictions,
)
from tailwise.training.task import EvaluationTask, Task

_ROWS_PER_BATCH = {"finetune": 64, "probe": 4096}
_LISTED = 5
_logger = logging.getLogger(__name__)


def run_test(
    config: TrainConfig,
    task: Task | EvaluationTask,
    stats: LabelStats,
    device: torch.device,
    decisions: Decisions | None,
    folder: Path | None,
) -> dict[str, Any]:
    """Test a model, also at thresholds if there are any; write its predictions if there is a folder.

    Returns:
        The metrics; without test images, only that there is no split.
    """
    if task.test is None:
        return {"split": None, "num_images": 0}
    logits = _logits(config, task, task.test, device)
    if folder is not None:
        write_predictions(folder / PREDICTIONS_FILE, task.test.split.images, stats.class_names, logits)
    return _scored(logits, task.test.split, stats, decisions)


def run_validation(
    config: TrainConfig, task: Task, stats: LabelStats, device: torch.device, folder: Path, *, tell: bool = True
) -> tuple[dict[str, Any] | None, Decisions | None]:
    """Test a model on its validation images, if it has any, and fit thresholds and calibration to them.

    Predictions, thresholds and calibration are written into the folder of the run.

    Args:
        config: the run.
        task: the model, and the images.
        stats: statistics of the training labels.
        device: what to compute on.
        folder: the folder of the run.
        tell: whether to warn of classes without a threshold.

    Returns:
        The metrics, and what was fitted. The metrics are not those at the fitted thresholds, which are the best there
        are for these images, and would promise too much.
    """
    if task.validation is None:
        return None, None
    logits = _logits(config, task, task.validation, device)
    return judge_validation(config, logits, task.validation.split, stats, folder, tell=tell)


def judge_validation(
    config: TrainConfig,
    logits: Float[Tensor, "N K"],
    split: Split,
    stats: LabelStats,
    folder: Path,
    *,
    tell: bool = True,
) -> tuple[dict[str, Any], Decisions]:
    """The part of :func:`run_validation` that follows from the logits of the validation images."""
    write_predictions(folder / VALIDATION_FILE, split.images, stats.class_names, logits)
    metrics = _scored(logits, split, stats, None)
    decisions = fit_decisions(
        logits,
        to_dense(split.targets),
        stats.class_names,
        config.threshold_objective,
        target=config.threshold_target,
        method=config.calibration,
    )
    decisions.save(folder / THRESHOLDS_FILE)
    untuned = decisions.untuned
    if untuned and tell:
        _logger.warning(
            "%d of %d classes keep the threshold of probability 1/2: no positive or no negative among the validation "
            "images, or no threshold good enough: %s%s",
            len(untuned),
            stats.num_classes,
            ", ".join(untuned[:_LISTED]),
            ", ..." if len(untuned) > _LISTED else "",
        )
    return metrics, decisions


def _logits(
    config: TrainConfig, task: Task | EvaluationTask, images: Images, device: torch.device
) -> Float[Tensor, "N K"]:
    model = task.model.to(device).eval()
    # What is compiled for training would be compiled again for a single pass.
    with torch.compiler.set_stance("force_eager") if config.compile else nullcontext():
        return forward_table(
            lambda rows: model(task.test_inputs(rows)),
            images.table,
            device=device,
            batch_size=_ROWS_PER_BATCH[config.mode],
            description=f"testing on {images.split.name}",
            show=not config.quiet,
        )


def _scored(
    logits: Float[Tensor, "N K"], split: Split, stats: LabelStats, decisions: Decisions | None
) -> dict[str, Any]:
    scores = score(logits, to_dense(split.targets), stats, decisions)
    return {"split": split.name, "num_images": len(split), **scores}
