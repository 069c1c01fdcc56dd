"""The test split behind the predictions of runs: labels, and images to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tailwise.data.pixels.decode import read_thumbnail
from tailwise.data.reading import read_labels
from tailwise.errors import InputError
from tailwise.matrix import to_dense
from tailwise.training.config import DIGITS, TrainConfig
from tailwise.training.folder import PREDICTIONS_FILE, read_predictions
from tailwise.training.inputs import read_splits


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a run beside their labels.

    Attributes:
        rows: (n,) rows of the evaluation set, which has more if the run left images out.
        logits: (n, K) raw scores.
        targets: (n, K) int8 labels: 1, 0, or -1 for unknown.
    """

    rows: NDArray[np.intp]
    logits: NDArray[np.float32]
    targets: NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Labelled test images. Unlike training, it needs no image to be there.

    Attributes:
        images: N references.
        targets: (N, K) int8 labels: 1, 0, or -1 for unknown.
        class_names: K names.
        files: the N image files, there or not; None for images in memory.
        pixels: (N, 3, S, S) uint8 images in memory; None for files.
    """

    images: tuple[str, ...]
    targets: NDArray[np.int8]
    class_names: tuple[str, ...]
    files: tuple[Path, ...] | None = None
    pixels: NDArray[np.uint8] | None = None

    def predictions(self, run: Path) -> Predictions:
        """What a run has predicted for these images.

        Raises:
            InputError: the predictions cannot be read, or are of other images or classes.
        """
        path = run / PREDICTIONS_FILE
        images, class_names, logits = read_predictions(path)
        if class_names != self.class_names:
            raise InputError(f"{path} has other classes than the data")
        row_of = {image: row for row, image in enumerate(self.images)}
        unknown = next((image for image in images if image not in row_of), None)
        if unknown is not None:
            raise InputError(f"{path} has a prediction for {unknown!r}, which is no image of the test split now")
        rows = np.array([row_of[image] for image in images], dtype=np.intp)
        return Predictions(rows, logits, self.targets[rows])

    def thumbnail(self, row: int, size: int) -> Image.Image:
        """An image, upright, of ``size`` pixels on its longer side.

        Raises:
            InputError: it cannot be read.
        """
        if self.files is not None:
            return read_thumbnail(self.files[row], size)
        assert self.pixels is not None
        image = Image.fromarray(self.pixels[row].transpose(1, 2, 0))
        return image.resize((size, size), Image.Resampling.BILINEAR)


def read_evaluation_set(
    config: TrainConfig, class_names: Sequence[str], *, is_of_all_rows: bool = False
) -> EvaluationSet:
    """Read the test split of a run again.

    Args:
        config: the run.
        class_names: its classes.
        is_of_all_rows: whether to read all rows of the data instead.

    Raises:
        InputError: the labels cannot be read, or there is no such split in them any more.
    """
    if config.data == DIGITS:
        (split,) = read_splits(config.data, [config.test_split], config)
        return EvaluationSet(split.images, to_dense(split.targets), split.class_names, pixels=split.pixels)
    rows = read_labels(config.data, config, classes=class_names)
    if not is_of_all_rows:
        rows = rows.select(config.test_split)
    return EvaluationSet(rows.images, to_dense(rows.targets), rows.class_names, files=tuple(rows.paths()))
