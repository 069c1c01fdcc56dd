"""Statistics of training labels: class counts and groups, shared by losses, samplers, metrics and reports."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tailwise.errors import InputError
from tailwise.matrix import (
    Csr,
    are_label_lists,
    decode_labels,
    dense_or_parts,
    distinct_names,
    entries,
    frame_columns,
    hard_labels,
    require_matrix,
)
from tailwise.records import read_record, write_record

IndexArray: TypeAlias = NDArray[np.intp]
_FORMAT = "tailwise-label-stats-1"
_CHUNK_ELEMENTS = 1 << 24


class LabelStats:
    """Per-class positive counts of a training set, with its head, medium and tail classes.

    A class is *head* with at least ``thresholds[1]`` positives, *tail* with fewer than ``thresholds[0]``, else
    *medium*: n >= 100, n < 20 and 20 <= n < 100 by default, as the published VOC-MLT and COCO-MLT splits do
    (Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets", ECCV 2020).

    Args:
        class_counts: (K,) number of training samples in which each class is positive.
        num_samples: number of training samples N.
        class_names: K distinct names; ``class 0`` ... when absent.
        thresholds: (low, high) counts that separate tail from medium and medium from head.
        groups: classes by group name, as indices or class names, instead of ``thresholds``. Every class must be
            in exactly one group.
        cooccurrence: (K, K) number of samples in which two classes are positive together; its diagonal is
            ``class_counts``.

    Raises:
        ValueError: a count is negative, NaN, not whole or above ``num_samples``; lengths disagree; names repeat;
            groups overlap or leave a class out.

    Example:
        >>> stats = LabelStats([120, 40, 3], num_samples=200, class_names=["person", "dog", "zebra"])
        >>> stats
        LabelStats(200 samples, 3 classes: head 1, medium 1, tail 1)
        >>> stats.groups["tail"]
        array([2])
    """

    def __init__(
        self,
        class_counts: ArrayLike,
        num_samples: int,
        class_names: Sequence[str] | None = None,
        thresholds: tuple[int, int] = (20, 100),
        *,
        groups: Mapping[str, Iterable[SupportsIndex | str]] | None = None,
        cooccurrence: ArrayLike | None = None,
    ) -> None:
        self.num_samples = int(num_samples)
        self.class_counts = _whole_counts(class_counts, self.num_samples)
        self.class_names = distinct_names(class_names, self.num_classes)
        low, high = thresholds
        if not 0 <= low <= high:
            raise ValueError(f"thresholds must be (low, high) with 0 <= low <= high, got {tuple(thresholds)}")
        self.thresholds = (int(low), int(high))
        self._named_groups = None if groups is None else self._resolve_groups(groups)
        self.cooccurrence = None if cooccurrence is None else self._checked_cooccurrence(cooccurrence)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_counts)

    @cached_property
    def groups(self) -> dict[str, IndexArray]:
        """Class indices of each group: ``{"head", "medium", "tail"}``, or the groups given by name."""
        if self._named_groups is not None:
            return self._named_groups
        low, high = self.thresholds
        n = self.class_counts
        return {
            "head": np.flatnonzero(n >= high),
            "medium": np.flatnonzero((n >= low) & (n < high)),
            "tail": np.flatnonzero(n < low),
        }

    @classmethod
    def from_targets(
        cls,
        targets: Any,
        class_names: Sequence[str] | None = None,
        thresholds: tuple[int, int] = (20, 100),
        *,
        groups: Mapping[str, Iterable[SupportsIndex | str]] | None = None,
        cooccurrence: bool = False,
    ) -> LabelStats:
        """Count the positives of a label matrix.

        Args:
            targets: (N, K) array or tensor, a CSR matrix (``scipy.sparse`` or ``torch.sparse_csr``), a data frame
                whose columns are the classes, N lists of class names, or an iterable of (n, K) chunks. Entries are 1,
                0, or unknown (-1, and NaN or a missing entry); unknown labels are not counted.
            class_names: as in the constructor; those of the columns when absent and there are any.
            thresholds: as in the constructor.
            groups: as in the constructor.
            cooccurrence: also count how often two classes are positive together; needs K * K memory.

        Returns:
            The statistics; ``num_samples`` counts every row.

        Raises:
            ValueError: entries other than 0, 1 and unknown, chunks of different widths, or no row at all.

        Example:
            >>> stats = LabelStats.from_targets([["dog"], [], ["cat", "dog"]])
            >>> stats.class_names, stats.class_counts
            (('cat', 'dog'), array([1, 2]))
        """
        pairs: NDArray[np.int64] | None = None
        counts: NDArray[np.int64] | None = None
        columns: tuple[str, ...] | None = None
        num_samples = 0
        for matrix, own in _matrices(targets, class_names):
            num_classes = matrix.shape[1]
            if counts is None:
                counts, columns = np.zeros(num_classes, dtype=np.int64), own
                pairs = np.zeros((num_classes, num_classes), dtype=np.int64) if cooccurrence else None
            if num_classes != len(counts):
                raise ValueError(f"chunks of targets have {len(counts)} classes, then {num_classes}")
            if own != columns:
                raise ValueError("chunks of targets have other columns, or the same in another order, than the first")
            num_samples += matrix.shape[0]
            for row, column, value in entries(matrix):
                positive = hard_labels(value) == 1
                counts += np.bincount(column[positive], minlength=num_classes)
                if pairs is not None:
                    _add_pairs(pairs, row[positive], column[positive])
        if counts is None or not num_samples:
            raise ValueError("targets hold no row: give an (N, K) label matrix with N >= 1")
        names = columns if class_names is None else class_names
        return cls(counts, num_samples, names, thresholds, groups=groups, cooccurrence=pairs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics as JSON, atomically."""
        record: dict[str, Any] = {
            "num_samples": self.num_samples,
            "class_counts": self.class_counts.tolist(),
            "class_names": list(self.class_names),
            "thresholds": list(self.thresholds),
        }
        if self._named_groups is not None:
            record["groups"] = {name: index.tolist() for name, index in self._named_groups.items()}
        if self.cooccurrence is not None:
            row, column = np.nonzero(np.triu(self.cooccurrence, 1))
            record["cooccurrence"] = [
                row.tolist(),
                column.tolist(),
                self.cooccurrence[row, column].tolist(),
            ]
        write_record(path, _FORMAT, record)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LabelStats:
        """Read statistics written by :meth:`save`.

        Raises:
            ValueError: the file is not a statistics file, or its content is inconsistent.
        """
        record = read_record(path, _FORMAT, "label statistics")
        pairs = None
        if "cooccurrence" in record:
            row, column, count = record["cooccurrence"]
            pairs = np.diag(record["class_counts"])
            pairs[row, column] = pairs[column, row] = count
        return cls(
            record["class_counts"],
            record["num_samples"],
            record["class_names"],
            tuple(record["thresholds"]),
            groups=record.get("groups"),
            cooccurrence=pairs,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LabelStats):
            return NotImplemented
        same_pairs = (self.cooccurrence is None) == (other.cooccurrence is None)
        if same_pairs and self.cooccurrence is not None:
            same_pairs = np.array_equal(self.cooccurrence, other.cooccurrence)  # type: ignore[arg-type]
        return (
            same_pairs
            and self.num_samples == other.num_samples
            and np.array_equal(self.class_counts, other.class_counts)
            and self.class_names == other.class_names
            and self.groups.keys() == other.groups.keys()
            and all(np.array_equal(self.groups[name], other.groups[name]) for name in self.groups)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(index)}" for name, index in self.groups.items())
        return f"LabelStats({self.num_samples} samples, {self.num_classes} classes: {sizes})"

    def _resolve_groups(self, groups: Mapping[str, Iterable[SupportsIndex | str]]) -> dict[str, IndexArray]:
        position = {name: index for index, name in enumerate(self.class_names)}
        owner: dict[int, str] = {}
        resolved: dict[str, IndexArray] = {}
        for group, members in groups.items():
            indices = []
            for member in members:
                index = position.get(member) if isinstance(member, str) else int(member)
                if index is None or not 0 <= index < self.num_classes:
                    raise ValueError(
                        f"group {group!r} names {member!r}, which is not one of the {self.num_classes} classes"
                    )
                if index in owner:
                    raise ValueError(
                        f"class {self.class_names[index]!r} is in the groups {owner[index]!r} and {group!r}; "
                        "each class belongs to exactly one"
                    )
                owner[index] = group
                indices.append(index)
            resolved[group] = np.array(sorted(indices), dtype=np.intp)
        missing = [name for index, name in enumerate(self.class_names) if index not in owner]
        if missing:
            raise ValueError(f"{len(missing)} classes are in no group: {', '.join(missing[:5])}")
        return resolved

    def _checked_cooccurrence(self, cooccurrence: ArrayLike) -> NDArray[np.int64]:
        pairs = np.asarray(cooccurrence, dtype=np.int64)
        if pairs.shape != (self.num_classes, self.num_classes):
            raise ValueError(f"cooccurrence must be ({self.num_classes}, {self.num_classes}), got {pairs.shape}")
        if not np.array_equal(np.diagonal(pairs), self.class_counts) or not np.array_equal(pairs, pairs.T):
            raise ValueError("cooccurrence must be symmetric with class_counts on its diagonal")
        return pairs


def require_stats(stats: object) -> None:
    """Raise ValueError unless something is a :class:`LabelStats`."""
    if not isinstance(stats, LabelStats):
        raise ValueError(
            f"stats must be a LabelStats, got {type(stats).__name__}: LabelStats(class_counts, num_samples) or "
            "LabelStats.from_targets(targets) makes one"
        )


def _whole_counts(class_counts: ArrayLike, num_samples: int) -> NDArray[np.int64]:
    given = np.asarray(class_counts)
    if given.ndim != 1 or given.size == 0:
        raise ValueError(f"class_counts must be one count per class, got an array of shape {given.shape}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    values = given.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values) | (values < 0) | (values != np.floor(values)) | (values > num_samples))
    if wrong.size:
        raise ValueError(
            f"class_counts must be whole numbers between 0 and num_samples = {num_samples}; "
            f"class {wrong[0]} has {given[wrong[0]]}"
        )
    return given.astype(np.int64)


def _matrices(
    targets: Any, class_names: Sequence[str] | None
) -> Iterator[tuple[NDArray[Any] | Csr, tuple[str, ...] | None]]:
    """Each chunk of the targets, and the names of its columns if it has any."""
    names = frame_columns(targets)
    if are_label_lists(targets):
        targets, names = decode_labels(targets, class_names)
    matrix = dense_or_parts(targets)
    if matrix is not None:
        yield require_matrix(matrix), names
    elif isinstance(targets, Iterable) and not isinstance(targets, str | bytes | Mapping):
        for part in targets:
            yield from _matrices(part, class_names)
    else:
        given = f" {targets!r:.40}" if isinstance(targets, str | bytes | int | float) else ""
        raise InputError(
            "targets must be an (N, K) matrix of 1, 0 and unknown (-1 or NaN), a data frame of such columns, N lists "
            f"of class names, or an iterable of (n, K) matrices, got {type(targets).__name__}{given}"
        )


def _add_pairs(pairs: NDArray[np.int64], row: IndexArray, column: IndexArray) -> None:
    """Add the classes that are positive together, of positives by ascending row."""
    step = max(1, _CHUNK_ELEMENTS // max(1, len(pairs)))
    first, stop = (row[0], row[-1] + 1) if len(row) else (0, 0)
    for start in range(first, stop, step):
        part = slice(*np.searchsorted(row, [start, start + step]))
        rows = np.zeros((min(step, stop - start), len(pairs)), dtype=np.float32)
        rows[row[part] - start, column[part]] = 1
        # float32 products of 0/1 rows are exact: there are at most 2**24 rows.
        pairs += (rows.T @ rows).astype(np.int64)
