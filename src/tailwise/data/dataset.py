"""Labelled images as one type, whatever they were read from: references, a label matrix, class names, splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from tailwise.errors import InputError, OnError
from tailwise.labels import LabelStats
from tailwise.matrix import Targets
from tailwise.spelling import near

SPLIT_JOINER = "+"
"""Stands between the names of several splits that are taken together."""


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images by reference with their labels, and where each row stands in its source.

    Attributes:
        images: N references as written in the source, relative to ``root``.
        root: the folder the references start from.
        targets: (N, K) labels: 1, 0, or -1 where nobody has judged; an int8 array, or an int8
            ``scipy.sparse.csr_array`` (what is not stored is 0) where an array would take too much memory.
        class_names: K distinct names, in the order of the columns of ``targets``.
        splits: N split names; "" where the source gives none.
        lines: N places in ``source``: line or row numbers from 1, or ids.
        source: the file or folder the labels were read from.
        place: how a place is written in messages, from ``{source}``, ``{line}`` and ``{image}``.
        skipped: one message for each row of the source that was left out.
    """

    images: tuple[str, ...]
    root: Path
    targets: Targets
    class_names: tuple[str, ...]
    splits: tuple[str, ...]
    lines: tuple[int, ...]
    source: Path
    place: str = "{source}:{line}"
    skipped: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"LabeledImages({len(self)} images, {len(self.class_names)} classes, source={str(self.source)!r})"

    def where(self, row: SupportsIndex) -> str:
        """Where a row stands in the source, for messages."""
        return self.place.format(source=self.source, line=self.lines[row], image=self.images[row])

    def select(self, split: str) -> LabeledImages:
        """Keep the rows of one split, or of several: ``"train+val"``.

        Raises:
            InputError: no row is in ``split``; the message lists the splits there are.
        """
        sizes = Counter(name for name in self.splits if name)
        wanted = {split} if split in sizes else set(split.split(SPLIT_JOINER))
        if wanted <= sizes.keys():
            return self.subset([row for row, name in enumerate(self.splits) if name in wanted])
        if not sizes:
            raise InputError(
                f"{self.source} assigns no row to a split, so it has no split {split!r}: "
                "add a column 'split', divide the rows with split_ratios or split_file, or use all its rows"
            )
        missing = sorted(wanted - sizes.keys())[0]
        listed = ", ".join(f"{name} ({size} rows)" for name, size in sizes.items())
        raise InputError(f"{self.source} has no split {missing!r}{near(missing, sizes)}; its splits are {listed}")

    def subset(self, indices: Sequence[SupportsIndex] | NDArray[np.integer] | NDArray[np.bool_]) -> LabeledImages:
        """Keep the rows at ``indices``, in that order; a (N,) boolean mask keeps the rows where it is true."""
        # An empty list would become an array of floats, which cannot index.
        chosen = np.asarray(indices) if len(indices) else np.empty(0, dtype=np.intp)
        rows = np.arange(len(self))[chosen]
        return replace(
            self,
            images=tuple(self.images[row] for row in rows),
            targets=self.targets[rows],
            splits=tuple(self.splits[row] for row in rows),
            lines=tuple(self.lines[row] for row in rows),
        )

    def paths(self) -> list[Path]:
        """The N image files."""
        return [self.root / image for image in self.images]

    def stats(self, thresholds: tuple[int, int] = (20, 100), cooccurrence: bool = False) -> LabelStats:
        """Count the labels of these rows; see :class:`~tailwise.labels.LabelStats` for the arguments."""
        return LabelStats.from_targets(self.targets, self.class_names, thresholds, cooccurrence=cooccurrence)


def require_images(data: LabeledImages, on_error: OnError = "raise") -> tuple[LabeledImages, list[str]]:
    """Check that every image is a file.

    Args:
        data: the images to look for.
        on_error: "raise", or "skip" to leave out the rows whose image is missing.

    Returns:
        The rows whose image is there, and one message for each row left out.

    Raises:
        InputError: an image is missing and ``on_error`` is "raise", or every image is missing.
    """
    present = np.array([path.is_file() for path in data.paths()], dtype=bool)
    missing = [f"{data.where(row)}: no image {data.images[row]!r} in {data.root}" for row in np.flatnonzero(~present)]
    if missing and not present.any():
        raise InputError(f"{missing[0]}; none of the {len(data)} images is there: is this the root of the references?")
    if missing and on_error != "skip":
        raise InputError(
            f"{missing[0]} ({len(missing)} of {len(data)} images are missing); "
            'add them, or leave such rows out with on_error="skip"'
        )
    return data.subset(present), missing
