"""Groups of rows that belong together, such as those of a patient: their sizes, their division, and those split up."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.errors import InputError
from tailwise.matrix import Targets, rows_by_class
from tailwise.shapes import Float, Int
from tailwise.spelling import counted, percent

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupSizes:
    """The groups of a data set and how many rows they have.

    Attributes:
        number: number of groups.
        smallest: rows of the smallest group.
        median: rows of the median group.
        largest: rows of the largest group.

    Example:
        >>> group_sizes(["ann", "bob", "ann", "ann", "eve"])
        GroupSizes(number=3, smallest=1, median=1.0, largest=3)
        >>> print(group_sizes(["ann", "bob", "ann", "ann", "eve"]))
        1 to 3 rows each, median 1
    """

    number: int
    smallest: int
    median: float
    largest: int

    def __str__(self) -> str:
        return f"{self.smallest:,} to {self.largest:,} rows each, median {self.median:,.4g}"


@dataclass(frozen=True)
class SharedGroups:
    """Groups with rows in a training split and in another one, which then does not measure what it seems to.

    Attributes:
        train: name of the training split.
        other: name of the other split.
        number: groups of the other split that have rows in the training split.
        of: groups of the other split.
        share: share of the rows of the other split that are in such groups.
    """

    train: str
    other: str
    number: int
    of: int
    share: float

    def __str__(self) -> str:
        have = "has" if self.number == 1 else "have"
        return (
            f"{self.number:,} of {counted(self.of, 'group')} of split {self.other!r}, with {percent(self.share)} of "
            f"its rows, {have} rows in split {self.train!r} too"
        )


def group_name(cell: object) -> str:
    """The group that a cell or an entry names, "" for a blank or missing one.

    Columns of whole numbers with blanks are often written in floating point, so 7.0 means what 7 means.

    Raises:
        InputError: it is a list or an object.

    Example:
        >>> [group_name(cell) for cell in (" ann ", 7, 7.0, None)]
        ['ann', '7', '7', '']
    """
    if isinstance(cell, list | dict | np.ndarray):
        raise InputError(f"the group is {cell!r:.80} where text or a number is expected")
    if cell is None or type(cell).__name__ == "NAType" or cell != cell:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def number_groups(groups: Sequence[str]) -> NDArray[np.intp]:
    """(N,) the group of each row as a number, from 0 in the order in which groups first appear."""
    numbers: dict[str, int] = {}
    return np.fromiter((numbers.setdefault(name, len(numbers)) for name in groups), dtype=np.intp, count=len(groups))


def group_sizes(groups: Sequence[str]) -> GroupSizes:
    """The number of groups and their rows; there must be a row."""
    sizes = np.bincount(number_groups(groups))
    return GroupSizes(len(sizes), int(sizes.min()), float(np.median(sizes)), int(sizes.max()))


def shared_groups(train: Iterable[str], other: Sequence[str], *, names: tuple[str, str]) -> SharedGroups | None:
    """The groups of a split that have rows in the training split as well.

    A model that has seen other images of a patient recognizes the patient, so that scores on such rows are higher than
    those on new patients. Splits drawn image by image have this flaw.

    Args:
        train: groups of the rows trained on.
        other: the group of each row of a test or validation split.
        names: names of the two splits.

    Returns:
        None where there are none.

    Example:
        >>> print(shared_groups(["ann", "bob"], ["ann", "ann", "eve"], names=("train", "test")))
        1 of 2 groups of split 'test', with 66.7% of its rows, has rows in split 'train' too
    """
    rows = Counter(other)
    both = rows.keys() & set(train)
    if not both:
        return None
    return SharedGroups(*names, len(both), len(rows), sum(rows[name] for name in both) / len(other))


def tell_of_shared_groups(train: Iterable[str] | None, other: Sequence[str] | None, *, names: tuple[str, str]) -> None:
    """Warn of groups as :func:`shared_groups` finds them, with the way out; None where no groups are known."""
    shared = None if train is None or other is None else shared_groups(train, other, names=names)
    if shared is not None:
        _logger.warning(
            "%s, so that scores there are higher than on new groups: divide the rows anew with --split-ratios, which "
            "keeps groups whole, or give other splits with --split-file",
            shared,
        )


def deal_groups(
    targets: Targets,
    group_of: Int[np.ndarray, " N"],
    shares: Float[np.ndarray, " S"],
    generator: np.random.Generator,
) -> NDArray[np.intp]:
    """Divide groups of rows into parts, each with its share of the rows and of the positives of each class.

    A greedy choice, as scikit-learn's StratifiedGroupKFold makes it for one label a row: groups come by falling sum of
    their shares of all classes, equals by chance, so that what is large or rare is placed while there is room. Each
    goes to the part for which

        sum over k of  sum over s of  share_s · (n_ks / (share_s · n_k) - 1)²

    falls most or grows least, where n_ks is what part s has so far of the n_k positives of class k, and the rows count
    as one more class; to a random one of several such parts.

    How even the parts are depends on the groups: one that is larger than a share cannot be divided evenly. Of 100,000
    rows with 50 classes (17% to 0.06% of the rows) in 22,000 groups, the largest with 1.9% of the rows, five folds have
    20.0% of the rows each, and nine in ten counts of a class in a fold are within 5% of its fifth. Of 5,000 rows with
    20 such classes in 40 groups of 2.5%, folds have 19% to 21% of the rows, and half of the counts are within 22%.

    Args:
        targets: (N, K) labels: 1, 0, or -1 for unknown, which does not count.
        group_of: (N,) the group of each row, numbers from 0 to G - 1 that all occur.
        shares: (S,) positive shares of the parts, which add up to 1.
        generator: gives what is decided by chance.

    Returns:
        (G,) the part of each group.
    """
    counts = _count_labels(targets, group_of)
    num_groups, num_classes = counts.shape
    starts, classes = counts.indptr, counts.indices
    held = counts.data / np.asarray(counts.sum(axis=0)).reshape(-1)[classes]
    size = np.bincount(np.repeat(np.arange(num_groups), np.diff(starts)), weights=held, minlength=num_groups)
    lacking = np.tile(shares, (num_classes, 1))
    chosen = np.empty(num_groups, dtype=np.intp)
    for group in np.lexsort((generator.random(num_groups), -size)):
        own = slice(starts[group], starts[group + 1])
        part = held[own][:, None]
        # What the sum of squares falls by, class after class: no library may add in another order.
        gain = (part * (2 * lacking[classes[own]] - part)).sum(axis=0) / shares
        best = np.flatnonzero(gain == gain.max())
        chosen[group] = best[0] if len(best) == 1 else best[int(generator.random() * len(best))]
        lacking[classes[own], chosen[group]] -= held[own]
    return chosen


def _count_labels(targets: Targets, group_of: NDArray[np.intp]) -> Any:
    """(G, K + 1) CSR: the positives of each class in each group, and in the last column its rows."""
    from scipy.sparse import csr_array

    columns = [*rows_by_class(targets), np.arange(len(group_of))]
    rows, classes = np.concatenate(columns), np.repeat(np.arange(len(columns)), [len(column) for column in columns])
    num_groups = int(group_of.max(initial=-1)) + 1
    counts = csr_array((np.ones(len(rows)), (group_of[rows], classes)), shape=(num_groups, len(columns)))
    counts.sum_duplicates()
    return counts
