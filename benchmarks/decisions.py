"""What thresholds and calibration do on real photographs: ``python -m benchmarks.decisions PHOTOS WEIGHTS``.

PHOTOS and WEIGHTS are those of :mod:`benchmarks.photos`. For each loss, the training split is divided into five folds,
each held out by one run, and a further run trains on all of it. Thresholds and calibration are fitted to the held-out
predictions and used twice: on held-out images of a fold, fitted to the other four, and on the test split by the run on
all images. Finished runs are kept below --output.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jsonargparse import auto_cli
from numpy.typing import NDArray

from benchmarks.photos import configuration
from tailwise.data import read as read_data
from tailwise.data.dataset import Dataset
from tailwise.metrics import Decisions, calibration_error, f1_by_class, f1_scores, fit_decisions
from tailwise.training.config import TrainConfig
from tailwise.training.folder import METRICS_FILE, PREDICTIONS_FILE, VALIDATION_FILE
from tailwise.training.run import train

LOSSES = ("bce", "db-focal", "pg", "asl")
NUM_FOLDS = 5
HEADER = "| loss | images | CF1 | tuned | OF1 | tuned | mean F1 | tuned | calibration error | calibrated |"

Predictions = tuple[NDArray[np.float32], NDArray[np.int8]]


def decisions(photos: Path, weights: Path, output: Path = Path("runs/photos/decisions")) -> None:
    """Print CF1, OF1, mean F1 and calibration error at probability 1/2 and with fitted decisions, in percent."""
    data = read_data(photos / "labels.csv", classes=photos / "classes.json")
    print(f"{HEADER}\n|{'---|' * HEADER.count(' | ')}---|")
    for loss in LOSSES:
        folder = output / loss
        shared = configuration(photos, weights, folder / "whole", mode="probe", loss=loss)
        finish(shared)
        parts = []
        for fold in range(NUM_FOLDS):
            own = folder / f"fold{fold}"
            finish(configuration(photos, weights, own, mode="probe", loss=loss, val_folds=NUM_FOLDS, val_fold=fold))
            parts.append(read(own / VALIDATION_FILE, data))
        held_out = [np.concatenate(values) for values in zip(*parts, strict=True)]
        crossed = [fit(join(parts, without=fold), data) for fold in range(NUM_FOLDS)]
        # Logits less their thresholds, so that one threshold of 0 serves all folds.
        above = np.concatenate([part[0] - fitted.thresholds for part, fitted in zip(parts, crossed, strict=True)])
        calibrated = torch.cat([fitted.calibrate(part[0]) for part, fitted in zip(parts, crossed, strict=True)])
        print(row(loss, "held out", held_out[0], held_out[1], above, calibrated))
        logits, targets = read(folder / "whole" / PREDICTIONS_FILE, data)
        fitted = fit((held_out[0], held_out[1]), data)
        print(row(loss, "test", logits, targets, logits - fitted.thresholds, fitted.calibrate(logits)), flush=True)


def finish(config: TrainConfig) -> None:
    """Run what has not been run."""
    if not (Path(config.output) / METRICS_FILE).exists():
        train(config)


def read(path: Path, data: Dataset) -> Predictions:
    """Logits of a predictions file, and the labels of its images."""
    table = pd.read_parquet(path)
    row_of = {image: row for row, image in enumerate(data.names)}
    return table[list(data.class_names)].to_numpy(copy=True), data.targets[[row_of[image] for image in table["image"]]]


def join(parts: list[Predictions], *, without: int) -> Predictions:
    """The predictions of all folds but one."""
    logits, targets = zip(*(part for fold, part in enumerate(parts) if fold != without), strict=True)
    return np.concatenate(logits), np.concatenate(targets)


def fit(predictions: Predictions, data: Dataset) -> Decisions:
    """Decisions of the predictions."""
    return fit_decisions(*predictions, data.class_names)


def row(
    loss: str,
    images: str,
    logits: NDArray[np.float32],
    targets: NDArray[np.int8],
    above: NDArray[np.float64],
    calibrated: torch.Tensor,
) -> str:
    """A line of the table."""
    cells: list[float] = []
    before, after = ((f1_scores(z, targets), f1_by_class(z, targets).nanmean()) for z in (logits, above))
    for plain, tuned in ((before[0].cf1, after[0].cf1), (before[0].of1, after[0].of1), (before[1], after[1])):
        cells += [float(plain), float(tuned)]
    probabilities = torch.sigmoid(torch.from_numpy(logits).double())
    cells += [float(calibration_error(p, targets).nanmean()) for p in (probabilities, calibrated)]
    return f"| {loss} | {images} | " + " | ".join(f"{100 * cell:.1f}" for cell in cells) + " |"


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    auto_cli(decisions, as_positional=True)
