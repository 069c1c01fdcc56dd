"""What -1 and blanks mean: read as it is said, and asked for where a file of any format leaves it open."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailwise.data.dataset import Dataset
from tailwise.data.reading import ReadOptions
from tailwise.data.reading import read as read_data
from tailwise.errors import InputError
from tests.formats import read_csv, read_jsonl, read_parquet

NAMES = ("cat", "dog", "cow")
Columns = Sequence[Sequence[int | None]]
Reader = Callable[..., Dataset]


def write_csv(folder: Path, columns: Columns) -> tuple[Reader, Path]:
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *NAMES[: len(columns)]])
        writer.writerows([f"{row}.jpg", *cells] for row, cells in enumerate(zip(*columns, strict=True)))
    return read_csv, path


def write_parquet(folder: Path, columns: Columns) -> tuple[Reader, Path]:
    """The first column as text, the second in floating point, the third as integers."""
    text = [None if cell is None else str(cell) for cell in columns[0]]
    arrays = (pa.array(text), pa.array(columns[1], pa.float64()), pa.array(columns[2], pa.int8()))
    made = dict(zip(NAMES, arrays, strict=True))
    images = [f"{row}.jpg" for row in range(len(text))]
    pq.write_table(pa.table({"image": images, **made}), folder / "labels.parquet", row_group_size=2)
    return read_parquet, folder / "labels.parquet"


def write_jsonl(folder: Path, columns: Columns) -> tuple[Reader, Path]:
    path = folder / "labels.jsonl"
    rows = [dict(zip(NAMES, cells, strict=False)) for cells in zip(*columns, strict=True)]
    lines = [json.dumps({"image": f"{row}.jpg", "labels": labels}) for row, labels in enumerate(rows)]
    path.write_text("\n".join(lines))
    return read_jsonl, path


WRITERS = [write_csv, write_parquet, write_jsonl]


def meaning(column: Sequence[int | None], negative: str | None, blank: str | None) -> list[int] | None:
    """Labels of a column; None where it is open what they are."""
    if negative == "-1" and {0, -1} <= set(column):
        return None
    labels = [
        (0 if blank == "negative" else -1) if cell is None else 0 if (str(cell), negative) == ("-1", "-1") else cell
        for cell in column
    ]
    is_open = (-1 in column and negative is None) or (None in column and blank is None)
    return None if is_open and 1 in labels and 0 not in labels else labels


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(*[st.sampled_from([1, 1, 0, -1, None])] * 3), min_size=1, max_size=4),
    write=st.sampled_from(WRITERS),
    negative=st.sampled_from([None, "0", "-1"]),
    blank=st.sampled_from([None, "negative", "unknown"]),
)
def test_every_format_reads_what_is_said_and_refuses_what_is_open(
    tmp_path: Path, rows: list[tuple[int | None, ...]], write: Any, negative: Any, blank: Any
) -> None:
    columns = list(zip(*rows, strict=True))
    read, path = write(tmp_path, columns)
    expected = [meaning(column, negative, blank) for column in columns]
    options: dict[str, Any] = {"negative": negative, "blank": blank, "classes": NAMES}
    if None in expected:
        named = "|".join(name for name, labels in zip(NAMES, expected, strict=True) if labels is None)
        with pytest.raises(InputError, match=f"{path.name}: .*'({named})'.* --(negative|blank) "):
            read(path, **options)
        return
    assert read(path, **options).targets.T.tolist() == expected


@pytest.mark.parametrize("write", WRITERS)
def test_the_choice_is_named_with_the_columns(tmp_path: Path, write: Any) -> None:
    noun, plural, blanks = ("class", "classes", "nulls") if write is write_jsonl else ("column", "columns", "blanks")
    read, path = write(tmp_path, [[1, -1, -1], [1, 0, -1], [-1, 1, 1]])
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: 2 {plural} ('cat', 'cow') hold 1 and -1 and never 0, so that no image is known to be without the "
        "class; say what -1 means: --negative -1 for absent, --negative 0 for unknown"
    )
    read, path = write(tmp_path, [[1, None, -1], [1, 0, -1], [-1, 1, 0]])
    with pytest.raises(
        InputError, match=rf"{noun} 'cat' holds 1 and -1 .*; or, if it is {blanks} that mean absent, --b"
    ):
        read(path)
    with pytest.raises(InputError, match=rf"{noun} 'cat' holds 1, -1 \(unknown\) and {blanks} only.*--blank negative"):
        read(path, negative="0")
    with pytest.raises(InputError, match=rf"2 {plural} \('dog', 'cow'\) hold 0 and -1, .*leave out --negative -1"):
        read(path, negative="-1")
    read, path = write(tmp_path, [[1, None, 1], [1, 0, -1], [None, 1, 0]])
    with pytest.raises(InputError, match=f"{noun} 'cat' holds 1 and {blanks} only, .*--blank unknown for not judged"):
        read(path)


def test_files_of_uncertain_findings_take_blanks_for_absent_and_keep_the_uncertain(tmp_path: Path) -> None:
    """As CheXpert has them: 1, 0, -1 for uncertain, and blanks for what a report does not mention."""
    columns = [[1, None, None, None], [1, 0, -1, None], [-1, 1, None, None]]
    read, path = write_csv(tmp_path, columns)
    with pytest.raises(InputError, match="'cow' holds 1 and -1"):
        read(path)
    labels = [[1, 0, 0, 0], [1, 0, -1, 0], [-1, 1, 0, 0]]
    assert read(path, blank="negative").targets.T.tolist() == labels


def test_columns_that_are_not_read_are_not_asked_about(tmp_path: Path) -> None:
    read, path = write_csv(tmp_path, [[1, -1], [1, 0], [None, 1]])
    assert read(path, classes=["dog"]).targets.tolist() == [[1], [0]]


def test_the_whole_file_is_judged_before_it_is_divided(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image,split,cat\na.jpg,train,1\nb.jpg,train,0\nc.jpg,test,1\nd.jpg,test,-1\n")
    assert read_csv(path).select("test").targets.tolist() == [[1], [-1]]
    path.write_text("image,split,cat\na.jpg,train,1\nb.jpg,train,-1\nc.jpg,test,1\nd.jpg,test,-1\n")
    with pytest.raises(InputError, match="'cat' holds 1 and -1"):
        read_data(path, ReadOptions(split_ratios={"train": 0.5, "test": 0.5}))
    read = read_data(path, ReadOptions(negative="-1"))
    assert read.targets.tolist() == [[1], [0], [1], [0]]


def test_lists_of_labels_have_nothing_to_choose(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image,labels,unknown\na.jpg,cat,\nb.jpg,,cat\nc.jpg,cat,\n")
    for options in ({}, {"negative": "-1"}, {"blank": "negative"}):
        assert read_csv(path, **options).targets.tolist() == [[1], [-1], [1]]
    (tmp_path / "labels.jsonl").write_text(
        '{"image": "a.jpg", "labels": ["cat"]}\n{"image": "b.jpg", "labels": [], "unknown": ["cat"]}\n'
    )
    assert read_jsonl(tmp_path / "labels.jsonl").targets.tolist() == [[1], [-1]]


def test_a_line_that_leaves_a_class_out_says_that_it_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    lines = ['{"image": "a.jpg", "labels": {"cat": -1}}', '{"image": "b.jpg", "labels": ["cat"]}']
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match="class 'cat' holds 1 and -1"):
        read_jsonl(path)
    path.write_text("\n".join([*lines, '{"image": "c.jpg", "labels": []}']))
    assert read_jsonl(path).targets.tolist() == [[-1], [1], [0]]
    assert read_jsonl(path, negative="-1").targets.tolist() == [[0], [1], [0]]


def test_lines_of_all_folders_are_judged_together(tmp_path: Path) -> None:
    for split, cats in (("train", [1, -1]), ("test", [1, 0])):
        (tmp_path / split).mkdir()
        lines = [json.dumps({"image": f"{cat}.jpg", "labels": {"cat": cat}}) for cat in cats]
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(lines))
    options = ReadOptions(format="folder")
    assert read_data(tmp_path, options).select("train").targets.tolist() == [[1], [-1]]
    (tmp_path / "test" / "metadata.jsonl").write_text('{"image": "a.jpg", "labels": {"cat": -1}}')
    with pytest.raises(InputError, match="class 'cat' holds 1 and -1"):
        read_data(tmp_path, options)
    read = read_data(tmp_path, ReadOptions(format="folder", negative="-1"))
    assert read.select("train").targets.tolist() == [[1], [0]]


def test_rows_left_out_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image,cat,dog\na.jpg,1,0\nb.jpg,-1,1\nc.jpg,0,2\n")
    with pytest.raises(InputError, match="'cat' holds 1 and -1"):
        read_csv(path, on_error="skip")
    read = read_csv(path, on_error="skip", negative="0")
    assert np.array_equal(read.targets, [[1, 0], [-1, 1]])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("options", [{"negative": "1"}, {"blank": "0"}, {"negative": -1}])
def test_other_choices_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    read, path = write_csv(tmp_path, [[1, 0]])
    with pytest.raises(InputError, match=f"{next(iter(options))} must be one of "):
        read(path, **options)
