"""Labelled images as one type, whatever file they come from: references, a label matrix, class names, splits."""

from __future__ import annotations

import csv
import difflib
import io
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from tailwise.errors import InputError
from tailwise.labels import UNKNOWN, LabelStats
from tailwise.shapes import Int

# Tables with holes are often written in floating point, so "1.0" means what "1" means.
_CELL_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": UNKNOWN, "-1.0": UNKNOWN, "": UNKNOWN}


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images by reference with their labels, and where each row stands in its source.

    Attributes:
        images: N references as written in the source, relative to ``root``.
        root: the folder the references start from.
        targets: (N, K) int8 labels: 1, 0, or -1 where nobody has judged.
        class_names: K distinct names, in the order of the columns of ``targets``.
        splits: N split names; "" where the source gives none.
        lines: N line numbers in ``source``, from 1.
        source: the file the labels were read from.
    """

    images: tuple[str, ...]
    root: Path
    targets: Int[np.ndarray, "N K"]
    class_names: tuple[str, ...]
    splits: tuple[str, ...]
    lines: tuple[int, ...]
    source: Path

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"LabeledImages({len(self)} images, {len(self.class_names)} classes, source={str(self.source)!r})"

    def select(self, split: str) -> LabeledImages:
        """Keep the rows of one split.

        Raises:
            InputError: no row is in ``split``; the message lists the splits there are.
        """
        rows = [row for row, name in enumerate(self.splits) if name == split]
        if rows:
            return self.subset(rows)
        sizes = Counter(name for name in self.splits if name)
        if not sizes:
            raise InputError(
                f"{self.source} assigns no row to a split, so it has no split {split!r}: "
                "add a column 'split', or use all its rows"
            )
        listed = ", ".join(f"{name} ({size} rows)" for name, size in sizes.items())
        raise InputError(f"{self.source} has no split {split!r}{_near(split, sizes)}; its splits are {listed}")

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


def read_csv(
    path: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    separator: str = "|",
    root: str | Path | None = None,
) -> LabeledImages:
    """Read a CSV file of image labels.

    The header names a column ``image``, an optional column ``split``, and either a column ``labels`` that lists the
    positive classes of the image (an empty cell: none of them), or one column per class with cells 1, 0, and -1 or
    nothing for unknown. Further columns beside ``labels`` are ignored.

    Args:
        path: UTF-8 text, with or without byte-order mark, any line ends.
        classes: class names in the order wanted, or a JSON file that lists them. Without it, the classes are the
            labels found, sorted, or every column other than ``image`` and ``split``, in the order of the file. Give
            it whenever several files must agree on the classes.
        separator: what stands between two labels in a ``labels`` cell.
        root: the folder that image references start from; the folder of ``path`` when absent.

    Returns:
        One row per line of the file, in its order. That the images exist is not checked: see :func:`require_images`.

    Raises:
        InputError: the file cannot be read, a column is missing, or a line holds an unknown class, a repeated
            image, a reference that leaves ``root``, or too few or too many cells. The message names the line.
    """
    path = Path(path)
    header, rows, lines = _read_table(path)
    columns = {name: column for column, name in enumerate(header)}
    if "image" not in columns:
        raise InputError(f"{path}:1: no column 'image'; {_describe_columns(header)}")
    images = tuple(row[columns["image"]].strip() for row in rows)
    _check_references(path, images, lines)
    names = None if classes is None else _class_list(classes)
    if "labels" in columns:
        cells = [row[columns["labels"]] for row in rows]
        names, targets = _parse_label_lists(path, cells, lines, names, separator)
    else:
        names, targets = _parse_class_columns(path, header, rows, lines, names)
    return LabeledImages(
        images=images,
        root=path.parent if root is None else Path(root),
        targets=targets,
        class_names=names,
        splits=tuple(row[columns["split"]].strip() for row in rows) if "split" in columns else ("",) * len(rows),
        lines=tuple(lines),
        source=path,
    )


def require_images(
    data: LabeledImages, on_error: Literal["raise", "skip"] = "raise"
) -> tuple[LabeledImages, list[str]]:
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
    missing = [
        f"{data.source}:{data.lines[row]}: no image {data.images[row]!r} in {data.root}"
        for row in np.flatnonzero(~present)
    ]
    if missing and not present.any():
        raise InputError(f"{missing[0]}; none of the {len(data)} images is there: is this the root of the references?")
    if missing and on_error != "skip":
        raise InputError(
            f"{missing[0]} ({len(missing)} of {len(data)} images are missing); "
            'add them, or leave such rows out with on_error="skip"'
        )
    return data.subset(present), missing


def _read_table(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Read (column names, rows, line number of each row); every row has as many cells as there are columns."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    start = 1
    try:
        for cells in reader:
            if len(cells) > 1 or "".join(cells).strip():
                rows.append(cells)
                lines.append(start)
            # A quoted cell may hold line ends: a row starts where the one before it ended.
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{start}: not valid CSV: {error}") from error
    if not rows:
        raise InputError(f"{path} is empty; expected a header 'image,labels' and a row per image")
    header = [name.strip() for name in rows.pop(0)]
    lines.pop(0)
    repeated = [name for name, count in Counter(header).items() if name and count > 1]
    if repeated:
        raise InputError(f"{path}:1: column {repeated[0]!r} stands more than once; column names must be distinct")
    if not rows:
        raise InputError(f"{path} has a header and no rows; expected a row per image")
    for cells, line in zip(rows, lines, strict=True):
        if len(cells) != len(header):
            raise InputError(
                f"{path}:{line}: {len(cells)} cells where the header has {len(header)}; "
                "a cell that holds a comma must stand in double quotes"
            )
    return header, rows, lines


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8 text; save the file as UTF-8"
        ) from error


def _describe_columns(header: Sequence[str]) -> str:
    found = f"the header has {', '.join(repr(name) for name in header)}"
    if len(header) == 1 and (separator := re.search(r"[;\t|]", header[0])):
        return f"{found}: columns must be separated by commas, not {separator.group()!r}"
    return f"{found}{_near('image', header)}"


def _check_references(path: Path, images: Sequence[str], lines: Sequence[int]) -> None:
    first_line: dict[str, int] = {}
    for image, line in zip(images, lines, strict=True):
        if not image:
            raise InputError(f"{path}:{line}: the cell 'image' is empty")
        # Both separators, on every platform: a file must not be safe on one machine and a way out on another.
        plain = posixpath.normpath(image.replace("\\", "/"))
        if plain.startswith("/") or re.match("[A-Za-z]:[/\\\\]", image):
            raise InputError(
                f"{path}:{line}: image {image!r} is an absolute path; give it relative to the root, "
                "and the root as an option"
            )
        if plain == ".." or plain.startswith("../"):
            raise InputError(
                f"{path}:{line}: image {image!r} lies outside the root; give a root that holds every image"
            )
        earlier = first_line.setdefault(plain, line)
        if earlier != line:
            raise InputError(
                f"{path}:{line}: image {image!r} stands on line {earlier} already; an image has one row, in one split"
            )


def _class_list(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    origin = "classes"
    names: object = classes if isinstance(classes, str | Path) else list(classes)
    if isinstance(classes, str | Path):
        origin = str(classes)
        try:
            names = json.loads(_read_text(Path(classes)))
        except json.JSONDecodeError as error:
            raise InputError(f"{origin}:{error.lineno}: not valid JSON: {error.msg}") from error
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise InputError(f'{origin}: expected a list of class names such as ["cat", "dog"]')
    stripped = tuple(name.strip() for name in names)
    repeated = [name for name, count in Counter(stripped).items() if count > 1]
    if repeated:
        raise InputError(f"{origin}: class {repeated[0]!r} stands more than once; class names must be distinct")
    return stripped


def _parse_label_lists(
    path: Path, cells: Sequence[str], lines: Sequence[int], names: tuple[str, ...] | None, separator: str
) -> tuple[tuple[str, ...], NDArray[np.int8]]:
    if not separator:
        raise InputError("separator must be at least one character")
    label_lists = [[label for part in cell.split(separator) if (label := part.strip())] for cell in cells]
    if names is None:
        names = tuple(sorted({label for labels in label_lists for label in labels}))
        if not names:
            raise InputError(f"{path}: no row has a label, and no class names are given")
    else:
        split_name = next((name for name in names if separator in name), None)
        if split_name is not None:
            raise InputError(
                f"class {split_name!r} holds the separator {separator!r} of the labels in {path}; "
                "use another separator in both"
            )
    position = {name: column for column, name in enumerate(names)}
    targets = np.zeros((len(cells), len(names)), dtype=np.int8)
    for row, labels in enumerate(label_lists):
        for label in labels:
            if label not in position:
                raise InputError(
                    f"{path}:{lines[row]}: {label!r} is none of the {len(names)} classes{_near(label, names)}; "
                    f"labels are separated by {separator!r}"
                )
            targets[row, position[label]] = 1
    return names, targets


def _parse_class_columns(
    path: Path,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    lines: Sequence[int],
    names: tuple[str, ...] | None,
) -> tuple[tuple[str, ...], NDArray[np.int8]]:
    others = [name for name in header if name not in ("image", "split")]
    if names is None:
        names = tuple(others)
        if not names:
            raise InputError(f"{path}:1: no column 'labels' and no column per class; {_describe_columns(header)}")
        if "" in names:
            raise InputError(
                f"{path}:1: column {header.index('') + 1} has no name; name it or remove it "
                "(pandas writes such a column unless told index=False)"
            )
    for name in names:
        if name not in others:
            raise InputError(
                f"{path}:1: no column 'labels', and none for class {name!r}{_near(name, others)}; "
                f"the header has {', '.join(repr(column) for column in header)}"
            )
    columns = [header.index(name) for name in names]
    targets = np.empty((len(rows), len(names)), dtype=np.int8)
    for index, row in enumerate(rows):
        try:
            targets[index] = [_CELL_VALUES[row[column].strip()] for column in columns]
        except KeyError:
            column = next(column for column in columns if row[column].strip() not in _CELL_VALUES)
            raise InputError(
                f"{path}:{lines[index]}: column {header[column]!r} holds {row[column]!r} where 1, 0, -1 or nothing "
                "(unknown) is expected; lists of labels stand in a column named 'labels', and a column that is no "
                "class is left out by giving the class names"
            ) from None
    return names, targets


def _near(name: str, known: Iterable[str]) -> str:
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return f" (did you mean {by_folded[close[0]]!r}?)" if close else ""
