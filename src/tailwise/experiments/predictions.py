"""Predictions of finished runs, in the order of the images they were made for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tailwise.errors import InputError
from tailwise.training.inputs import Split
from tailwise.training.outputs import read_predictions


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
