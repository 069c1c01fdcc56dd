"""Parquet files of labels: columns of every type, what is refused by row, and large label matrices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import issparse

from tailwise.data.formats import label_table as tables
from tailwise.errors import InputError
from tests.formats import read_parquet


def parquet(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "labels.parquet", row_group_size=2)
    return folder / "labels.parquet"


def test_parquet_lists_text_and_dictionaries_mean_the_same(tmp_path: Path) -> None:
    lists = [["dog", "cat"], [], None, ["cow"]]
    images = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    text = pa.array(["dog| cat", "", None, "cow"])
    for labels in (pa.array(lists), text, text.cast(pa.large_string()), text.dictionary_encode()):
        path = parquet(tmp_path, note=[1, 2, 3, 4], labels=labels, image=images, unknown=[None, ["dog"], None, None])
        data = read_parquet(path)
        assert data.class_names == ("cat", "cow", "dog")
        assert data.targets.tolist() == [[1, 0, 1], [0, 0, -1], [0, 0, 0], [0, 1, 0]]
        assert data.lines == (1, 2, 3, 4)
        assert data.where(3) == f"{path}, row 4"


def test_parquet_columns_of_any_type(tmp_path: Path) -> None:
    path = parquet(
        tmp_path,
        image=["a.jpg", "b.jpg", "c.jpg"],
        split=["x", None, "y"],
        dog=[True, False, None],
        cat=pa.array([1.0, float("nan"), 0.0]),
        cow=pa.array([-1, 0, 1], pa.int8()),
        bee=["1", "", "0.0"],
    )
    data = read_parquet(path)
    assert data.class_names == ("dog", "cat", "cow", "bee")
    assert data.targets.tolist() == [[1, 1, -1, 1], [0, -1, 0, -1], [-1, 0, 1, 0]]
    assert data.splits == ("x", "", "y")
    assert read_parquet(path, classes=["cow"]).targets.tolist() == [[-1], [0], [1]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file": ["a.jpg"], "labels": ["cat"]}, "no column 'image'; the header has 'file', 'labels'"),
        ({"image": ["a.jpg", "b.jpg"], "labels": [["cat"], None], "cat": [1, 2]}, None),
        ({"image": ["a.jpg", "b.jpg"], "cat": [1, 2]}, "row 2: column 'cat' holds 2 where 1, 0, -1 or nothing"),
        ({"image": ["a.jpg", "b.jpg"], "cat": ["1", "x"]}, "row 2: column 'cat' holds 'x' where 1, 0, -1 or nothing"),
        ({"image": ["a.jpg", "b.jpg"], "cat": [[1], [0]]}, "column 'cat' has the type list<"),
        ({"image": ["a.jpg", "b.jpg"], "labels": [[1], [2]]}, "row 1: column 'labels' holds [1], no list of strings"),
        ({"image": [1, 2], "labels": ["cat", "cat"]}, "column 'image' holds 1 where text is expected"),
        ({"image": ["a.jpg"], "cat ": [1]}, "column 'cat ' begins or ends with white space"),
        ({"image": ["a.jpg", None], "labels": ["cat", "cat"]}, "row 2: no image is named"),
        ({"image": pa.array([], pa.string()), "labels": pa.array([], pa.string())}, "has no rows"),
    ],
)
def test_bad_parquet_files_are_refused_by_row(tmp_path: Path, columns: dict[str, Any], message: str | None) -> None:
    path = parquet(tmp_path, **columns)
    if message is None:
        assert read_parquet(path).class_names == ("cat",)
        return
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_parquet(path)
    assert "labels.parquet" in str(caught.value)


def test_bad_rows_of_parquet_files_are_left_out(tmp_path: Path) -> None:
    images = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    for columns in (
        {"cat": [1, 7, 0, None, 0], "dog": [0, 0, 0.5, 1, 0]},
        {"cat": ["1", "x", "0", " ", "0"], "dog": ["0", "0", "2", "TRUE", "0.0"]},
    ):
        data = read_parquet(parquet(tmp_path, image=images, **columns), on_error="skip")
        assert (data.names, data.lines) == (("a.jpg", "d.jpg", "e.jpg"), (1, 4, 5))
        assert data.targets.tolist() == [[1, 0], [-1, 1], [0, 0]]
        assert [re.findall(r"row (\d): column '(\w+)'", message) for message in data.skipped] == [
            [("2", "cat")],
            [("3", "dog")],
        ]
    numbers = pa.array([["cat"], None, ["dog"], [], []])
    unknown = pa.array([[1], [], [], [], []])
    data = read_parquet(parquet(tmp_path, image=images, labels=numbers, unknown=unknown), on_error="skip")
    assert (data.names, data.class_names) == (("b.jpg", "c.jpg", "d.jpg", "e.jpg"), ("dog",))
    assert "row 1: column 'unknown' holds [1], no list of strings" in data.skipped[0]


def test_of_several_bad_cells_the_first_is_named(tmp_path: Path) -> None:
    path = parquet(tmp_path, image=["a.jpg", "b.jpg"], cow=[0, 1], cat=[0, 5], dog=[0, 7])
    with pytest.raises(InputError, match="row 2: column 'cat' holds 5"):
        read_parquet(path)


def test_batches_go_on_where_the_last_one_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BATCH", 2)
    images = [f"{row}.jpg" for row in range(5)]
    data = read_parquet(parquet(tmp_path, image=images, split=list("abcde"), cat=[1, 0, -1, 1, 0], dog=[0, 1, 0, 0, 1]))
    assert (data.names, data.lines, data.splits) == (tuple(images), (1, 2, 3, 4, 5), tuple("abcde"))
    assert data.targets.tolist() == [[1, 0], [0, 1], [-1, 0], [1, 0], [0, 1]]


def test_only_the_columns_that_matter_are_read(tmp_path: Path) -> None:
    table = pa.table({"image": ["a.jpg"], "labels": ["cat"], "pixels": [[1, 2]], "cat": ["no"]})
    pq.write_table(table, tmp_path / "labels.parquet")
    assert read_parquet(tmp_path / "labels.parquet").class_names == ("cat",)
    assert read_parquet(tmp_path / "labels.parquet", separator="a").class_names == ("c", "t")
    assert read_parquet(tmp_path / "labels.parquet", root=tmp_path / "x").paths() == [tmp_path / "x" / "a.jpg"]


def test_damaged_parquet_files_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, image=["a.jpg"], labels=["cat"])
    whole = path.read_bytes()
    for content in (b"", b"image,labels", whole[:-20], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"labels\.parquet is not a whole Parquet file"):
            read_parquet(path)
    with pytest.raises(InputError, match=r"cannot read .*gone"):
        read_parquet(tmp_path / "gone.parquet")


def test_a_million_labels_stay_sparse(tmp_path: Path) -> None:
    """100,000 rows of 10,000 classes would be a gigabyte as an array."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10_000, (100_000, 3))
    path = parquet_lists(tmp_path, labels)
    data = read_parquet(path)
    assert issparse(data.targets)
    assert data.targets.shape == (100_000, 10_000)
    distinct = [len(set(row)) for row in labels.tolist()]
    assert data.targets.nnz == sum(distinct)
    row = data.targets[[77_777]].toarray()[0]
    assert {data.class_names[k] for k in np.flatnonzero(row)} == {str(label) for label in labels[77_777]}


def parquet_lists(folder: Path, labels: np.ndarray) -> Path:
    text = ["|".join(map(str, row)) for row in labels.tolist()]
    columns = {"image": [f"{index}.jpg" for index in range(len(text))], "labels": text}
    pq.write_table(pa.table(columns), folder / "labels.parquet")
    return folder / "labels.parquet"
