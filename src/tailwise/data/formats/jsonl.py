"""Labels as JSON lines, with one object per image."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tailwise.data.dataset import Dataset
from tailwise.data.formats.cells import BLANK, MINUS_ONE, OMITTED, ONE, ZERO, Cells
from tailwise.data.formats.rows import IMAGE_KEYS, Format, Request, Row, read_text
from tailwise.data.row_groups import group_name
from tailwise.errors import InputError
from tailwise.matrix import UNKNOWN
from tailwise.spelling import near

_CODES = {1: ONE, 0: ZERO, -1: MINUS_ONE, None: BLANK}
_EXPECTED = 'expected an object such as {"image": "a.jpg", "labels": ["cat", "dog"], "split": "train"}'


def read_jsonl(request: Request) -> Dataset:
    """Read a file of JSON lines.

    Each line is an object with ``image`` (or ``file_name``), ``labels``, and optionally ``unknown`` and ``split``.
    ``labels`` and ``unknown`` list class names; ``labels`` may also be an object that gives 1, 0, or -1 or null
    (unknown, unless ``negative`` and ``blank`` say otherwise) for classes. Classes that a line does not name are absent
    from its image. The option ``group_column`` names a key of groups. Further keys are ignored.

    Returns:
        One row per line that is not blank, in their order.

    Raises:
        InputError: the file cannot be read; or a line is no such object, names an unknown class, repeats an image or
            leaves ``root``, and the message names the line; or it is open what -1 or null mean.
    """
    cells = JsonCells(request)
    rows = jsonl_rows(request.path, cells, request)
    return request.assemble(cells.checked(rows), root=request.root(request.path.parent))


class JsonCells:
    """Contents of the label objects of a whole source, by class."""

    def __init__(self, request: Request) -> None:
        self.source, self.cells = request.path, Cells(request.options)
        self._held: defaultdict[str, int] = defaultdict(int)
        self._positive: set[str] = set()
        self._num_named: Counter[str] = Counter()
        self._num_rows = 0

    def labels(self, given: Any) -> tuple[list[str], list[str]]:
        """(positive classes, unknown classes) of a list of names or an object.

        Raises:
            InputError: it is neither, or holds something else.
        """
        if not isinstance(given, dict):
            return _names(given, "labels"), []
        codes = {}
        for name, value in given.items():
            if value not in (0, 1, -1, None):
                raise InputError(f"class {name!r} is {value!r} where 1, 0, or -1 or null (unknown) is expected")
            codes[name.strip()] = _CODES[value]
        for name, code in codes.items():
            self._held[name] |= code
        label = self.cells.labels
        return [n for n, code in codes.items() if label[code] == 1], [
            n for n, c in codes.items() if label[c] == UNKNOWN
        ]

    def checked(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The rows; after the last, what the classes have is checked.

        Raises:
            InputError: as :meth:`~tailwise.data.formats.cells.Cells.check`.
        """
        for row in rows:
            self._num_rows += 1
            self._positive.update(row.labels)
            self._num_named.update({*row.labels, *row.unknown})
            yield row
        # Lists say the same as objects of 1, and what a row does not name is absent there.
        held = {
            name: codes
            | (ONE if name in self._positive else 0)
            | (OMITTED if self._num_named[name] < self._num_rows else 0)
            for name, codes in self._held.items()
        }
        self.cells.check(self.source, held, column="class", blanks="nulls")


def jsonl_rows(path: Path, cells: JsonCells, request: Request, *, folder: str = "", split: str = "") -> Iterator[Row]:
    """Yield the rows of a file of JSON lines.

    Args:
        path: the file.
        cells: what the objects give for classes; takes note of it.
        request: gives the key of groups; its problems get the lines that are no labelled image.
        folder: what references are put under.
        split: the split of rows that name none.
    """
    # Only line feeds end a line of JSON lines: strings may hold the other characters that end lines elsewhere.
    for line, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
            row = _row(line, record, cells, folder, split)
            if request.options.group_column is not None:
                row = replace(row, group=_group(record, request.options.group_column))
        except (ValueError, RecursionError) as error:
            request.problems.add(f"{path}:{line}: {_reason(error)}")
        else:
            yield row


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} (column {error.colno}); {_EXPECTED}"
    return str(error)


def _row(line: int, record: Any, cells: JsonCells, folder: str, split: str) -> Row:
    if not isinstance(record, dict):
        raise InputError(_EXPECTED)
    image = next((record[key] for key in IMAGE_KEYS if key in record), None)
    if not isinstance(image, str):
        raise InputError(f"no text 'image'; {_EXPECTED}")
    if "labels" not in record:
        raise InputError(f"no 'labels'; {_EXPECTED}")
    labels, judged_unknown = cells.labels(record["labels"])
    unknown = [*judged_unknown, *_names(record.get("unknown") or [], "unknown")]
    named = record.get("split") or split
    if not isinstance(named, str):
        raise InputError(f"'split' is {named!r} where text is expected")
    image = image.strip()
    return Row(line, f"{folder}{image}" if image else "", labels, unknown, named.strip())


def _group(record: dict[str, Any], key: str) -> str:
    if key not in record:
        raise InputError(f"no key {key!r}, which --group-column names{near(key, record)}")
    return group_name(record[key])


def _names(names: Any, key: str) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{key!r} is {names!r} where a list of class names is expected")
    return [stripped for name in names if (stripped := name.strip())]


JSON_LINES = Format("jsonl", read_jsonl, suffixes=(".jsonl", ".ndjson"), has_columns=True)
