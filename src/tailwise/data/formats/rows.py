"""Rows of label files: reading text, checking rows, and assembling them into a data set."""

from __future__ import annotations

import json
import posixpath
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tailwise.data.dataset import Dataset, Files
from tailwise.errors import InputError, OnError
from tailwise.matrix import from_indices
from tailwise.spelling import near

if TYPE_CHECKING:
    from tailwise.data.reading import ReadOptions


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without byte-order mark, or in UTF-16 with one.

    Raises:
        InputError: the file cannot be read or is not such text; the message names the line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: begins like UTF-16 text and is not; save the file as UTF-8") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8 text; save the file as UTF-8"
        ) from error


IMAGE_KEYS = ("image", "file_name", "filename", "image_path", "path", "image_id")
"""Names of the column or key of image references; the first that is present counts."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image as a reader found it.

    Attributes:
        line: its place in the source: line or row number from 1, or id.
        image: reference relative to the root, with forward slashes.
        labels: names of its positive classes.
        unknown: names of the classes that were not judged.
        split: name of its split, "" for none.
        group: the rows that it belongs to, where the option ``group_column`` names a column; "" for a blank.
    """

    line: int
    image: str
    labels: Sequence[str]
    unknown: Sequence[str] = ()
    split: str = ""
    group: str = ""


class Problems:
    """Problems of single rows: the first one raised, or all of them collected and their rows left out."""

    def __init__(self, on_error: OnError = "raise") -> None:
        self.on_error = on_error
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """Record what is wrong with a row, which the caller leaves out.

        Raises:
            InputError: problems are to be raised.
        """
        if self.on_error == "raise":
            raise InputError(f'{message} (or leave such rows out with on_error="skip")')
        self.messages.append(message)


@dataclass(frozen=True)
class Request:
    """Labelled data to be read, and how.

    Attributes:
        data: the path or the name of the data.
        options: the options of reading.
        class_names: the classes in the order wanted; None for those that the data define or name.
        problems: what to do about bad rows.
    """

    data: str
    options: ReadOptions
    class_names: tuple[str, ...] | None
    problems: Problems

    @property
    def path(self) -> Path:
        """The file or folder, or the name as a path."""
        return Path(self.data)

    def root(self, default: Path) -> Path:
        """The folder that image references start from: that of the options, or the default of the format."""
        return default if self.options.root is None else Path(self.options.root)

    def assemble(
        self,
        rows: Iterable[Row],
        *,
        root: Path,
        class_names: tuple[str, ...] | None = None,
        place: str = "{source}:{line}",
    ) -> Dataset:
        """The data set of these rows; ``class_names`` are those of the data, where none are given."""
        names = self.class_names or class_names
        return assemble(
            rows,
            source=self.path,
            root=root,
            class_names=names,
            problems=self.problems,
            place=place,
            group_column=self.options.group_column,
        )


@dataclass(frozen=True)
class Format:
    """One format of labelled data, as the table in :mod:`tailwise.data.formats` lists it.

    Attributes:
        name: the value of the option ``format``.
        read: reads the data of a request; most readers yield a :class:`Row` for each image and end with
            :meth:`Request.assemble`.
        suffixes: endings of its files.
        holds: whether a folder is in this format; None where folders are not read.
        folder: what such a folder contains, for messages.
        is_named: whether data are of this format by their name; None where they are always files or folders.
        has_columns: whether rows can have a column or key with a group, which the option ``group_column`` names.

    Example:
        >>> def read_lists(request):
        ...     lines = enumerate(read_text(request.path).splitlines(), 1)
        ...     rows = (Row(line, image, labels) for line, text in lines for image, *labels in [text.split()])
        ...     return request.assemble(rows, root=request.root(request.path.parent))
        >>> lists = Format("lists", read_lists, suffixes=(".lst",))
    """

    name: str
    read: Callable[[Request], Dataset]
    suffixes: tuple[str, ...] = ()
    holds: Callable[[Path], bool] | None = None
    folder: str = ""
    is_named: Callable[[str], bool] | None = None
    has_columns: bool = False


def assemble(
    rows: Iterable[Row],
    *,
    source: Path,
    root: Path,
    class_names: tuple[str, ...] | None,
    problems: Problems,
    place: str = "{source}:{line}",
    group_column: str | None = None,
) -> Dataset:
    """Check rows and make them into labelled images.

    Args:
        rows: the rows, in order; consumed once.
        source: where they come from.
        root: the folder that references start from.
        class_names: the classes; None for all that are named, sorted.
        problems: what to do about a bad row; may hold problems that the reader has found already.
        place: how a place is written in messages, from ``{source}``, ``{line}`` and ``{image}``.
        group_column: name of the column of groups; None where rows have none.

    Raises:
        InputError: a row has no image, leaves the root, repeats an image, names an unknown class or lacks a group, and
            problems are to be raised; or no row is left, or no row has a label and there are no class names.
    """
    position = {name: column for column, name in enumerate(class_names or ())}
    is_open = class_names is None
    first_at: dict[str, str | int] = {}
    images: list[str] = []
    splits: list[str] = []
    groups: list[str] = []
    lines: list[int] = []
    positive, unknown = _Places(), _Places()
    for row in rows:
        problem = _problem_with(row, source, first_at, place) or (None if is_open else _stranger(row, position))
        if problem is None and group_column is not None and not row.group:
            problem = (
                f"{group_column!r}, the --group-column, is empty; give each row a group, and one that belongs with no "
                "other a group of its own"
            )
        if problem is not None:
            problems.add(f"{place.format(source=source, line=row.line, image=row.image)}: {problem}")
            continue
        first_at[_plain(row.image)] = row.line
        for places, labels in ((positive, row.labels), (unknown, row.unknown)):
            places.add(len(images), [position.setdefault(name, len(position)) for name in labels])
        images.append(row.image)
        splits.append(row.split)
        groups.append(row.group)
        lines.append(row.line)
    if not images:
        raise InputError(_nothing_left(source, problems))
    names = class_names or _names_found(position, source)
    # Classes were numbered in order of appearance; this maps them to their columns.
    column = np.argsort([position[name] for name in names])
    return Dataset(
        names=tuple(images),
        inputs=Files(root),
        targets=from_indices(positive.as_array(column), unknown.as_array(column), (len(images), len(names))),
        class_names=names,
        splits=tuple(splits),
        groups=None if group_column is None else tuple(groups),
        lines=tuple(lines),
        source=source,
        place=place,
        skipped=tuple(problems.messages),
    )


def class_list(classes: str | Path | Sequence[str] | None) -> tuple[str, ...] | None:
    """Class names as given, or from a JSON file: a list, or an object with a list ``class_names``.

    Raises:
        InputError: the file cannot be read, or these are no distinct, non-empty names.
    """
    if classes is None:
        return None
    origin = "classes"
    names: object = classes if isinstance(classes, str | Path) else list(classes)
    if isinstance(classes, str | Path):
        origin = str(classes)
        try:
            names = json.loads(read_text(Path(classes)))
        except json.JSONDecodeError as error:
            raise InputError(f"{origin}:{error.lineno}: not valid JSON: {error.msg}") from error
        if isinstance(names, dict):
            names = names.get("class_names")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise InputError(f'{origin}: expected a list of class names such as ["cat", "dog"]')
    stripped = tuple(name.strip() for name in names)
    repeated = [name for name, count in Counter(stripped).items() if count > 1]
    if repeated:
        raise InputError(f"{origin}: class {repeated[0]!r} occurs more than once; class names must be distinct")
    return stripped


class _Places:
    """Rows and classes of labels, four bytes each."""

    def __init__(self) -> None:
        self.rows, self.classes = array("i"), array("i")

    def add(self, row: int, classes: Sequence[int]) -> None:
        self.rows.extend([row] * len(classes))
        self.classes.extend(classes)

    def as_array(self, column: NDArray[np.intp]) -> NDArray[np.int64]:
        """(2, n) rows and classes, the classes renumbered."""
        rows, classes = (np.frombuffer(part, dtype=np.int32) for part in (self.rows, self.classes))
        return np.stack([rows, column[classes]]).astype(np.int64)


def _problem_with(row: Row, source: Path, first_at: dict[str, str | int], place: str) -> str | None:
    """The problem of the reference of a row, if any."""
    if not row.image:
        return "no image is named; each row needs one"
    # Both separators on every platform: a file must not be safe on one machine and unsafe on another.
    plain = _plain(row.image)
    if plain.startswith("/") or re.match("[A-Za-z]:[/\\\\]", row.image):
        return f"image {row.image!r} is an absolute path; give it relative to the root, and the root as an option"
    if plain == ".." or plain.startswith("../"):
        return f"image {row.image!r} lies outside the root; give a root that holds every image"
    if plain in first_at:
        earlier = place.format(source=source, line=first_at[plain], image=row.image)
        return f"image {row.image!r} is at {earlier} already; an image has one row, in one split"
    if "\0" in row.image:
        return f"image {row.image!r} holds a null character, which no file name has"
    return None


def _stranger(row: Row, position: dict[str, int]) -> str | None:
    """The problem of the labels of a row, where the classes are given."""
    for name in (*row.labels, *row.unknown):
        if name not in position:
            return f"{name!r} is none of the {len(position)} classes{near(name, position)}"
    return None


def _plain(image: str) -> str:
    return posixpath.normpath(image.replace("\\", "/"))


def _names_found(position: Iterable[str], source: Path) -> tuple[str, ...]:
    found = tuple(sorted(position))
    if not found:
        raise InputError(f"{source}: no row has a label, and no class names are given")
    return found


def _nothing_left(source: Path, problems: Problems) -> str:
    if not problems.messages:
        return f"{source} has no rows; expected one for each image"
    return f"{source}: none of its {len(problems.messages)} rows can be used; the first: {problems.messages[0]}"
