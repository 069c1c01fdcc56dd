"""What a run leaves behind: metrics, predictions, and how they are computed from logits."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise import __version__
from tailwise.errors import InputError
from tailwise.files import replacing
from tailwise.labels import LabelStats
from tailwise.metrics import (
    Decisions,
    average_precision,
    calibration_error,
    f1_by_class,
    f1_scores,
    group_means,
    left_out,
)
from tailwise.shapes import Float
from tailwise.training.inputs import IMAGE_COLUMN, Split

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.parquet"
VALIDATION_FILE = "validation.parquet"
THRESHOLDS_FILE = "thresholds.json"

_TUNED_NAMES = {
    "CF1": "CF1_tuned",
    "OF1": "OF1_tuned",
    "F1": "F1_tuned",
    "calibration_error": "calibration_error_calibrated",
    "calibration_error_by_class": "calibration_error_calibrated_by_class",
}
_LIBRARIES = ("lightning", "timm", "torchmetrics", "numpy")
_LISTED = 5


def score(
    logits: Float[Tensor, "N K"], targets: NDArray[np.int8], stats: LabelStats, decisions: Decisions | None = None
) -> dict[str, Any]:
    """Metrics of one test set, in percent.

    Args:
        logits: raw scores.
        targets: labels: 1, 0, or -1 for unknown.
        stats: statistics of the training labels; they make the groups.
        decisions: thresholds and calibration, if any were fitted.

    Returns:
        ``mAP`` over all classes and by group, ``classes_left_out`` (those without a positive or without a judged
        negative, which have no ``AP``) likewise, ``CF1`` and ``OF1`` at probability 1/2, ``calibration_error`` (the
        mean over classes), and by class name ``AP``, ``F1`` and ``calibration_error_by_class``; None where they are
        undefined. With decisions also ``CF1_tuned``, ``OF1_tuned`` and ``F1_tuned`` at their thresholds,
        ``calibration_error_calibrated`` and ``calibration_error_calibrated_by_class`` of their probabilities.

    Raises:
        InputError: a logit is not a finite number.
    """
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the model's logits are not finite numbers: lower optim.lr, or train with precision fp32")
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
    """A sentence on the classes that means leave out; None where they leave out none.

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


def load_thresholds(run_folder: Path) -> Decisions | None:
    """The thresholds and calibration that a run has fitted; None where it had no validation images.

    Raises:
        InputError: the file cannot be used.
    """
    path = run_folder / THRESHOLDS_FILE
    if not path.exists():
        return None
    try:
        return Decisions.load(path)
    except ValueError as error:
        raise InputError(f"{error}; remove it to do without thresholds") from error


def versions() -> dict[str, str]:
    """Versions of what computed the numbers."""
    return {
        "tailwise": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with the build, which the distribution leaves out
        **{name: version(name) for name in _LIBRARIES},
    }


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_predictions(
    path: Path, images: Sequence[str], class_names: Sequence[str], logits: Float[Tensor, "N K"]
) -> None:
    """Write logits as Parquet: a column ``image``, then one float32 column per class, a row per image."""
    columns = logits.numpy(force=True).astype(np.float32).T
    table = pa.table({IMAGE_COLUMN: pa.array(images, pa.string())} | dict(zip(class_names, columns, strict=True)))
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_predictions(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.float32]]:
    """Read what :func:`write_predictions` has written.

    Returns:
        N image names, K class names, and (N, K) logits.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        table = pq.read_table(path)
        images = tuple(table[IMAGE_COLUMN].to_pylist())
        class_names = tuple(name for name in table.column_names if name != IMAGE_COLUMN)
        logits = np.empty((len(images), len(class_names)), dtype=np.float32)
        for k, name in enumerate(class_names):
            logits[:, k] = table[name].to_numpy()
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{path} holds no predictions of a run: {error}") from error
    return images, class_names, logits


def read_logits(paths: Sequence[Path], split: Split) -> NDArray[np.float32]:
    """Read the logits of a split.

    Args:
        paths: files written by a run, which together hold each image of the split once.
        split: its images.

    Returns:
        (N, K) logits in the order of the split and its classes.

    Raises:
        InputError: the files hold other images or classes.
    """
    rows = {image: row for row, image in enumerate(split.images)}
    logits = np.full((len(split), len(split.class_names)), np.nan, dtype=np.float32)
    count = 0
    for path in paths:
        images, class_names, found = read_predictions(path)
        count += len(images)
        if class_names != split.class_names or not rows.keys() >= set(images):
            count = -1
            break
        logits[[rows[image] for image in images]] = found
    if count != len(split) or np.isnan(logits).any():
        raise InputError(
            f"{paths[0]} is not of the {len(split)} images and {len(split.class_names)} classes of split "
            f"{split.name!r}: the data have changed since; give another --output"
        )
    return logits


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
