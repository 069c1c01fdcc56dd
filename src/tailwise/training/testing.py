"""Tests of models: forward passes, metrics, and thresholds and calibration from validation images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tailwise.data.dataset import Dataset
from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.matrix import to_dense
from tailwise.metrics import (
    Decisions,
    average_precision,
    calibration_error,
    f1_by_class,
    f1_scores,
    find_suspects,
    fit_calibration,
    fit_decisions,
    group_means,
    left_out,
)
from tailwise.models.extractor import RECORD_FILE, BackboneRecord
from tailwise.progress import bar
from tailwise.shapes import Float
from tailwise.training.config import Accelerator, Precision, TrainConfig
from tailwise.training.datamodule import TrainTransform
from tailwise.training.folder import (
    PREDICTIONS_FILE,
    SUSPECTS_FILE,
    THRESHOLDS_FILE,
    VALIDATION_FILE,
    write_predictions,
    write_suspects,
)
from tailwise.training.inputs import Images, Table

PRECISION_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


_TUNED_NAMES = {
    "CF1": "CF1_tuned",
    "OF1": "OF1_tuned",
    "F1": "F1_tuned",
    "calibration_error": "calibration_error_calibrated",
    "calibration_error_by_class": "calibration_error_calibrated_by_class",
}

_ROWS_PER_BATCH = {"finetune": 64, "probe": 4096}

_LISTED = 5

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """A model with the rows that it is tested on.

    Attributes:
        model: inputs to (B, K) logits.
        test: test rows, if any.
        test_inputs: makes test and validation rows into inputs, on the device.
    """

    model: nn.Module
    test: Images | None
    test_inputs: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingTask(Task):
    """A model with all rows of its run.

    Attributes:
        train: training rows.
        train_inputs: makes training rows into inputs, on the device; None where they are inputs already.
        validation: validation rows, if any.
        record: the backbone that training starts with; None without one.
        keep_backbone: writes the backbone's weights into a folder; None where they are not wanted there.
    """

    train: Images
    train_inputs: TrainTransform | None = None
    validation: Images | None
    record: BackboneRecord | None
    keep_backbone: Callable[[Path], None] | None = None

    def write_backbone(self, folder: Path) -> None:
        """Record the backbone in the folder of the run, and keep its weights where that is wanted."""
        if self.keep_backbone is not None:
            self.keep_backbone(folder)
        if self.record is not None:
            self.record.save(folder / RECORD_FILE)


def run_test(
    config: TrainConfig,
    task: Task,
    stats: LabelStats,
    device: torch.device,
    decisions: Decisions | None,
    folder: Path | None,
) -> dict[str, Any]:
    """Test a model, also at thresholds if there are any; write its predictions if there is a folder.

    Returns:
        The metrics; without test images, ``split`` None and ``num_images`` 0 only.
    """
    if task.test is None:
        return {"split": None, "num_images": 0}
    logits = _logits(config, task, task.test, device)
    if folder is not None:
        write_predictions(folder / PREDICTIONS_FILE, task.test.split.names, stats.class_names, logits)
    return _scored(logits, task.test.split, stats, decisions)


def run_validation(
    config: TrainConfig, task: TrainingTask, stats: LabelStats, device: torch.device, folder: Path, *, tell: bool = True
) -> tuple[dict[str, Any] | None, Decisions | None]:
    """Test a model on its validation images, if it has any, and fit thresholds and calibration to them.

    Predictions, thresholds and calibration are written into the folder of the run.

    Args:
        config: the run.
        task: the model and its images.
        stats: statistics of the training labels.
        device: where to compute.
        folder: the folder of the run.
        tell: whether to warn of classes without a threshold.

    Returns:
        The metrics, and the thresholds with the calibration. The metrics are not at these thresholds: on the images
        that the thresholds were fitted to, they would be too optimistic.
    """
    if task.validation is None:
        return None, None
    logits = _logits(config, task, task.validation, device)
    return judge_validation(config, logits, task.validation.split, stats, folder, tell=tell)


def judge_validation(
    config: TrainConfig,
    logits: Float[Tensor, "N K"],
    split: Dataset,
    stats: LabelStats,
    folder: Path,
    *,
    tell: bool = True,
) -> tuple[dict[str, Any], Decisions]:
    """Write, score and fit the logits of validation images, as :func:`run_validation` does."""
    write_predictions(folder / VALIDATION_FILE, split.names, stats.class_names, logits)
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


def judge_folds(
    config: TrainConfig, logits: Float[Tensor, "N K"], split: Dataset, folds: int, stats: LabelStats, folder: Path
) -> tuple[dict[str, Any], Decisions]:
    """Write, score and fit the held-out logits of all training images, and list the labels that they contradict."""
    named = replace(split, name=f"{split.name}, cross-validated in {folds} folds")
    metrics, decisions = judge_validation(config, logits, named, stats, folder)
    list_suspects(logits, split, decisions, folder)
    return {"folds": folds, **metrics}, decisions


def list_suspects(
    logits: Float[Tensor, "N K"] | NDArray[np.float32], split: Dataset, decisions: Decisions, folder: Path
) -> None:
    """Write the labels that held-out logits contradict into suspects.csv; see :func:`tailwise.metrics.find_suspects`.

    Args:
        logits: (N, K) logits of models that have not seen the image.
        split: the images with their labels.
        decisions: fitted to these logits.
        folder: the folder of the file.
    """
    targets = to_dense(split.targets)
    # Scores compare probabilities with the frequency of the class, which a slope alone does not fit.
    calibration = decisions.calibration if decisions.method == "platt" else fit_calibration(logits, targets)
    found = find_suspects(calibration.probabilities(logits), targets)
    write_suspects(folder / SUSPECTS_FILE, split.names, split.class_names, found)
    wrong = int((found.given == 1).sum())
    _logger.info(
        "label suspects: %d labels that may be wrong and %d that may be missing, in %s",
        wrong,
        len(found) - wrong,
        folder / SUSPECTS_FILE,
    )


def score(
    logits: Float[Tensor, "N K"], targets: NDArray[np.int8], stats: LabelStats, decisions: Decisions | None = None
) -> dict[str, Any]:
    """Metrics of one test set, in percent.

    Args:
        logits: raw scores.
        targets: labels: 1, 0, or -1 for unknown.
        stats: statistics of the training labels, which give the groups.
        decisions: thresholds and calibration, if any were fitted.

    Returns:
        ``mAP`` over all classes and by group, ``classes_left_out`` (those without a positive or without a judged
        negative, which have no ``AP``) likewise, ``CF1`` and ``OF1`` at probability 1/2, ``calibration_error`` (the
        mean over classes), and by class name ``AP``, ``F1`` and ``calibration_error_by_class``; None where they are
        undefined. With decisions also ``CF1_tuned``, ``OF1_tuned`` and ``F1_tuned`` at their thresholds,
        ``calibration_error_calibrated`` and ``calibration_error_calibrated_by_class`` of their probabilities.

    Raises:
        InputError: a logit is NaN or infinite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the model's logits are NaN or infinite: lower --lr, or train with --precision fp32")
    precision = average_precision(logits, targets)
    return {
        "mAP": {name: _percent(value) for name, value in group_means(precision, stats.groups).items()},
        **score_decisions(logits, targets, stats, decisions),
        "classes_left_out": left_out(precision, stats.groups),
        "AP": _by_class(precision, stats),
    }


def score_decisions(
    logits: Float[Tensor, "N K"], targets: NDArray[np.int8], stats: LabelStats, decisions: Decisions | None = None
) -> dict[str, Any]:
    """The metrics of :func:`score` that depend on thresholds and probabilities; the arguments are its own."""
    plain = _decided(logits, targets, stats, 0.0, torch.sigmoid(logits.double()))
    if decisions is None:
        return plain
    tuned = _decided(logits, targets, stats, decisions.thresholds, decisions.calibrate(logits))
    return plain | {_TUNED_NAMES[name]: value for name, value in tuned.items()}


def describe_left_out(precision: Mapping[str, float | None], where: str) -> str | None:
    """A sentence that names the classes left out of the means; None where there are none.

    Args:
        precision: average precision by class name; None where it is undefined.
        where: the test set.
    """
    names = [name for name, value in precision.items() if value is None]
    if not names:
        return None
    if len(names) == len(precision):
        return f"No class has both a positive and a judged negative in {where}, so that mAP is undefined."
    listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return (
        f"{len(names)} of {len(precision)} classes have no positive or no judged negative in {where} and are left out "
        f"of the means: {listed}."
    )


def forward_table(
    forward: Callable[[Tensor], Tensor],
    table: Table,
    *,
    device: torch.device,
    batch_size: int,
    description: str = "computing",
    show: bool = False,
) -> Tensor:
    """Apply ``forward`` to every row, without gradients.

    Args:
        forward: maps a batch of rows, on ``device``, to (B, ...) outputs.
        table: N rows.
        device: where to compute.
        batch_size: rows per batch.
        description: text of the progress bar.
        show: whether to show one.

    Returns:
        (N, ...) float32 outputs in the order of the rows, on the CPU.
    """
    outputs = []
    with torch.inference_mode(), bar(description, len(table), show=show) as advance:
        for rows in torch.split(torch.arange(len(table)), batch_size):
            outputs.append(forward(table.batch(rows).to(device, non_blocking=True)).float().cpu())
            advance(len(rows), description)
    return torch.cat(outputs)


def choose_device(accelerator: Accelerator, precision: Precision) -> torch.device:
    """The device of an accelerator option on this machine, for this process of several.

    Raises:
        InputError: it is not available, or does not support the precision.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    if accelerator == "auto":
        device = found or torch.device("cpu")
    elif accelerator == "cpu":
        device = torch.device("cpu")
    else:
        device = torch.device("cuda" if accelerator == "gpu" else accelerator)
        if found is None or found.type != device.type:
            raise InputError(f"accelerator {accelerator!r} is not available on this machine; use auto or cpu")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if precision == "fp16" and device.type == "cpu":
        raise InputError("precision fp16 needs a GPU, and this run would be on the CPU; use bf16 or fp32")
    return device


def _logits(config: TrainConfig, task: Task, images: Images, device: torch.device) -> Float[Tensor, "N K"]:
    model = task.model.to(device).eval()
    # A network compiled for training would be compiled again for a single pass.
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
    logits: Float[Tensor, "N K"], split: Dataset, stats: LabelStats, decisions: Decisions | None
) -> dict[str, Any]:
    scores = score(logits, to_dense(split.targets), stats, decisions)
    return {"split": split.name, "num_images": len(split), **scores}


def _decided(
    logits: Float[Tensor, "N K"],
    targets: NDArray[np.int8],
    stats: LabelStats,
    thresholds: float | NDArray[np.float64],
    probabilities: Float[Tensor, "N K"],
) -> dict[str, Any]:
    """Metrics of predictions and of probabilities."""
    f1 = f1_scores(logits, targets, thresholds)
    errors = calibration_error(probabilities, targets)
    return {
        "CF1": _percent(f1.cf1),
        "OF1": _percent(f1.of1),
        "calibration_error": _percent(float(errors.nanmean())),
        "F1": _by_class(f1_by_class(logits, targets, thresholds), stats),
        "calibration_error_by_class": _by_class(errors, stats),
    }


def _by_class(values: Float[Tensor, " K"], stats: LabelStats) -> dict[str, float | None]:
    return {name: _percent(value) for name, value in zip(stats.class_names, values.tolist(), strict=True)}


def _percent(value: float) -> float | None:
    # JSON has no NaN.
    return None if np.isnan(value) else 100 * value
