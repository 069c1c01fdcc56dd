"""Inputs of a run: the rows of its splits, checks of their labels, and tables that rows are read from by index."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.data.cache_folder import cache_limit, make_room
from tailwise.data.dataset import SPLIT_JOINER, Dataset, Features, Files, Pixels, require_images
from tailwise.data.pixels.image_cache import ImageCache, build_cache
from tailwise.data.reading import ReadOptions, read
from tailwise.data.row_groups import tell_of_shared_groups
from tailwise.data.splits import divide, divided
from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.matrix import can_be_scored, count_negatives, count_positives
from tailwise.shapes import Shaped, UInt8
from tailwise.training.config import ALL_FOLDS, NO_SPLIT, TrainConfig, load, to_mapping
from tailwise.training.resolution import resolve

IMAGE_COLUMN = "image"
"""The column of a predictions file that names the image; no class can have this name."""

_LISTED = 5
_logger = logging.getLogger(__name__)


class Table(Protocol):
    """N rows of model inputs."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> Tensor:
        """Gather rows into a new tensor."""
        ...


class TensorTable:
    """Rows held in memory.

    Args:
        rows: (N, ...) features, or images as uint8.
    """

    def __init__(self, rows: Shaped[Tensor, "N ..."]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """Gather rows into a new tensor."""
        return self.rows[indices]


class TableSubset:
    """Some rows of a table.

    Args:
        table: the whole.
        rows: (N,) its rows that are here.
    """

    def __init__(self, table: Table, rows: NDArray[np.integer]) -> None:
        self.table = table
        self.rows = torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """Gather rows into a new tensor."""
        return self.table.batch(self.rows[indices])


@dataclass(frozen=True, eq=False)
class Images:
    """A split with its decoded images or features.

    Attributes:
        split: the rows whose image could be read.
        table: their pixels, uint8, or their features.
        key: a digest of the content of the table.
        kept: (N,) index of each of these rows in the original split.
    """

    split: Dataset
    table: Table
    key: str
    kept: NDArray[np.integer]

    def subset(self, chosen: NDArray[np.bool_], name: str | None = None) -> Images:
        """Keep the rows where ``chosen``, which is (M,) for the original split, under another name if given.

        Raises:
            InputError: none of these rows could be read.
        """
        rows = np.flatnonzero(chosen[self.kept])
        split = self.split.subset(rows, name)
        if not len(split):
            raise InputError(f"none of the images of split {split.name!r} can be read")
        key = hashlib.sha256(self.key.encode() + rows.tobytes()).hexdigest()
        return Images(split, TableSubset(self.table, rows), key, self.kept[rows])


@dataclass(frozen=True, eq=False)
class RunSplits:
    """The labels of a run.

    Attributes:
        whole: the training split, with the rows held out of it.
        held_out: (N,) whether a row of it is held out.
        test: the test split; None without one.
        validation: a split of its own, or the rows held out; None without either.
        ratios: shares of the splits, if all rows were divided.
    """

    whole: Dataset
    held_out: NDArray[np.bool_]
    test: Dataset | None
    validation: Dataset | None
    ratios: dict[str, float] | None = None

    @cached_property
    def train(self) -> Dataset:
        """The rows that are trained on."""
        return self.whole if not self.held_out.any() else self.whole.subset(np.flatnonzero(~self.held_out))


def read_rows(
    data: str,
    split: str | None,
    options: ReadOptions,
    *,
    classes: Sequence[str] | None = None,
    train_split: str | None = None,
) -> Dataset:
    """Read a split, or all rows, and check that the images are there.

    Args:
        data: what to read: see :func:`tailwise.data.read`.
        split: the split; None for all rows.
        options: how to read it.
        classes: class names in the order wanted, instead of those of ``options``.
        train_split: the split that the model was trained on, where it is in the same data: groups of both are told of.

    Raises:
        InputError: the data or the split cannot be used.
    """
    found = read(data, options, classes=classes)
    rows = select_rows(found, split, options)
    if found.groups is not None and train_split is not None and train_split != split:
        parts = {train_split, *train_split.split(SPLIT_JOINER)}
        trained_on = [group for group, part in zip(found.groups, found.splits, strict=True) if part in parts]
        tell_of_shared_groups(trained_on, rows.groups, names=(train_split, rows.name))
    return rows


def select_rows(data: Dataset, split: str | None, options: ReadOptions) -> Dataset:
    """The rows of a split, or all, after checking that their images are there."""
    return require_images(data if split is None else data.select(split), options.on_error)


def read_run(config: TrainConfig) -> RunSplits:
    """Read the labels of the splits that a run trains, tests and validates on.

    Data without splits are divided; see :func:`with_division`. The part that is held out depends on the labels of the
    training split alone, so that runs with other seeds and losses hold out the same images. Where all parts are held
    out in turn, none is held out here; see :func:`each_fold`.

    Raises:
        InputError: the data or a split cannot be used, or there are fewer images than parts.
    """
    found = read(config.data, config)
    if config.test_split == NO_SPLIT and NO_SPLIT in found.splits:
        raise InputError(
            f"--test-split {NO_SPLIT} means to test on nothing, and {found.source} has a split of this name: give that "
            "split another name"
        )
    config, found = with_division(config, found)
    train = require_images(found.select(config.train_split), config.on_error)
    wanted = (None if config.test_split == NO_SPLIT else config.test_split, config.val_split)
    test, validation = (
        None if name is None else require_images(found.select(name), config.on_error) for name in wanted
    )
    splits = RunSplits(train, np.zeros(len(train), dtype=np.bool_), test, validation, config.split_ratios)
    if not config.val_folds or config.val_fold == ALL_FOLDS:
        return splits
    return each_fold(splits, config.val_folds)[config.val_fold]


def with_division(config: TrainConfig, labeled: Dataset) -> tuple[TrainConfig, Dataset]:
    """Divide data without splits into those that a run needs, evenly in every class and with groups whole.

    A fifth is the test split; a tenth is the validation split where the run has one. The division is recorded in the
    configuration as split_ratios, so that the data of the run are always divided in the same way.

    Args:
        config: the run.
        labeled: its data.

    Returns:
        Both unchanged where the data have splits, or the run says how to divide them; else both divided.

    Raises:
        InputError: there are too few rows or groups for these splits.
    """
    is_given = config.split_ratios is not None or config.split_file is not None
    if any(labeled.splits) or is_given or SPLIT_JOINER in f"{config.train_split}{config.test_split}{config.val_split}":
        return config, labeled
    shares = {} if config.test_split == NO_SPLIT else {config.test_split: 0.2}
    shares |= {} if config.val_split is None else {config.val_split: 0.1}
    ratios = {config.train_split: round(1 - sum(shares.values()), 1), **shares}
    _logger.info(
        "%s has no splits, and is divided, evenly in every class%s: %s (change it by --split-ratios, --split-seed or "
        "--split-file)",
        labeled.source,
        "" if labeled.groups is None else " and with groups whole",
        ", ".join(f"{share:.0%} {name}" for name, share in ratios.items()),
    )
    return replace(config, split_ratios=ratios), divided(labeled, ratios, seed=config.split_seed)


def with_division_of(run: Path, config: TrainConfig) -> TrainConfig:
    """The configuration with the division recorded by an earlier run in its folder, unless it has one itself."""
    if config.split_ratios is not None or config.split_file is not None or not run.is_file():
        return config
    with suppress(InputError):  # a damaged file is reported where the folder is claimed
        config = replace(config, split_ratios=load(run).split_ratios)
    return config


def read_as(config: TrainConfig, data: str, options: ReadOptions) -> TrainConfig:
    """The configuration with other data and options of reading, and its own cache unless they name one."""
    chosen = {entry.name: getattr(options, entry.name) for entry in fields(ReadOptions)}
    return replace(config, data=data, **{**chosen, "cache": options.cache or config.cache})


def record_reading(config: TrainConfig, split: str | None) -> dict[str, Any]:
    """The data of a test, for its metrics: place, split or None for all rows, and options of reading."""
    plain = to_mapping(resolve(config))
    return {"data": plain["data"], "split": split, **{entry.name: plain[entry.name] for entry in fields(ReadOptions)}}


def each_fold(splits: RunSplits, folds: int) -> list[RunSplits]:
    """The labels with each of ``folds`` parts of the training split held out; groups stay whole.

    Raises:
        InputError: there are more parts than images or groups, or one would have none.
    """
    train = splits.whole
    parts = divide(train, folds)
    names = [f"{train.name}, fold {fold} of {folds}" for fold in range(folds)]
    for fold, name in enumerate(names):
        if not (parts == fold).any():
            raise InputError(f"{name}, has no image; give fewer --val-folds")
    return [
        replace(splits, held_out=parts == fold, validation=train.subset(np.flatnonzero(parts == fold), name))
        for fold, name in enumerate(names)
    ]


def open_images(split: Dataset, size: int, config: TrainConfig) -> Images:
    """Decode the images of a split, or find them decoded.

    Args:
        split: the split.
        size: side of the decoded images in pixels; images in memory keep theirs.
        config: gives the cache folder, and what to do about damaged images.

    Raises:
        InputError: an image cannot be read, or the limit of the cache is not a number.
    """
    match split.inputs:
        case Pixels(pixels):
            table = TensorTable(torch.from_numpy(pixels))
            return Images(split, table, content_key(pixels), np.arange(len(split)))
        case Features():
            raise InputError(f"{split.source} holds features where images are needed; give image files")
        case Files():
            pass
    cache_limit()  # before images are decoded for long
    cache: ImageCache = build_cache(
        split.paths(), size, config.cache_folder / "images", on_error=config.on_error, progress=not config.quiet
    )
    make_room(config.cache_folder, keep=cache.path)
    if cache.skipped:
        unreadable = tuple(f"{entry.path}: {entry.reason}" for entry in cache.skipped)
        split = replace(split.subset(cache.kept), skipped=split.skipped + unreadable)
    return Images(split, cache, content_key(cache), cache.kept)


def content_key(pixels: ImageCache | UInt8[np.ndarray, "N C H W"]) -> str:
    """A digest that two tables of images share if their pixels and their order are the same.

    It depends neither on the place of the images nor on the decoder.
    """
    if isinstance(pixels, ImageCache):
        shape, digest = (len(pixels), 3, pixels.size, pixels.size), pixels.digest
    else:
        shape, digest = pixels.shape, hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
    return hashlib.sha256(f"{shape} {digest}".encode()).hexdigest()


def check_labels(splits: RunSplits, stats: LabelStats, *, tell: bool = True) -> None:
    """Check that a model can be trained and tested on the labels; warn of classes of one kind and of shared groups.

    Args:
        splits: the labels.
        stats: statistics of the training labels.
        tell: whether to warn.

    Raises:
        InputError: fewer than two training images, no positive label in a split, no class with both a positive and a
            judged negative to train on, or a class with a reserved name.
    """
    if IMAGE_COLUMN in stats.class_names:
        raise InputError(f"no class may be called {IMAGE_COLUMN!r}, the column of the image names; rename the class")
    train = splits.train
    if len(train) < 2:
        raise InputError(f"split {train.name!r} has {len(train)} image; training needs at least two")
    for split in (train, splits.test, splits.validation):
        if split is not None and not count_positives(split.targets).any():
            raise InputError(f"no image of split {split.name!r} has a positive label: check the data and the classes")
    if not can_be_scored(train.targets).any():
        raise InputError(
            f"no class of split {train.name!r} has both a positive and a judged negative, so that nothing can be "
            "learnt but to predict the same for every image: check what images without a class have as its label "
            "(0 is absent; -1, null and blanks are unknown unless --negative and --blank say otherwise)"
        )
    if tell:
        _tell_what_is_missing(splits, stats)
        # Rows held out of the training split choose thresholds, so that the test split must not share their groups.
        for trained_on, split in ((splits.whole, splits.test), (train, splits.validation)):
            if split is not None:
                tell_of_shared_groups(trained_on.groups, split.groups, names=(train.name, split.name))


def _tell_what_is_missing(splits: RunSplits, stats: LabelStats) -> None:
    """Warn of classes that cannot be learnt, and of splits on which mAP is undefined."""
    train = splits.train
    _tell_of(stats.class_counts == 0, "have no image in split %r, so nothing can be learnt of them", train)
    _tell_of(
        (count_negatives(train.targets) == 0) & (stats.class_counts > 0),
        "have no judged negative in split %r, so nothing is learnt of them but to predict them for every image",
        train,
    )
    for split in (splits.test, splits.validation):
        if split is not None and not can_be_scored(split.targets).any():
            _logger.warning(
                "no class of split %r has both a positive and a judged negative, so mAP is undefined there", split.name
            )


def _tell_of(chosen: NDArray[np.bool_], what: str, split: Dataset) -> None:
    """Warn of some of the classes of a split, if any are chosen."""
    names = [split.class_names[k] for k in np.flatnonzero(chosen)]
    if names:
        more = ", ..." if len(names) > _LISTED else ""
        found = f"%d of %d classes {what}: %s%s"
        _logger.warning(found, len(names), len(chosen), split.name, ", ".join(names[:_LISTED]), more)
