"""Division of a data set into splits and folds: evenly in every class, with groups whole, or by a file."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tailwise.data.formats.rows import read_text
from tailwise.data.row_groups import deal_groups, group_sizes, number_groups
from tailwise.errors import InputError
from tailwise.matrix import Targets, classes_by_row, rows_by_class
from tailwise.spelling import counted, near, percent

if TYPE_CHECKING:
    from tailwise.data.dataset import Dataset

# Names that an unknown one is compared with: looking through a million takes minutes.
_MOST_COMPARED = 1000

# A split that is further from its share than this part of it is told of.
_UNEVEN = 0.1

_logger = logging.getLogger(__name__)


def split_by_ratio(
    targets: Targets, ratios: Mapping[str, float], *, seed: int = 0, groups: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Divide rows so that every split has its share of the rows and of the positives of each class.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD
    2011, Algorithm 1): of the classes that still have rows, the one with the fewest gives each of them to the split
    that lacks most of that class, of several such to the one that lacks most rows, of several such to a random one.
    Rows without a positive label then go where most rows are lacking. Groups stay whole and are divided as even as
    they can be; see :func:`tailwise.data.row_groups.deal_groups`.

    Args:
        targets: (N, K) labels: 1, 0, or -1 for unknown, which does not count.
        ratios: share of each split; they add up to 1.
        seed: the same seed and rows give the same division.
        groups: N groups, each of which stays in one split.

    Returns:
        N split names.

    Raises:
        InputError: a share is not positive, they do not add up to 1, or there is not a group for each row.

    Example:
        >>> import numpy as np
        >>> labels = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]])
        >>> found = split_by_ratio(labels, {"a": 0.5, "b": 0.5}, groups=["ann", "ann", "bob", "bob", "eve"])
        >>> found[0] == found[1], found[2] == found[3]
        (True, True)
    """
    names = list(ratios)
    shares = np.array([ratios[name] for name in names], dtype=np.float64)
    if not (len(shares) and (shares > 0).all() and math.isclose(shares.sum(), 1, abs_tol=1e-6)) or "" in names:
        raise InputError(f"split_ratios must be positive shares that add up to 1, got {dict(ratios)}")
    if seed < 0:
        raise InputError(f"split_seed must not be negative, got {seed}")
    generator = np.random.Generator(np.random.PCG64(seed))
    if groups is not None:
        if len(groups) != targets.shape[0]:
            raise InputError(f"there are {len(groups)} groups and {targets.shape[0]} rows; give a group for each row")
        group_of = number_groups(groups)
        dealt = deal_groups(targets, group_of, shares, generator)
        return tuple(names[split] for split in dealt[group_of])
    # Sorted uniform keys: the doubles of PCG64 never change, while NumPy may change how `shuffle` uses them.
    rank = np.argsort(np.argsort(generator.random(targets.shape[0]), kind="stable"), kind="stable")
    chosen = _stratify(targets, shares, rank, generator)
    return tuple(names[split] for split in chosen)


def divided(data: Dataset, ratios: Mapping[str, float], *, seed: int = 0) -> Dataset:
    """The data with all rows divided anew, groups whole; warns where large groups make the splits uneven.

    Args:
        data: the rows.
        ratios: share of each split; they add up to 1.
        seed: the same seed and data give the same division.

    Raises:
        InputError: as in :func:`split_by_ratio`, or a split gets no row.
    """
    splits = split_by_ratio(data.targets, ratios, seed=seed, groups=data.groups)
    sizes = Counter(splits)
    in_groups = "" if data.groups is None else f", in {counted(len(set(data.groups)), 'group')} that stay whole"
    for name, share in ratios.items():
        if not sizes[name]:
            raise InputError(
                f"--split-ratios gives {name!r}, with a share of {share:g}, none of the {len(data)} rows of "
                f"{data.source}{in_groups}; give it more, or leave it out"
            )
    if data.groups is not None:
        _tell_of_uneven_splits(data.groups, {name: sizes[name] / len(data) for name in ratios}, ratios)
    return replace(data, splits=splits)


def read_split_file(data: Dataset, path: str | Path) -> tuple[str, ...]:
    """The split of each row in a file of splits.

    Args:
        data: the rows.
        path: a CSV file with the columns ``image`` and ``split``, or a JSON file ``{"train": ["a.jpg", ...], ...}``;
            images as in ``data``.

    Returns:
        N split names, "" for images that are not in the file.

    Raises:
        InputError: the file cannot be read, names an image that is not in ``data``, or one in two splits.
    """
    path = Path(path)
    entries = _json_entries(path) if path.suffix.lower() == ".json" else _csv_entries(path)
    known = dict.fromkeys(data.names, "")
    for place, image, split in entries:
        if image not in known:
            raise InputError(
                f"{place}: image {image!r} is not in {data.source}{near(image, islice(known, _MOST_COMPARED))}"
            )
        if known[image] not in ("", split):
            raise InputError(f"{place}: image {image!r} is in split {known[image]!r} already, and now in {split!r}")
        known[image] = split
    return tuple(known[image] for image in data.names)


def divide(train: Dataset, folds: int) -> NDArray[np.intp]:
    """Divide a training split into parts that are held out in turn, the same in all runs, with groups whole.

    Args:
        train: the split.
        folds: number of parts, 2 or more.

    Returns:
        (N,) the part of each image, from 0.

    Raises:
        InputError: there are more parts than images or groups.
    """
    if folds > len(train):
        raise InputError(f"split {train.name!r} has too few images, {len(train)}, for {folds} folds")
    if train.groups is not None and folds > (number := len(set(train.groups))):
        raise InputError(
            f"split {train.name!r} has too few groups, {number}, for {folds} folds, as groups stay whole: give fewer "
            "--val-folds or --folds, and fewer --head.folds for a head that is solved exactly"
        )
    parts = split_by_ratio(train.targets, {str(fold): 1 / folds for fold in range(folds)}, groups=train.groups)
    return np.array(parts).astype(np.intp)


def require_folds(train: Dataset, folds: int) -> None:
    """Check that every part that will be held out can be tested on.

    Raises:
        InputError: there are so many parts that one has no image with a label.
    """
    if not folds:
        return
    parts = divide(train, folds)
    labelled = [row for row, classes in enumerate(classes_by_row(train.targets)) if len(classes)]
    missing = set(range(folds)) - set(parts[labelled].tolist())
    if missing:
        groups = "" if train.groups is None else f" in {len({train.groups[row] for row in labelled})} groups"
        raise InputError(
            f"split {train.name!r} has {len(labelled)} images with a label{groups}, too few for {folds} folds: "
            f"{len(missing)} of them would have none; give fewer --folds"
        )


def _tell_of_uneven_splits(groups: Sequence[str], found: Mapping[str, float], wanted: Mapping[str, float]) -> None:
    """Warn of splits whose share of the rows is not the one wanted."""
    uneven = [name for name, share in found.items() if abs(share / wanted[name] - 1) > _UNEVEN]
    if uneven:
        sizes = group_sizes(groups)
        _logger.warning(
            "groups stay whole, so that splits are uneven: %s; the largest of %s has %s of the rows",
            ", ".join(f"{name!r} has {percent(found[name])}, not {percent(wanted[name])}" for name in uneven),
            counted(sizes.number, "group"),
            percent(sizes.largest / len(groups)),
        )


def _stratify(
    targets: Targets, shares: NDArray[np.float64], rank: NDArray[np.intp], generator: np.random.Generator
) -> NDArray[np.intp]:
    """(N,) split of each row; rows of one class are dealt in the order of ``rank``."""
    by_class = rows_by_class(targets)
    labels = list(classes_by_row(targets))
    remaining = np.array([len(rows) for rows in by_class])
    lacking = np.outer(remaining, shares)
    lacking_rows = len(labels) * shares
    chosen = np.full(len(labels), -1, dtype=np.intp)

    def deal(row: np.intp, wish: NDArray[np.float64]) -> None:
        best = np.flatnonzero(wish == wish.max())
        if len(best) > 1:
            best = best[lacking_rows[best] == lacking_rows[best].max()]
        split = best[0] if len(best) == 1 else best[int(generator.random() * len(best))]
        chosen[row] = split
        lacking_rows[split] -= 1
        lacking[labels[row], split] -= 1
        remaining[labels[row]] -= 1

    while remaining.any():
        rarest = int(np.argmin(np.where(remaining > 0, remaining, np.iinfo(remaining.dtype).max)))
        rows = by_class[rarest]
        rows = rows[chosen[rows] < 0]
        for row in rows[np.argsort(rank[rows])]:
            deal(row, lacking[rarest])
    rest = np.flatnonzero(chosen < 0)
    for row in rest[np.argsort(rank[rest])]:
        deal(row, lacking_rows)
    return chosen


def _csv_entries(path: Path) -> Iterator[tuple[str, str, str]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    if not {"image", "split"} <= set(reader.fieldnames or ()):
        raise InputError(f"{path}:1: expected the columns image and split, got {reader.fieldnames}")
    for row in reader:
        image, split = ((row[name] or "").strip() for name in ("image", "split"))
        if not image or not split:
            raise InputError(f"{path}:{reader.line_num}: an image and its split are expected")
        yield f"{path}:{reader.line_num}", image, split


def _json_entries(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        splits = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    lists = list(splits.values()) if isinstance(splits, dict) else [None]
    if not all(isinstance(images, list) and all(isinstance(image, str) for image in images) for images in lists):
        raise InputError(f'{path}: expected images by split, such as {{"train": ["a.jpg"], "test": ["b.jpg"]}}')
    for split, images in splits.items():
        for image in images:
            yield str(path), image, split
