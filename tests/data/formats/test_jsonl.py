"""JSON lines: what is read, and what is refused by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailwise.data.formats.jsonl import JsonCells, jsonl_rows
from tailwise.data.formats.rows import Problems, Request
from tailwise.data.reading import ReadOptions
from tailwise.errors import InputError
from tests.formats import read_jsonl


def write(folder: Path, *records: Any) -> Path:
    path = folder / "labels.jsonl"
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text == text.strip())


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(NAME, max_size=4), min_size=1, max_size=6).filter(any),
    ascii_only=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_any_names_survive(tmp_path: Path, rows: list[list[str]], ascii_only: bool, end: str, mark: str) -> None:
    records = [{"labels": labels, "image": f"{index}.jpg"} for index, labels in enumerate(rows)]
    text = "".join(json.dumps(record, ensure_ascii=ascii_only) + end for record in records)
    path = tmp_path / "labels.jsonl"
    path.write_bytes((mark + text).encode())
    data = read_jsonl(path)
    assert data.class_names == tuple(sorted({label for labels in rows for label in labels}))
    assert [{data.class_names[k] for k in np.flatnonzero(row)} for row in data.targets] == [set(row) for row in rows]


def test_objects_and_lists_say_what_is_unknown(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"image": "a.jpg", "labels": {"cat": 1, "dog": 0, "cow": -1, "bee": None}, "split": "train"},
        "",
        {"file_name": "b.jpg", "labels": ["dog"], "unknown": ["cow"], "taken": 2024},
    )
    data = read_jsonl(path)
    assert data.class_names == ("bee", "cat", "cow", "dog")
    assert data.targets.tolist() == [[-1, 1, -1, 0], [0, 0, -1, 1]]
    assert (data.splits, data.lines, data.root) == (("train", ""), (1, 3), tmp_path)


def test_names_splits_and_images_are_stripped(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"image": " a.jpg ", "labels": [" cat ", "", " "], "split": " train "},
        {"path": "b.jpg", "file_name": "c.jpg", "labels": {" dog ": True, "cow ": False}, "split": ""},
        {"image": "d.jpg", "labels": [], "unknown": None, "split": None},
        {"image": "e.jpg", "labels": {"cat": None, "dog": -1, "cow": 1}, "unknown": [" cat"]},
    )
    data = read_jsonl(path)
    assert data.names == ("a.jpg", "c.jpg", "d.jpg", "e.jpg")
    assert data.class_names == ("cat", "cow", "dog")
    assert data.targets.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [-1, 1, -1]]
    assert data.splits == ("train", "", "", "")
    assert data.where(3) == f"{path}:4"
    assert read_jsonl(path, root=tmp_path / "x").paths()[0] == tmp_path / "x" / "a.jpg"
    with pytest.raises(InputError, match=r":1: 'cat' is none of the 2 classes"):
        read_jsonl(path, classes=["dog", "cow"])


def test_a_folder_and_a_split_are_those_of_rows_that_name_none(tmp_path: Path) -> None:
    path = write(tmp_path, {"image": "a.jpg", "labels": []}, {"image": "b.jpg", "labels": [], "split": "own"})
    request = Request(str(path), ReadOptions(), None, Problems())
    first, second = jsonl_rows(path, JsonCells(request), request, folder="train/", split="train")
    assert (first.image, first.split, first.line) == ("train/a.jpg", "train", 1)
    assert (second.image, second.split, second.line) == ("train/b.jpg", "own", 2)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image": "b.jpg", "labels": {"cat": "1"}}, r":2: class 'cat' is '1' where 1, 0"),
        ({"image": "b.jpg", "labels": {"cat": 0.5}}, r":2: class 'cat' is 0.5 where 1, 0"),
        ({"image": "b.jpg", "labels": None}, r":2: 'labels' is None where a list"),
        ("{", r":2: not valid JSON: .*expected an object such as"),
        ("[1]", r":2: expected an object such as"),
        ({"labels": []}, r":2: no text 'image'"),
        ({"image": 3, "labels": []}, r":2: no text 'image'"),
        ({"image": "b.jpg"}, r":2: no 'labels'"),
        ({"image": "b.jpg", "labels": "cat"}, r":2: 'labels' is 'cat' where a list of class names is expected"),
        ({"image": "b.jpg", "labels": ["cat", 1]}, r":2: 'labels' is \['cat', 1\] where a list"),
        ({"image": "b.jpg", "labels": {"cat": 2}}, r":2: class 'cat' is 2 where 1, 0, or -1 or null"),
        ({"image": "b.jpg", "labels": [], "unknown": "cat"}, r":2: 'unknown' is 'cat'"),
        ({"image": "b.jpg", "labels": [], "split": 1}, r":2: 'split' is 1 where text is expected"),
        ({"image": " ", "labels": []}, r":2: no image is named"),
        ("[" * 100_000, r":2: "),
    ],
)
def test_bad_lines_are_named_or_left_out(tmp_path: Path, record: Any, message: str) -> None:
    path = write(tmp_path, {"image": "a.jpg", "labels": ["cat"]}, record)
    with pytest.raises(InputError, match=message):
        read_jsonl(path)
    data = read_jsonl(path, on_error="skip")
    assert data.names == ("a.jpg",)
    assert len(data.skipped) == 1


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of its 1 rows can be used; the first: .*:1: no 'labels'"):
        read_jsonl(write(tmp_path, {"image": "a.jpg"}), on_error="skip")
    with pytest.raises(InputError, match="has no rows"):
        read_jsonl(write(tmp_path, ""))
