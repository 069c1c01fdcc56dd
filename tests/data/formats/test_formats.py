"""Every format says the same of the same images, and refuses the same bad input."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tailwise.data.dataset import Dataset, require_images
from tailwise.data.formats import FORMATS
from tailwise.data.formats.rows import Format, Request, Row
from tailwise.data.reading import ReadOptions, detect_format
from tailwise.data.reading import read as read_data
from tailwise.data.splits import read_split_file, split_by_ratio
from tailwise.errors import InputError
from tests.formats import (
    CLASSES,
    WRITERS,
    Example,
    examples,
    single_label,
)

WRITTEN = list(WRITERS)
EXPECTED_FORMAT = {
    "csv-lists": "csv",
    "csv-columns": "csv",
    "parquet-lists": "parquet",
    "parquet-columns": "parquet",
    "class-folders": "folder",
}


@pytest.fixture(params=WRITTEN)
def name(request: pytest.FixtureRequest) -> str:
    """A format."""
    return str(request.param)


@pytest.fixture
def read(name: str, tmp_path: Path) -> Callable[..., Dataset]:
    """Writes examples in the format and reads them back."""

    def written_and_read(rows: Sequence[Example], **options: object) -> Dataset:
        data = WRITERS[name](tmp_path, rows)
        return read_data(data, ReadOptions(**{"cache": str(tmp_path / "cache"), **options}))  # type: ignore[arg-type]

    return written_and_read


def rows_for(name: str) -> tuple[Example, ...]:
    return single_label(examples()) if name == "class-folders" else examples()


def test_labels_splits_and_images_are_those_that_were_written(read: Callable[..., Dataset], name: str) -> None:
    rows = rows_for(name)
    data = read(rows)
    assert data.class_names == CLASSES
    by_content = {row.content: row for row in rows}
    assert len(data) == len(rows) == len(by_content)
    for path, targets, split in zip(data.paths(), data.targets, data.splits, strict=True):
        row = by_content[path.read_bytes()]
        assert {CLASSES[k] for k in np.flatnonzero(targets == 1)} == set(row.labels)
        assert split == row.split
    assert set(np.unique(data.targets)) == {0, 1}
    assert data.skipped == ()


def test_the_format_is_found(name: str, tmp_path: Path) -> None:
    data = WRITERS[name](tmp_path, rows_for(name)[:5])
    assert detect_format(data) == EXPECTED_FORMAT.get(name, name)


def test_every_format_that_can_be_written_is_tested() -> None:
    assert {EXPECTED_FORMAT.get(name, name) for name in WRITERS} == FORMATS.keys() - {"digits", "npz"}


def test_a_format_is_a_reader_and_a_line_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_toy(request: Request) -> Dataset:
        lines = enumerate(request.path.read_text().splitlines(), 1)
        rows = (Row(line, f"{line}.jpg", text.split()) for line, text in lines)
        return request.assemble(rows, root=request.root(request.path.parent))

    monkeypatch.setitem(FORMATS, "toy", Format("toy", read_toy, suffixes=(".toy",)))
    (tmp_path / "labels.toy").write_text("cat dog\ncat\n\ndog\n")
    assert detect_format(tmp_path / "labels.toy") == "toy"
    data = read_data(tmp_path / "labels.toy", split_ratios={"a": 0.5, "b": 0.5})
    assert (data.class_names, data.targets.tolist()) == (("cat", "dog"), [[1, 1], [1, 0], [0, 0], [0, 1]])
    assert sorted(data.splits) == ["a", "a", "b", "b"]
    (tmp_path / "labels.unknown").touch()
    with pytest.raises(InputError, match="give --format, one of coco, csv, jsonl, npz, parquet, toy"):
        detect_format(tmp_path / "labels.unknown")


def test_given_classes_fix_the_columns(read: Callable[..., Dataset], name: str, tmp_path: Path) -> None:
    names = ["red", "dark", "blue", "green"]
    if not name.endswith("columns"):
        names.append("mauve")
    (tmp_path / "classes.json").write_text(json.dumps(names))
    data = read(rows_for(name), classes=str(tmp_path / "classes.json"))
    assert data.class_names == tuple(names)
    counts = [sum(label in row.labels for row in rows_for(name)) for label in names]
    assert (data.targets == 1).sum(axis=0).tolist() == counts


def with_unknown_class(rows: tuple[Example, ...]) -> tuple[Example, ...]:
    return (rows[0], replace(rows[1], labels=("gren",)), *rows[2:])


def with_repeated_image(rows: tuple[Example, ...]) -> tuple[Example, ...]:
    return (*rows[:3], rows[1], *rows[3:])


def outside_the_root(rows: tuple[Example, ...]) -> tuple[Example, ...]:
    return (rows[0], replace(rows[1], name="../../../1.jpg", content=None), *rows[2:])


DAMAGES = {
    "unknown class": (with_unknown_class, r"'gren' is none of the 4 classes \(did you mean 'green'\?\)"),
    "repeated image": (with_repeated_image, r"image '.*1\.jpg' is at .* already"),
    "outside the root": (outside_the_root, r"'.*1(\.jpg)?' (lies outside the root|is not the name of an image)"),
}
# What a format cannot say, it cannot say wrongly: files of a folder have different names, and columns their class.
IMPOSSIBLE = {
    ("class-folders", "repeated image"),
    ("class-folders", "outside the root"),
    ("hf", "repeated image"),
    ("hf", "outside the root"),
    ("hf", "unknown class"),
    ("coco", "unknown class"),
    ("csv-columns", "unknown class"),
    ("parquet-columns", "unknown class"),
}
POSSIBLE = [(name, bad) for name in WRITTEN for bad in DAMAGES if (name, bad) not in IMPOSSIBLE]


@pytest.mark.parametrize(("name", "damage"), POSSIBLE, indirect=["name"])
def test_bad_rows_are_named_or_left_out_and_listed(
    read: Callable[..., Dataset], name: str, damage: str, tmp_path: Path
) -> None:
    change, message = DAMAGES[damage]
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    rows = change(rows_for(name))
    options = {"classes": str(tmp_path / "classes.json")}
    with pytest.raises(InputError, match=message) as caught:
        read(rows, **options)
    assert str(tmp_path) in str(caught.value)
    assert "on_error" in str(caught.value)


@pytest.mark.parametrize(("name", "damage"), POSSIBLE, indirect=["name"])
def test_bad_rows_can_be_left_out(read: Callable[..., Dataset], name: str, damage: str, tmp_path: Path) -> None:
    change, message = DAMAGES[damage]
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    data = read(change(rows_for(name)), classes=str(tmp_path / "classes.json"), on_error="skip")
    assert len(data) == len(examples()) - (damage != "repeated image")
    assert len(data.skipped) == 1
    assert re.search(message, data.skipped[0])


# In the others the images are the data: there is nothing else that names them.
@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in ("class-folders", "hf")], indirect=True)
def test_missing_images_are_found_by_their_place(read: Callable[..., Dataset], name: str) -> None:
    rows = rows_for(name)
    data = read((rows[0], replace(rows[1], content=None), *rows[2:]))
    with pytest.raises(InputError, match=r"no image '.*1\.jpg' in .* \(1 of 76 images are missing\)") as caught:
        require_images(data)
    assert str(data.source) in str(caught.value)
    kept = require_images(data, on_error="skip")
    messages = kept.skipped
    assert (len(kept), len(messages)) == (len(rows) - 1, 1)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.csv", "there is no such file or folder"),
        ("notes.docx", r"the ending '.docx' belongs to no format; give --format, one of coco, csv"),
        ("empty", "no data set in a known form is in this folder"),
    ],
)
def test_what_is_no_data_set_is_refused(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "notes.docx").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        read_data(tmp_path / path)


def test_splits_can_be_made_anew(tmp_path: Path) -> None:
    data = WRITERS["csv-lists"](tmp_path, examples())
    divided = read_data(data, ReadOptions(split_ratios={"a": 0.5, "b": 0.25, "c": 0.25}, split_seed=3))
    assert {divided.splits.count(split) for split in "bc"} == {19}
    assert divided.splits.count("a") == 38
    (tmp_path / "splits.json").write_text(json.dumps({"mine": ["images/3.jpg", "images/4.jpg"]}))
    by_file = read_data(data, ReadOptions(split_file=str(tmp_path / "splits.json")))
    assert by_file.select("mine").names == ("images/3.jpg", "images/4.jpg")
    assert by_file.splits.count("") == len(by_file) - 2
    with pytest.raises(InputError, match="both given"):
        read_data(data, ReadOptions(split_ratios={"a": 1.0}, split_file="x"))


@pytest.mark.parametrize("share", [1e-12, 0.001])
def test_a_share_that_gives_no_row_is_refused(tmp_path: Path, share: float) -> None:
    data = WRITERS["csv-lists"](tmp_path, examples())
    ratios = {"train": 1 - share, "test": share}
    with pytest.raises(
        InputError, match=rf"--split-ratios gives 'test', with a share of {share:g}, none of the 76 rows of"
    ):
        read_data(data, ReadOptions(split_ratios=ratios))


def test_several_splits_are_joined_by_a_plus(tmp_path: Path) -> None:
    data = read_data(WRITERS["csv-lists"](tmp_path, examples()))
    assert data.select("test+train").names == data.names
    with pytest.raises(InputError, match=r"no split 'vall'"):
        data.select("train+vall")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("a.csv", "csv"), ("a.tsv", "csv"), ("a.txt", "csv"), ("a.CSV", "csv"), ("a.parquet", "parquet")),
        *(("a.pq", "parquet"), ("a.jsonl", "jsonl"), ("a.ndjson", "jsonl"), ("a.json", "coco")),
        *(("hf:owner/name", "hf"), ("hf:a.csv", "hf")),
    ],
)
def test_endings_name_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    if not name.startswith("hf:"):
        (tmp_path / name).touch()
    assert detect_format(name) == expected


def test_a_folder_is_what_is_found_in_it_first(tmp_path: Path) -> None:
    """A VOC tree and COCO's annotations have folders of images as well, and saved data may hold anything."""
    steps = (
        ("folder", "cat/a.jpg"),
        ("coco", "annotations/instances_train.json"),
        ("voc", "VOC2012/Annotations/a.xml"),
        ("hf", "state.json"),
    )
    for expected, name in steps:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        assert detect_format(tmp_path) == expected


def test_what_is_given_by_name_only() -> None:
    """Places of options would be mistaken, and a new one would shift the others."""
    for function in (read_split_file, split_by_ratio, read_data):
        parameters = list(inspect.signature(function).parameters.values())
        assert {parameter.kind for parameter in parameters[:2]} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
        assert {parameter.kind for parameter in parameters[2:]} <= {
            inspect.Parameter.KEYWORD_ONLY,
            *([inspect.Parameter.VAR_KEYWORD] if function is read_data else []),
        }
    assert (ReadOptions().on_error, ReadOptions().separator) == ("raise", "|")


def test_the_format_may_be_told(tmp_path: Path) -> None:
    path = tmp_path / "labels.dat"
    path.write_text('{"image": "a.jpg", "labels": ["cat"]}\n')
    assert read_data(path, ReadOptions(format="jsonl")).class_names == ("cat",)
    path.write_text("image,labels\na.jpg,cat/dog\n")
    read = read_data(path, ReadOptions(format="csv", separator="/", root=str(tmp_path / "x")))
    assert read.class_names == ("cat", "dog")
    assert read.root == tmp_path / "x"
    assert read_data(path, ReadOptions(format="csv"), classes=["cat/dog"]).class_names == ("cat/dog",)


def test_rows_left_out_and_splits_replaced_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image,split,labels\na.jpg,train,cat\n,train,cat\nb.jpg,,dog\n")
    with caplog.at_level("INFO"):
        read_data(path, ReadOptions(on_error="skip"))
    assert "1 rows are left out; the first: " in caplog.text
    assert "are replaced" not in caplog.text
    with caplog.at_level("INFO"):
        read_data(path, ReadOptions(on_error="skip", split_ratios={"a": 1.0}))
    assert f"the splits that {path} gives are replaced" in caplog.text
    caplog.clear()
    path.write_text("image,labels\na.jpg,cat\n")
    with caplog.at_level("INFO"):
        read_data(path, ReadOptions(split_ratios={"a": 1.0}))
    assert caplog.text == ""


def test_the_home_folder_holds_the_cache_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAILWISE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert ReadOptions().cache_folder == Path("/home/somebody/.cache/tailwise")
