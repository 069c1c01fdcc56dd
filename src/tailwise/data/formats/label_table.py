"""Tables of labels in CSV and Parquet: their columns, and rows made from their cells."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.data.dataset import Dataset
from tailwise.data.formats.cells import BLANK, MINUS_ONE, ONE, ZERO, Cells
from tailwise.data.formats.rows import IMAGE_KEYS, Format, Problems, Request, Row, read_text
from tailwise.data.row_groups import group_name
from tailwise.errors import InputError
from tailwise.matrix import UNKNOWN
from tailwise.spelling import near

# Tables with holes are often written in floating point, so "1.0" means what "1" means.
_TEXTS = {ONE: ("1", "1.0", "true"), ZERO: ("0", "0.0", "false"), MINUS_ONE: ("-1", "-1.0"), BLANK: ("",)}
_CODES = {text: code for code, texts in _TEXTS.items() for text in texts}
_DELIMITERS = (",", ";", "\t")
_LISTS = ("labels", "unknown")
_CELL_EXPECTED = "where 1, 0, -1 or nothing (unknown) is expected"
_NO_LABEL = 0
_BATCH = 65_536


def read_csv(request: Request) -> Dataset:
    """Read a CSV file of image labels.

    The header names a column ``image`` (or ``file_name``, ``image_id``, ...), an optional column ``split``, and either
    a column ``labels`` that lists the positive classes of the image (an empty cell: none of them) and optionally one
    ``unknown`` that lists those that were not judged, or one column per class with cells 1, 0, and -1 or nothing for
    unknown, unless the options ``negative`` and ``blank`` change it. The option ``group_column`` names a column of
    groups, which is no class. With ``labels``, further columns are ignored.
    Columns are separated by commas, semicolons or tabs, whichever separates the header. The text is in UTF-8, or in
    UTF-16 with byte-order mark, with any line ends. Without class names, the classes are the labels found, sorted, or
    every column other than ``image``, ``split`` and that of groups, in the order of the file.

    Returns:
        One row per line of the file, in its order. That the images exist is not checked: see
        :func:`~tailwise.data.dataset.require_images`.

    Raises:
        InputError: the file cannot be read, a column is missing, or a line holds an unknown class, a repeated
            image, a reference that leaves ``root``, or too few or too many cells, and the message names the line; or
            it is open what -1 or blanks mean.
    """
    path = request.path
    lines = _lines(path)
    _, header = next(lines, (1, []))
    header = [name.strip() for name in header]
    if not header:
        raise InputError(f"{path} is empty; expected a header 'image,labels' and a row per image")
    table = LabelTable(request, header, place="{source}:{line}", head=f"{path}:1")
    whole = ((line, texts) for line, texts in lines if _is_whole(texts, header, f"{path}:{line}", request.problems))
    return table.assemble(table.row_of_text(line, texts) for line, texts in whole)


def read_parquet(request: Request) -> Dataset:
    """Read a Parquet file of image labels.

    Its columns are those of :func:`read_csv`; ``labels`` and ``unknown`` may also be lists of strings, and the columns
    of classes integers, floating point or booleans, in which a missing value is a blank. It is read in batches, so
    that memory holds the labels only.

    Returns:
        One row per row of the file, in its order; :attr:`Dataset.lines` count rows from 1.

    Raises:
        InputError: as in :func:`read_csv`; messages name the row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = request.path
    try:
        with path.open("rb") as opened, pq.ParquetFile(opened) as file:
            header = list(file.schema_arrow.names)
            table = LabelTable(request, header, place="{source}, row {line}", head=str(path))
            return table.assemble(_parquet_rows(table, file.iter_batches(_BATCH, columns=table.columns_read)))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a whole Parquet file: {error}; write it again") from error


class LabelTable:
    """Columns of a table, and rows made from their cells.

    Args:
        request: gives the file, the class names and the options.
        header: its column names.
        place: as in :func:`~tailwise.data.formats.rows.assemble`.
        head: place of the header, for messages.
    """

    def __init__(self, request: Request, header: Sequence[str], *, place: str, head: str) -> None:
        self.request, self.path, self.problems, self.place = request, request.path, request.problems, place
        self.separator, self.cells, names = request.options.separator, Cells(request.options), request.class_names
        if not self.separator:
            raise InputError("separator must be at least one character")
        repeated = [name for name, count in Counter(header).items() if name and count > 1]
        if repeated:
            raise InputError(f"{head}: column {repeated[0]!r} occurs more than once; column names must be distinct")
        self.column = {name: index for index, name in enumerate(header)}
        named = [name for name in IMAGE_KEYS if name in self.column]
        if not named:
            raise InputError(f"{head}: no column 'image'; {_describe_columns(header)}")
        self.image, self.group = named[0], request.options.group_column
        if self.group is not None and self.group not in self.column:
            raise InputError(
                f"{head}: no column {self.group!r}, which --group-column names{near(self.group, header)}; "
                f"{_list_columns(header)}"
            )
        self.has_lists = "labels" in self.column
        if self.has_lists:
            split_name = next((name for name in names or () if self.separator in name), None)
            if split_name is not None:
                raise InputError(
                    f"class {split_name!r} holds the separator {self.separator!r} of the labels in {self.path}; "
                    "use another separator in both"
                )
            self.class_names = names
        else:
            self.class_names = _class_columns(head, header, (self.image, "split", self.group), names)
            self.class_columns = [self.column[name] for name in self.class_names]
            self.held = np.zeros(len(self.class_names), dtype=np.uint8)

    @property
    def columns_read(self) -> list[str]:
        """Names of the columns that matter."""
        labels = _LISTS if self.has_lists else self.class_names or ()
        wanted = (self.image, "split", self.group, *labels)
        return [name for name in dict.fromkeys(wanted) if name in self.column]

    def row_of_text(self, line: int, cells: Sequence[str]) -> Row | None:
        """The row of a line of text; None if it is left out."""
        image = cells[self.column[self.image]].strip()
        split = cells[self.column["split"]].strip() if "split" in self.column else ""
        group = "" if self.group is None else cells[self.column[self.group]].strip()
        if self.has_lists:
            labels, unknown = (
                self.labels_in(cells[self.column[name]]) if name in self.column else [] for name in _LISTS
            )
            return Row(line, image, labels, unknown, split, group)
        codes = [_CODES.get(cells[column].strip().lower()) for column in self.class_columns]
        if None in codes:
            name = self.class_names[codes.index(None)]  # type: ignore[index]
            self.problems.add(
                f"{self.path}:{line}: column {name!r} holds {cells[self.column[name]]!r} {_CELL_EXPECTED}; lists of "
                "labels stand in a column named 'labels', a column of groups, such as the patient, is named by "
                "--group-column, and another that is no class is left out by giving the class names"
            )
            return None
        return self.row_of_codes(line, image, split, group, np.array(codes, dtype=np.uint8))

    def row_of_codes(self, line: int, image: str, split: str, group: str, codes: NDArray[np.uint8]) -> Row:
        """The row of an image with the (K,) codes of its cells."""
        assert self.class_names is not None
        self.held |= codes
        labels = self.cells.labels[codes]
        positive, unknown = ([self.class_names[k] for k in np.flatnonzero(labels == v)] for v in (1, UNKNOWN))
        return Row(line, image, positive, unknown, split, group)

    def labels_in(self, cell: str) -> list[str]:
        """The labels listed in a cell of text."""
        return [label for part in cell.split(self.separator) if (label := part.strip())]

    def assemble(self, rows: Iterator[Row | None]) -> Dataset:
        """Make the rows into labelled images."""
        return self.request.assemble(
            self._checked(rows),
            root=self.request.root(self.path.parent),
            class_names=self.class_names,
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
    return f"{_list_columns(header)}{near('image', header)}"


def _list_columns(header: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in header[:20])
    return f"the header has {listed}{', ...' if len(header) > 20 else ''}"


def _class_columns(
    head: str, header: Sequence[str], of_rows: Sequence[str | None], names: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Names of the columns of classes, which are those wanted, or all but those that describe the rows."""
    others = [name for name in header if name not in of_rows]
    described = next((name for name in names or () if name in of_rows), None)
    if described is not None:
        raise InputError(f"{head}: column {described!r} describes the images, and class names give it as a class, too")
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


def _parquet_rows(table: LabelTable, batches: Iterator[Any]) -> Iterator[Row | None]:
    """Yield the rows of the record batches of a Parquet file."""
    line = 0
    for batch in batches:
        columns = {name: batch.column(name) for name in batch.schema.names}
        images, splits = (_texts(columns.get(name), len(batch), table.path, name) for name in (table.image, "split"))
        groups = _groups(columns.get(table.group), len(batch), table)
        if table.has_lists:
            lists = {name: columns[name].to_pylist() for name in _LISTS if name in columns}
        else:
            codes = _class_codes(columns, table)
        for index, (image, split, group) in enumerate(zip(images, splits, groups, strict=True)):
            line += 1
            if table.has_lists:
                cells = {name: _labels_of(cell[index], table) for name, cell in lists.items()}
                wrong = next((name for name, labels in cells.items() if labels is None), None)
                if wrong is not None:
                    cell = lists[wrong][index]
                    table.problems.add(f"{table.path}, row {line}: column {wrong!r} holds {cell!r}, no list of strings")
                    yield None
                else:
                    yield Row(line, image, cells["labels"] or (), cells.get("unknown") or (), split, group)
            elif (bad := np.flatnonzero(codes[index] == _NO_LABEL)).size:
                name = table.class_names[bad[0]]  # type: ignore[index]
                cell = columns[name][index].as_py()
                table.problems.add(f"{table.path}, row {line}: column {name!r} holds {cell!r} {_CELL_EXPECTED}")
                yield None
            else:
                yield table.row_of_codes(line, image, split, group, codes[index])


def _class_codes(columns: Mapping[str, Any], table: LabelTable) -> NDArray[np.uint8]:
    """(n, K) codes of the cells of a record batch; 0 where one holds anything else."""
    import pyarrow as pa
    import pyarrow.compute as pc

    codes = []
    for name in table.class_names or ():
        column = columns[name]
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            cells = [_CODES.get((cell or "").strip().lower(), _NO_LABEL) for cell in column.to_pylist()]
            codes.append(np.array(cells, dtype=np.uint8))
            continue
        try:
            numbers = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"{table.path}: column {name!r} has the type {column.type} {_CELL_EXPECTED}; lists of labels stand in "
                "a column named 'labels', and a column that is no class is left out by giving the class names"
            ) from error
        found = np.full(len(numbers), _NO_LABEL, dtype=np.uint8)
        for value, code in ((0, ZERO), (1, ONE), (-1, MINUS_ONE)):
            found[numbers == value] = code
        found[np.isnan(numbers)] = BLANK
        codes.append(found)
    return np.stack(codes, axis=1)


def _texts(column: Any, length: int, path: Path, name: str) -> list[str]:
    """The cells of a column of text, "" where there is none."""
    if column is None:
        return [""] * length
    cells = column.to_pylist()
    wrong = next((cell for cell in cells if not isinstance(cell, str | None)), None)
    if wrong is not None:
        raise InputError(f"{path}: column {name!r} holds {wrong!r} where text is expected")
    return [(cell or "").strip() for cell in cells]


def _groups(column: Any, length: int, table: LabelTable) -> list[str]:
    """The cells of the column of groups, "" where there is none."""
    if column is None:
        return [""] * length
    try:
        return [group_name(cell) for cell in column.to_pylist()]
    except InputError as error:
        raise InputError(f"{table.path}: column {table.group!r}: {error}") from error


def _labels_of(cell: object, table: LabelTable) -> list[str] | None:
    """The labels in a cell of text or of a list; None if it is neither."""
    if cell is None:
        return []
    if isinstance(cell, str):
        return table.labels_in(cell)
    if isinstance(cell, list) and all(isinstance(label, str) for label in cell):
        return [stripped for label in cell if (stripped := label.strip())]
    return None


CSV = Format("csv", read_csv, suffixes=(".csv", ".tsv", ".txt"), has_columns=True)
PARQUET = Format("parquet", read_parquet, suffixes=(".parquet", ".pq"), has_columns=True)
