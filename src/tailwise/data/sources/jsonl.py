"""JSON lines: one object per image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tailwise.data.sources.labeled import LabeledImages
from tailwise.data.sources.rows import IMAGE_KEYS, Problems, Row, assemble, class_list
from tailwise.data.sources.text import read_text
from tailwise.errors import InputError, OnError
from tailwise.labels import UNKNOWN

_EXPECTED = 'expected an object such as {"image": "a.jpg", "labels": ["cat", "dog"], "split": "train"}'


def read_jsonl(
    path: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    root: str | Path | None = None,
    on_error: OnError = "raise",
) -> LabeledImages:
    """Read a file of JSON lines.

    Each line is an object with ``image`` (or ``file_name``), ``labels``, and optionally ``unknown`` and ``split``.
    ``labels`` and ``unknown`` list class names; ``labels`` may also be an object that gives 1, 0, or -1 or null
    (unknown) for classes. Further keys are ignored.

    Args:
        path: text in UTF-8.
        classes: class names in the order wanted, or a JSON file that lists them; the names found, sorted, when absent.
        root: the folder that image references start from; the folder of ``path`` when absent.
        on_error: "raise", or "skip" to leave out the lines that cannot be used and list them in ``skipped``.

    Returns:
        One row per line that is not blank, in their order.

    Raises:
        InputError: the file cannot be read; or a line is no such object, names an unknown class, repeats an image or
            leaves ``root``. The message names the line.
    """
    path = Path(path)
    problems = Problems(on_error)
    return assemble(
        jsonl_rows(path, problems),
        source=path,
        root=path.parent if root is None else Path(root),
        class_names=class_list(classes),
        problems=problems,
    )


def jsonl_rows(path: Path, problems: Problems, *, folder: str = "", split: str = "") -> Iterator[Row]:
    """Yield the rows of a file of JSON lines.

    Args:
        path: the file.
        problems: gets the lines that are no labelled image.
        folder: what references are put under.
        split: the split of rows that name none.
    """
    # Only line feeds end a line of JSON lines: strings may hold the other characters that end lines elsewhere.
    for line, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = _row(line, json.loads(text), folder, split)
        except (ValueError, RecursionError) as error:
            problems.add(f"{path}:{line}: {_reason(error)}")
        else:
            yield row


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} (column {error.colno}); {_EXPECTED}"
    return str(error)


def _row(line: int, record: Any, folder: str, split: str) -> Row:
    if not isinstance(record, dict):
        raise InputError(_EXPECTED)
    image = next((record[key] for key in IMAGE_KEYS if key in record), None)
    if not isinstance(image, str):
        raise InputError(f"no text 'image'; {_EXPECTED}")
    if "labels" not in record:
        raise InputError(f"no 'labels'; {_EXPECTED}")
    labels, judged_unknown = _labels(record["labels"])
    unknown = [*judged_unknown, *_names(record.get("unknown") or [], "unknown")]
    named = record.get("split") or split
    if not isinstance(named, str):
        raise InputError(f"'split' is {named!r} where text is expected")
    image = image.strip()
    return Row(line, f"{folder}{image}" if image else "", labels, unknown, named.strip())


def _labels(labels: Any) -> tuple[list[str], list[str]]:
    """(positive classes, unknown classes)."""
    if not isinstance(labels, dict):
        return _names(labels, "labels"), []
    for name, value in labels.items():
        if value not in (0, 1, UNKNOWN, None):
            raise InputError(f"class {name!r} is {value!r} where 1, 0, or -1 or null (unknown) is expected")
    positive = [name.strip() for name, value in labels.items() if value == 1]
    return positive, [name.strip() for name, value in labels.items() if value in (UNKNOWN, None)]


def _names(names: Any, key: str) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{key!r} is {names!r} where a list of class names is expected")
    return [stripped for name in names if (stripped := name.strip())]
