"""Tables of labels in CSV, and the columns of a table of labels in any format."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tailwise.data.dataset import Dataset
from tailwise.data.formats.rows import (
    BLANK,
    IMAGE_KEYS,
    MINUS_ONE,
    ONE,
    ZERO,
    Blank,
    Cells,
    Format,
    Negative,
    Problems,
    Row,
    assemble,
    class_list,
    read_text,
)
from tailwise.errors import InputError, OnError
from tailwise.matrix import UNKNOWN
from tailwise.spelling import near

if TYPE_CHECKING:
    from tailwise.data.reading import ReadOptions

# Tables with holes are often written in floating point, so "1.0" means what "1" means.
_TEXTS = {ONE: ("1", "1.0", "true"), ZERO: ("0", "0.0", "false"), MINUS_ONE: ("-1", "-1.0"), BLANK: ("",)}
CODES = {text: code for code, texts in _TEXTS.items() for text in texts}
_DELIMITERS = (",", ";", "\t")
LISTS = ("labels", "unknown")
CELL_EXPECTED = "where 1, 0, -1 or nothing (unknown) is expected"


def read_csv(
    path: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    separator: str = "|",
    negative: Negative | None = None,
    blank: Blank | None = None,
    root: str | Path | None = None,
    on_error: OnError = "raise",
) -> Dataset:
    """Read a CSV file of image labels.

    The header names a column ``image`` (or ``file_name``, ``image_id``, ...), an optional column ``split``, and either
    a column ``labels`` that lists the positive classes of the image (an empty cell: none of them) and optionally one
    ``unknown`` that lists those that were not judged, or one column per class with cells 1, 0, and -1 or nothing for
    unknown, unless ``negative`` and ``blank`` say otherwise. With ``labels``, further columns are ignored. Columns are
    separated by commas, semicolons or tabs, whichever separates the header.

    Args:
        path: text in UTF-8, or in UTF-16 with byte-order mark, with any line ends.
        classes: class names in the order wanted, or a JSON file that lists them. Without it, the classes are the
            labels found, sorted, or every column other than ``image`` and ``split``, in the order of the file. Give
            it whenever several files must agree on the classes.
        separator: what stands between two labels in a cell.
        negative: "-1" if -1 in a column of a class means absent, "0" if it means unknown. To be given for a file in
            which such a column holds 1 and -1 and never 0.
        blank: "negative" if nothing in a column of a class means absent, "unknown" if it was not judged. To be given
            for a file in which such a column holds 1 and blanks only.
        root: the folder that image references start from; the folder of ``path`` when absent.
        on_error: "raise", or "skip" to leave out the rows that cannot be used and list them in ``skipped``.

    Returns:
        One row per line of the file, in its order. That the images exist is not checked: see
        :func:`~tailwise.data.dataset.require_images`.

    Raises:
        InputError: the file cannot be read, a column is missing, or a line holds an unknown class, a repeated
            image, a reference that leaves ``root``, or too few or too many cells, and the message names the line; or
            it is open what -1 or blanks mean.
    """
    path = Path(path)
    problems = Problems(on_error)
    lines = _lines(path)
    _, header = next(lines, (1, []))
    header = [name.strip() for name in header]
    if not header:
        raise InputError(f"{path} is empty; expected a header 'image,labels' and a row per image")
    cells = Cells(negative, blank)
    place, head = "{source}:{line}", f"{path}:1"
    table = LabelTable(path, header, class_list(classes), separator, cells, problems, place=place, head=head)
    whole = ((line, texts) for line, texts in lines if _is_whole(texts, header, f"{path}:{line}", problems))
    return table.assemble((table.row_of_text(line, texts) for line, texts in whole), root)


class LabelTable:
    """Columns of a table, and rows made from their cells.

    Args:
        path: the file.
        header: its column names.
        names: class names given, or None.
        separator: between two labels of a cell.
        cells: what the cells of classes mean.
        problems: gets what is wrong with single rows.
        place: as in :func:`~tailwise.data.formats.rows.assemble`.
        head: where the header stands, for messages.
    """

    def __init__(
        self,
        path: Path,
        header: Sequence[str],
        names: tuple[str, ...] | None,
        separator: str,
        cells: Cells,
        problems: Problems,
        *,
        place: str,
        head: str,
    ) -> None:
        if not separator:
            raise InputError("separator must be at least one character")
        self.path, self.head, self.place, self.problems, self.separator = path, head, place, problems, separator
        self.cells = cells
        repeated = [name for name, count in Counter(header).items() if name and count > 1]
        if repeated:
            raise InputError(f"{head}: column {repeated[0]!r} stands more than once; column names must be distinct")
        self.column = {name: index for index, name in enumerate(header)}
        named = [name for name in IMAGE_KEYS if name in self.column]
        if not named:
            raise InputError(f"{head}: no column 'image'; {_describe_columns(header)}")
        self.image = named[0]
        self.has_lists = "labels" in self.column
        if self.has_lists:
            split_name = next((name for name in names or () if separator in name), None)
            if split_name is not None:
                raise InputError(
                    f"class {split_name!r} holds the separator {separator!r} of the labels in {path}; "
                    "use another separator in both"
                )
            self.class_names = names
        else:
            self.class_names = _class_columns(head, header, self.image, names)
            self.class_columns = [self.column[name] for name in self.class_names]
            self.held = np.zeros(len(self.class_names), dtype=np.uint8)

    @property
    def columns_read(self) -> list[str]:
        """Names of the columns that matter."""
        labels = LISTS if self.has_lists else self.class_names or ()
        return [name for name in (self.image, "split", *labels) if name in self.column]

    def row_of_text(self, line: int, cells: Sequence[str]) -> Row | None:
        """The row of a line of text; None if it is left out."""
        image = cells[self.column[self.image]].strip()
        split = cells[self.column["split"]].strip() if "split" in self.column else ""
        if self.has_lists:
            labels, unknown = (
                self.labels_in(cells[self.column[name]]) if name in self.column else [] for name in LISTS
            )
            return Row(line, image, labels, unknown, split)
        codes = [CODES.get(cells[column].strip().lower()) for column in self.class_columns]
        if None in codes:
            name = self.class_names[codes.index(None)]  # type: ignore[index]
            self.problems.add(
                f"{self.path}:{line}: column {name!r} holds {cells[self.column[name]]!r} {CELL_EXPECTED}; lists of "
                "labels stand in a column named 'labels', and a column that is no class is left out by giving the "
                "class names"
            )
            return None
        return self.row_of_codes(line, image, split, np.array(codes, dtype=np.uint8))

    def row_of_codes(self, line: int, image: str, split: str, codes: NDArray[np.uint8]) -> Row:
        """The row of an image with the (K,) codes of its cells."""
        assert self.class_names is not None
        self.held |= codes
        labels = self.cells.labels[codes]
        positive, unknown = ([self.class_names[k] for k in np.flatnonzero(labels == v)] for v in (1, UNKNOWN))
        return Row(line, image, positive, unknown, split)

    def labels_in(self, cell: str) -> list[str]:
        """The labels listed in a cell of text."""
        return [label for part in cell.split(self.separator) if (label := part.strip())]

    def assemble(self, rows: Iterator[Row | None], root: str | Path | None) -> Dataset:
        """Make the rows into labelled images."""
        return assemble(
            self._checked(rows),
            source=self.path,
            root=self.path.parent if root is None else Path(root),
            class_names=self.class_names,
            problems=self.problems,
            place=self.place,
        )

    def _checked(self, rows: Iterator[Row | None]) -> Iterator[Row]:
        """The rows that are not left out; after the last, what the columns of classes hold is checked."""
        yield from (row for row in rows if row is not None)
        if not self.has_lists:
            self.cells.check(self.path, dict(zip(self.class_names or (), self.held.tolist(), strict=True)))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of the header and of every row that is not blank."""
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    start = 1
    try:
        for cells in reader:
            if len(cells) > 1 or "".join(cells).strip():
                yield start, cells
            # A quoted cell may hold line ends: a row starts where the one before it ended.
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{start}: not valid CSV: {error}") from error


def _delimiter(text: str) -> str:
    """What separates the columns of the header, which must name one ``image``."""
    head = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in _DELIMITERS:
        if any(cell.strip().strip('"') in IMAGE_KEYS for cell in head.split(delimiter)):
            return delimiter
    return _DELIMITERS[0]


def _is_whole(cells: Sequence[str], header: Sequence[str], where: str, problems: Problems) -> bool:
    if len(cells) == len(header):
        return True
    problems.add(
        f"{where}: {len(cells)} cells where the header has {len(header)}; "
        "a cell that holds a comma must stand in double quotes"
    )
    return False


def _describe_columns(header: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in header[:20])
    return f"the header has {listed}{', ...' if len(header) > 20 else ''}{near('image', header)}"


def _class_columns(head: str, header: Sequence[str], image: str, names: tuple[str, ...] | None) -> tuple[str, ...]:
    others = [name for name in header if name not in (image, "split")]
    if names is None:
        if not others:
            raise InputError(f"{head}: no column 'labels' and no column per class; {_describe_columns(header)}")
        if "" in others:
            raise InputError(
                f"{head}: column {list(header).index('') + 1} has no name; name it or remove it "
                "(pandas writes such a column unless told index=False)"
            )
        padded = next((name for name in others if name != name.strip()), None)
        if padded is not None:
            raise InputError(f"{head}: column {padded!r} begins or ends with white space; rename it")
        return tuple(others)
    for name in names:
        if name not in others:
            raise InputError(
                f"{head}: no column 'labels', and none for class {name!r}{near(name, others)}; "
                f"{_describe_columns(header)}"
            )
    return names


def cell_options(options: ReadOptions) -> dict[str, Any]:
    """The options of reading tables of labels."""
    return {name: getattr(options, name) for name in ("separator", "negative", "blank", "root", "on_error")}


CSV = Format(
    "csv",
    lambda data, options, classes: read_csv(data, classes=classes, **cell_options(options)),
    suffixes=(".csv", ".tsv", ".txt"),
)
