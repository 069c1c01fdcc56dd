"""What a run trains and tests on: labels first, which are cheap to check, then the pixels behind them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tailwise.config import DIGITS, TrainConfig
from tailwise.data.cache import ImageCache, build_cache
from tailwise.data.sources import LabeledImages, ReadOptions, read_labels, require_images
from tailwise.data.targets import Targets, count_positives
from tailwise.errors import InputError, OnError
from tailwise.labels import LabelStats
from tailwise.training.tables import Table, TensorTable, content_key

IMAGE_COLUMN = "image"
"""The column of a predictions file that names the image; no class can have this name."""

_LISTED = 5
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Split:
    """One split: labels, and where the pixels come from.

    Attributes:
        name: its name.
        images: N image references.
        targets: (N, K) int8 labels, an array or sparse: 1, 0, or -1 for unknown.
        class_names: K names.
        files: the N image files, or None for images in memory.
        pixels: (N, 3, S, S) uint8 images in memory, or None for files.
        skipped: one message for each image left out.
    """

    name: str
    images: tuple[str, ...]
    targets: Targets
    class_names: tuple[str, ...]
    files: tuple[Path, ...] | None = None
    pixels: NDArray[np.uint8] | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Images:
    """A split whose images are at hand.

    Attributes:
        split: the rows whose image could be read.
        table: their pixels, uint8.
        key: a name of the table's content.
    """

    split: Split
    table: Table
    key: str


def read_splits(
    data: str, names: Sequence[str | None], options: ReadOptions, *, classes: Sequence[str] | None = None
) -> list[Split]:
    """Read the labels of splits, and check that their images are there.

    Args:
        data: what to read: see :func:`tailwise.data.sources.read_labels`; or "digits".
        names: the splits; None for all rows.
        options: how to read it.
        classes: class names in the order wanted, instead of those of ``options``.

    Raises:
        InputError: the data or a split cannot be used.
    """
    if data == DIGITS:
        return [_digits(name) for name in names]
    labeled = read_labels(data, options, classes=classes)
    return [_files(labeled, name, options.on_error) for name in names]


def open_images(split: Split, size: int, config: TrainConfig) -> Images:
    """Decode the images of a split, or find them decoded.

    Args:
        split: the split.
        size: side of the decoded images in pixels; images in memory keep theirs.
        config: gives the cache folder, and what to do about damaged images.

    Raises:
        InputError: an image cannot be read.
    """
    if split.pixels is not None:
        return Images(split, TensorTable(torch.from_numpy(split.pixels)), content_key(split.pixels))
    assert split.files is not None
    cache: ImageCache = build_cache(
        split.files, size, config.cache_folder / "images", on_error=config.on_error, progress=not config.quiet
    )
    if cache.skipped:
        split = replace(
            split,
            images=tuple(split.images[row] for row in cache.kept),
            targets=split.targets[cache.kept],
            files=tuple(split.files[row] for row in cache.kept),
            skipped=split.skipped + tuple(f"{entry.path}: {entry.reason}" for entry in cache.skipped),
        )
    return Images(split, cache, content_key(cache))


def check_labels(train: Split, test: Split, stats: LabelStats) -> None:
    """Refuse labels that nothing can be learnt from or measured on; tell of classes that one side lacks.

    Raises:
        InputError: fewer than two training images, no positive label in a split, or a class name that is taken.
    """
    if IMAGE_COLUMN in stats.class_names:
        raise InputError(f"no class may be called {IMAGE_COLUMN!r}, the column of the image names; rename the class")
    if len(train) < 2:
        raise InputError(f"split {train.name!r} has {len(train)} image; training needs two at least")
    for split in (train, test):
        if not count_positives(split.targets).any():
            raise InputError(f"no image of split {split.name!r} has a positive label: check the data and the classes")
    untaught = [name for name, count in zip(stats.class_names, stats.class_counts, strict=True) if not count]
    if untaught:
        _logger.warning(
            "%d of %d classes have no image in split %r, so nothing can be learnt of them: %s%s",
            len(untaught),
            stats.num_classes,
            train.name,
            ", ".join(untaught[:_LISTED]),
            ", ..." if len(untaught) > _LISTED else "",
        )


def _files(labeled: LabeledImages, name: str | None, on_error: OnError) -> Split:
    rows, skipped = require_images(labeled if name is None else labeled.select(name), on_error)
    return Split(
        name or labeled.source.name,
        rows.images,
        rows.targets,
        rows.class_names,
        files=tuple(rows.paths()),
        skipped=rows.skipped + tuple(skipped),
    )


def _digits(name: str | None) -> Split:
    from tailwise.data.benchmarks import digits

    scenes = digits()
    parts = {
        "train": (scenes.train_images, scenes.train_targets),
        "test": (scenes.test_images, scenes.test_targets),
    }
    if name not in parts:
        raise InputError(f"the data set {DIGITS!r} has no split {name!r}; its splits are {', '.join(parts)}")
    pixels, targets = parts[name]
    images = tuple(f"{name}/{index}" for index in range(len(targets)))
    return Split(name, images, targets, scenes.class_names, pixels=pixels)
