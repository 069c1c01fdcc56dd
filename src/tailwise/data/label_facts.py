"""Facts about the labels of a data set before training: counts, groups, splits and pairs of classes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tailwise.data.class_pairs import Cooccurrence, count_pairs
from tailwise.data.dataset import Dataset
from tailwise.data.row_groups import GroupSizes, SharedGroups, group_sizes, shared_groups
from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.matrix import UNKNOWN, entries, read_matrix
from tailwise.shapes import Float, Int

MAX_SPLITS = 16
"""Splits with facts of their own: those trained and tested on, and the largest others."""
MAX_HEAT_CLASSES = 40
"""Classes of the co-occurrence matrix that is kept whole."""

_EPOCH_DIVISOR = 4
_Counts: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SplitFacts:
    """Counts of one split, or of all rows.

    Attributes:
        name: the name of the split; "" for rows in no split, and for all rows.
        class_counts: (K,) images in which each class is positive.
        unknown_counts: (K,) images in which each class is unknown.
        histogram: (L,) images with 0, 1, ... L - 1 positive labels, the most that any image has.
        head_only: images with labels, all of them of head classes of the training rows.
    """

    name: str
    class_counts: Int[np.ndarray, " K"]
    unknown_counts: Int[np.ndarray, " K"]
    histogram: Int[np.ndarray, " L"]
    head_only: int

    @property
    def num_images(self) -> int:
        """Number of images N."""
        return int(self.histogram.sum())

    @property
    def negative_counts(self) -> Int[np.ndarray, " K"]:
        """(K,) images that were judged to be without each class."""
        counts: _Counts = self.num_images - self.class_counts - self.unknown_counts
        return counts

    @property
    def num_positives(self) -> int:
        """Positive labels of all images together."""
        return int(self.class_counts.sum())

    @property
    def unlabelled(self) -> int:
        """Images without a positive label."""
        return int(self.histogram[0])

    @property
    def mean_labels(self) -> float:
        """Mean number of positive labels of an image."""
        return self.num_positives / self.num_images

    @property
    def max_labels(self) -> int:
        """Most positive labels of any image."""
        return len(self.histogram) - 1

    @property
    def density(self) -> float:
        """Share of the N · K labels that are positive."""
        return self.mean_labels / len(self.class_counts)

    @property
    def unknown_share(self) -> float:
        """Share of the N · K labels that are unknown."""
        return int(self.unknown_counts.sum()) / (self.num_images * len(self.class_counts))

    @property
    def head_only_share(self) -> float:
        """Share of the images with labels that have labels of head classes only; NaN where no image has a label."""
        labelled = self.num_images - self.unlabelled
        return self.head_only / labelled if labelled else float("nan")

    @property
    def imbalance_ratio(self) -> float:
        """Largest class count over the smallest that is not zero; NaN where every count is zero."""
        present = self.class_counts[self.class_counts > 0]
        return float(present.max() / present.min()) if len(present) else float("nan")


@dataclass(frozen=True, eq=False)
class Inspection:
    """Facts about labelled images. Groups and co-occurrence are those of the training rows.

    Attributes:
        source: where the labels come from.
        stats: counts, names and groups of the training rows.
        total: counts of all rows.
        splits: counts of each split, in the order in which they first appear; none where no row is in a split.
        splits_left_out: number of splits beyond ``MAX_SPLITS``, which ``total`` counts and ``splits`` leaves out.
        train_split: the split trained on; None for all rows.
        test_split: the split tested on, if any.
        cooccurrence: pairs of classes that stand out, and companions.
        frequent: (H,) the most frequent classes, by falling count.
        frequent_pairs: (H, H) images in which two of them are positive together; on the diagonal, images of each.
        skipped: messages on rows that were left out in reading.
        row_groups: sizes of the groups of rows, such as patients; None where the data give none.
        shared_groups: for each split with groups that are trained on as well, which and how many.
    """

    source: Path
    stats: LabelStats
    total: SplitFacts
    splits: tuple[SplitFacts, ...]
    splits_left_out: int
    train_split: str | None
    test_split: str | None
    cooccurrence: Cooccurrence
    frequent: Int[np.ndarray, " H"]
    frequent_pairs: Int[np.ndarray, "H H"]
    skipped: tuple[str, ...]
    row_groups: GroupSizes | None = None
    shared_groups: tuple[SharedGroups, ...] = ()

    @property
    def train(self) -> SplitFacts:
        """Counts of the training rows."""
        return self.total if self.train_split is None else self._split(self.train_split)

    @property
    def test(self) -> SplitFacts | None:
        """Counts of the test rows; None without a test split."""
        return None if self.test_split is None else self._split(self.test_split)

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """(K,) classes by falling training count, equals by index."""
        order: NDArray[np.intp] = np.argsort(-self.stats.class_counts, kind="stable")
        return order

    @cached_property
    def group_of(self) -> tuple[str, ...]:
        """K names of groups."""
        names = np.empty(self.stats.num_classes, dtype=object)
        for name, members in self.stats.groups.items():
            names[members] = name
        return tuple(names)

    @property
    def class_aware_epoch(self) -> int:
        """Draws in an epoch of :class:`~tailwise.data.samplers.ClassAwareSampler`: max_k n_k · K / 4 of K classes."""
        counts = self.stats.class_counts
        return int(counts.max() * np.count_nonzero(counts) / _EPOCH_DIVISOR)

    @property
    def class_aware_repeats(self) -> Float[np.ndarray, " K"]:
        """(K,) how often such an epoch shows an image of a class for the sake of that class; NaN without images."""
        counts = self.stats.class_counts
        draws = np.full(len(counts), counts.max() / _EPOCH_DIVISOR)
        repeats: NDArray[np.float64] = np.divide(draws, counts, out=np.full(len(counts), np.nan), where=counts > 0)
        return repeats

    def _split(self, name: str) -> SplitFacts:
        return next(facts for facts in self.splits if facts.name == name)


def inspect_labels(
    data: Dataset,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    thresholds: tuple[int, int] = (20, 100),
) -> Inspection:
    """Facts of labelled data; no image is opened, and no N × K or K × K matrix is made.

    Args:
        data: the labelled images, with a dense or a sparse label matrix.
        train_split: the split that will be trained on; all rows when None.
        test_split: the split that will be tested on, if any.
        thresholds: (low, high) training counts that separate tail from medium and medium from head.

    Raises:
        InputError: there is no such split, both are the same, there is no row, or the thresholds do not rise.
    """
    if train_split is not None and train_split == test_split:
        raise InputError(f"the training and the test split are both {train_split!r}; test on other images")
    if not len(data):
        raise InputError(f"{data.source} has no row to inspect")
    if not 0 <= thresholds[0] <= thresholds[1]:
        raise InputError(f"thresholds must be two rising counts, got {thresholds}")
    wanted = [name for name in (train_split, test_split) if name is not None]
    names, row_split = _number_splits(data, wanted)
    # One place more than there are names, for the rows of splits left out.
    positives, class_counts, unknown_counts = _count_labels(data.targets, row_split, len(names) + 1)
    train_place = None if train_split is None else names.index(train_split)
    train_counts = class_counts.sum(axis=0) if train_place is None else class_counts[train_place]
    num_train = len(data) if train_place is None else int(np.count_nonzero(row_split == train_place))
    stats = LabelStats(train_counts, num_train, data.class_names, thresholds)
    num_labels = np.diff(positives.indptr)
    in_head = np.zeros(stats.num_classes, dtype=np.int32)
    in_head[stats.groups["head"]] = 1
    head_only = (num_labels > 0) & (positives @ in_head == num_labels)

    def facts(name: str, rows: Any, positive: _Counts, unknown: _Counts) -> SplitFacts:
        histogram = np.bincount(num_labels[rows], minlength=1)
        return SplitFacts(name, positive, unknown, histogram, int(np.count_nonzero(head_only[rows])))

    train_rows = positives if train_place is None else positives[np.flatnonzero(row_split == train_place)]
    frequent = np.argsort(-train_counts, kind="stable")[:MAX_HEAT_CLASSES]
    frequent_rows = train_rows[:, frequent]
    return Inspection(
        source=data.source,
        stats=stats,
        total=facts("", slice(None), class_counts.sum(axis=0), unknown_counts.sum(axis=0)),
        splits=tuple(
            facts(name, row_split == place, class_counts[place], unknown_counts[place])
            for place, name in enumerate(() if names == ("",) else names)
        ),
        splits_left_out=len(set(data.splits)) - len(names),
        train_split=train_split,
        test_split=test_split,
        cooccurrence=count_pairs(train_rows),
        frequent=frequent,
        frequent_pairs=(frequent_rows.T @ frequent_rows).toarray().astype(np.int64),
        skipped=data.skipped,
        row_groups=None if data.groups is None else group_sizes(data.groups),
        shared_groups=tuple(_find_shared(data, train_split)),
    )


def _find_shared(data: Dataset, train_split: str | None) -> Iterator[SharedGroups]:
    """The groups of each other split that are trained on as well."""
    if data.groups is None or train_split is None:
        return
    by_split: defaultdict[str, list[str]] = defaultdict(list)
    for split, group in zip(data.splits, data.groups, strict=True):
        by_split[split].append(group)
    for split, groups in by_split.items():
        if split not in ("", train_split):
            shared = shared_groups(by_split[train_split], groups, names=(train_split, split))
            yield from () if shared is None else (shared,)


def _number_splits(data: Dataset, wanted: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Names of the splits kept, and for each row the place of its split among them, or one more if it is left out."""
    sizes = Counter(data.splits)
    for name in wanted:
        if name not in sizes:
            data.select(name)
    by_size = sorted(sizes, key=lambda name: (name not in wanted, -sizes[name]))
    kept = set(by_size[:MAX_SPLITS])
    names = tuple(name for name in sizes if name in kept)
    place = {name: index for index, name in enumerate(names)}
    places = (place.get(name, len(names)) for name in data.splits)
    return names, np.fromiter(places, dtype=np.intp, count=len(data))


def _count_labels(
    targets: Any, row_split: NDArray[np.intp], num_splits: int
) -> tuple[sparse.csr_array, _Counts, _Counts]:
    """The positives as a sparse (N, K) matrix of ones, and (splits, K) counts of positive and of unknown labels."""
    num_rows, num_classes = targets.shape
    positive_counts, unknown_counts = np.zeros((2, num_splits, num_classes), dtype=np.int64)
    labels_of_row = np.zeros(num_rows, dtype=np.int64)
    columns: list[NDArray[np.int32]] = []
    for row, column, value in entries(read_matrix(targets)):
        flat = row_split[row] * num_classes + column
        for counts, chosen in ((positive_counts, value == 1), (unknown_counts, value == UNKNOWN)):
            counts += np.bincount(flat[chosen], minlength=counts.size).reshape(counts.shape)
        positive = value == 1
        labels_of_row += np.bincount(row[positive], minlength=num_rows)
        columns.append(column[positive].astype(np.int32))
    indptr = np.concatenate([[0], np.cumsum(labels_of_row)])
    indices = np.concatenate(columns)
    positives = sparse.csr_array((np.ones(len(indices), dtype=np.int32), indices, indptr), shape=targets.shape)
    return positives, positive_counts, unknown_counts
