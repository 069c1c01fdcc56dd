"""Tables of labels in Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.data.dataset import Dataset
from tailwise.data.formats.csv_table import CELL_EXPECTED, CODES, LISTS, LabelTable, cell_options
from tailwise.data.formats.rows import (
    BLANK,
    MINUS_ONE,
    ONE,
    ZERO,
    Blank,
    Cells,
    Format,
    Negative,
    Problems,
    Row,
    class_list,
)
from tailwise.errors import InputError, OnError

_BATCH = 65_536


def read_parquet(
    path: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    separator: str = "|",
    negative: Negative | None = None,
    blank: Blank | None = None,
    root: str | Path | None = None,
    on_error: OnError = "raise",
) -> Dataset:
    """Read a Parquet file of image labels.

    Its columns are those of :func:`read_csv`; ``labels`` and ``unknown`` may also be lists of strings, and the columns
    of classes integers, floating point or booleans, in which a missing value is a blank. It is read in batches, so
    that memory holds the labels only.

    Args:
        path: the file.
        classes: as in :func:`read_csv`.
        separator: what stands between two labels in a cell of text.
        negative: as in :func:`read_csv`.
        blank: as in :func:`read_csv`.
        root: the folder that image references start from; the folder of ``path`` when absent.
        on_error: as in :func:`read_csv`.

    Returns:
        One row per row of the file, in its order; :attr:`Dataset.lines` count rows from 1.

    Raises:
        InputError: as in :func:`read_csv`; messages name the row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    problems = Problems(on_error)
    try:
        with path.open("rb") as opened, pq.ParquetFile(opened) as file:
            header = list(file.schema_arrow.names)
            place, head = "{source}, row {line}", str(path)
            cells = Cells(negative, blank)
            table = LabelTable(path, header, class_list(classes), separator, cells, problems, place=place, head=head)
            batches = file.iter_batches(_BATCH, columns=table.columns_read)
            return table.assemble(_parquet_rows(table, batches), root)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a whole Parquet file: {error}; write it again") from error


def _parquet_rows(table: LabelTable, batches: Iterator[Any]) -> Iterator[Row | None]:
    """Yield the rows of the record batches of a Parquet file."""
    line = 0
    for batch in batches:
        columns = {name: batch.column(name) for name in batch.schema.names}
        images, splits = (_texts(columns.get(name), len(batch), table.path, name) for name in (table.image, "split"))
        if table.has_lists:
            lists = {name: columns[name].to_pylist() for name in LISTS if name in columns}
        else:
            codes = _class_codes(columns, table)
        for index, (image, split) in enumerate(zip(images, splits, strict=True)):
            line += 1
            if table.has_lists:
                cells = {name: _labels_of(cell[index], table) for name, cell in lists.items()}
                wrong = next((name for name, labels in cells.items() if labels is None), None)
                if wrong is not None:
                    cell = lists[wrong][index]
                    table.problems.add(f"{table.path}, row {line}: column {wrong!r} holds {cell!r}, no list of strings")
                    yield None
                else:
                    yield Row(line, image, cells["labels"] or (), cells.get("unknown") or (), split)
            elif (bad := np.flatnonzero(codes[index] == _NO_LABEL)).size:
                name = table.class_names[bad[0]]  # type: ignore[index]
                cell = columns[name][index].as_py()
                table.problems.add(f"{table.path}, row {line}: column {name!r} holds {cell!r} {CELL_EXPECTED}")
                yield None
            else:
                yield table.row_of_codes(line, image, split, codes[index])


_NO_LABEL = 0


def _class_codes(columns: Mapping[str, Any], table: LabelTable) -> NDArray[np.uint8]:
    """(n, K) codes of the cells of a record batch; 0 where one holds anything else."""
    import pyarrow as pa
    import pyarrow.compute as pc

    codes = []
    for name in table.class_names or ():
        column = columns[name]
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            cells = [CODES.get((cell or "").strip().lower(), _NO_LABEL) for cell in column.to_pylist()]
            codes.append(np.array(cells, dtype=np.uint8))
            continue
        try:
            numbers = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"{table.path}: column {name!r} has the type {column.type} {CELL_EXPECTED}; lists of labels stand in "
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


def _labels_of(cell: object, table: LabelTable) -> list[str] | None:
    """The labels in a cell of text or of a list; None if it is neither."""
    if cell is None:
        return []
    if isinstance(cell, str):
        return table.labels_in(cell)
    if isinstance(cell, list) and all(isinstance(label, str) for label in cell):
        return [stripped for label in cell if (stripped := label.strip())]
    return None


PARQUET = Format(
    "parquet",
    lambda data, options, classes: read_parquet(data, classes=classes, **cell_options(options)),
    suffixes=(".parquet", ".pq"),
)
