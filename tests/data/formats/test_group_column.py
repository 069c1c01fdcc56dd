"""Groups of rows in files: read from the column or key that is named, in every format that has any."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tailwise.data import Dataset, read
from tailwise.errors import InputError
from tests.formats import WRITERS, examples

PATIENTS = ("ann", "bob", "ann", "7")
LABELS = (("cat",), ("dog",), (), ("cat", "dog"))
Cells = tuple[Any, ...]


def write_csv_lists(folder: Path, cells: Cells, column: str = "patient", delimiter: str = ",") -> Path:
    path = folder / ("labels.csv" if delimiter == "," else "labels.tsv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["image", column, "labels"])
        for row, (cell, labels) in enumerate(zip(cells, LABELS, strict=True)):
            writer.writerow([f"{row}.jpg", "" if cell is None else cell, "|".join(labels)])
    return path


def write_tsv_lists(folder: Path, cells: Cells, column: str = "patient") -> Path:
    return write_csv_lists(folder, cells, column, "\t")


def write_csv_columns(folder: Path, cells: Cells, column: str = "patient") -> Path:
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "cat", column, "dog"])
        for row, (cell, labels) in enumerate(zip(cells, LABELS, strict=True)):
            known = [int(name in labels) for name in ("cat", "dog")]
            writer.writerow([f"{row}.jpg", known[0], "" if cell is None else cell, known[1]])
    return path


def write_parquet(folder: Path, labels: dict[str, Any], cells: Cells, column: str) -> Path:
    path = folder / "labels.parquet"
    columns = {"image": [f"{row}.jpg" for row in range(4)], **labels, column: pa.array(cells)}
    pq.write_table(pa.table(columns), path)
    return path


def write_parquet_lists(folder: Path, cells: Cells, column: str = "patient") -> Path:
    return write_parquet(folder, {"labels": [list(labels) for labels in LABELS]}, cells, column)


def write_parquet_columns(folder: Path, cells: Cells, column: str = "patient") -> Path:
    by_class = {name: [name in labels for labels in LABELS] for name in ("cat", "dog")}
    return write_parquet(folder, by_class, cells, column)


def write_jsonl(folder: Path, cells: Cells, column: str = "patient") -> Path:
    path = folder / "labels.jsonl"
    records = [
        {"image": f"{row}.jpg", "labels": labels, column: cell}
        for row, (cell, labels) in enumerate(zip(cells, LABELS, strict=True))
    ]
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


def write_folder(folder: Path, cells: Cells, column: str = "patient") -> Path:
    (folder / "photos" / "train").mkdir(parents=True)
    write_jsonl(folder, cells, column).rename(folder / "photos" / "train" / "metadata.jsonl")
    return folder / "photos"


Writer = Callable[..., Path]
TABLES: list[Writer] = [write_csv_lists, write_tsv_lists, write_csv_columns, write_parquet_lists, write_parquet_columns]
FILES = [*TABLES, write_jsonl, write_folder]


@pytest.mark.parametrize("write", FILES)
def test_the_column_gives_the_groups_and_no_class(write: Writer, tmp_path: Path) -> None:
    data = read(write(tmp_path, PATIENTS), group_column="patient")
    assert data.groups == PATIENTS
    assert data.class_names == ("cat", "dog")
    assert data.targets.tolist() == [[1, 0], [0, 1], [0, 0], [1, 1]]
    assert "3 groups" in repr(data)


@pytest.mark.parametrize("write", [write for write in FILES if write is not write_csv_columns])
def test_without_the_option_there_are_none(write: Writer, tmp_path: Path) -> None:
    cells = (1, 0, 1, 1)
    assert read(write(tmp_path, cells)).groups is None


def test_a_column_of_text_beside_those_of_classes_is_refused_with_the_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels\.csv:2: column 'patient' holds 'ann' .* named by --group-column"):
        read(write_csv_columns(tmp_path, PATIENTS))


@pytest.mark.parametrize("write", FILES)
def test_numbers_name_groups(write: Writer, tmp_path: Path) -> None:
    assert read(write(tmp_path, (12, 3, 12, 0)), group_column="patient").groups == ("12", "3", "12", "0")


@pytest.mark.parametrize("write", [write_parquet_lists, write_parquet_columns, write_jsonl])
def test_whole_numbers_may_be_written_in_floating_point(write: Writer, tmp_path: Path) -> None:
    assert read(write(tmp_path, (12.0, 3.5, 12.0, 0.0)), group_column="patient").groups == ("12", "3.5", "12", "0")


@pytest.mark.parametrize("write", FILES)
@pytest.mark.parametrize("blank", [None, "", "  "])
def test_a_blank_is_refused_by_its_place_or_left_out(write: Writer, blank: str | None, tmp_path: Path) -> None:
    path = write(tmp_path, ("ann", "bob", blank, "ann"))
    message = r"(labels\.\w+:4|labels\.jsonl:3|labels\.parquet, row 3|photos, image train/2\.jpg): "
    with pytest.raises(InputError, match=message + r"'patient', the --group-column, is empty; give each row a group"):
        read(path, group_column="patient")
    kept = read(path, group_column="patient", on_error="skip")
    assert kept.groups == ("ann", "bob", "ann")
    assert len(kept.skipped) == 1


@pytest.mark.parametrize("write", FILES)
def test_a_missing_column_is_refused_with_the_nearest(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, PATIENTS, "Patient ID")
    message = r"no (column|key) 'patient_id', which --group-column names \(did you mean 'Patient ID'\?\)"
    with pytest.raises(InputError, match=message) as caught:
        read(path, group_column="patient_id")
    assert "labels" in str(caught.value) or "metadata.jsonl:1" in str(caught.value)
    assert str(caught.value).count("did you mean") == 1


def test_a_key_that_one_line_lacks_is_refused_there(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"image": "a", "labels": ["x"], "p": 1}\n{"image": "b", "labels": []}\n')
    with pytest.raises(InputError, match=r"labels\.jsonl:2: no key 'p', which --group-column names"):
        read(path, group_column="p")
    path.write_text('{"image": "a", "labels": ["x"], "p": [1]}\n')
    with pytest.raises(InputError, match=r"labels\.jsonl:1: the group is \[1\] where text or a number is expected"):
        read(path, group_column="p")


def test_a_column_of_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels\.parquet: column 'patient': the group is \['a'\] where text"):
        read(write_parquet_lists(tmp_path, (["a"], ["b"], ["a"], ["c"])), group_column="patient")


def test_the_column_cannot_be_a_class_as_well(tmp_path: Path) -> None:
    path = write_csv_columns(tmp_path, (1, 0, 1, 1))
    with pytest.raises(InputError, match=r"labels\.csv:1: column 'patient' describes the images, and class names give"):
        read(path, group_column="patient", classes=["cat", "patient"])
    assert read(path, group_column="patient", classes=["dog"]).groups == ("1", "0", "1", "1")
    assert read(path, classes=["cat", "patient"]).class_names == ("cat", "patient")


@pytest.mark.parametrize("name", ["voc", "coco", "class-folders"])
def test_formats_without_columns_are_refused(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path, examples()[:6])
    with pytest.raises(InputError, match=r"--group-column (needs columns or keys with names|names a key of metadata)"):
        read(path, group_column="patient")
    with pytest.raises(InputError, match=r"--group-column needs columns or keys with names.* the format digits does"):
        read("digits", group_column="patient")


@pytest.mark.parametrize("key", ["groups", "patient"])
def test_arrays_have_groups_under_any_name(key: str, tmp_path: Path) -> None:
    arrays = {"features": np.eye(4), "targets": np.eye(4, dtype=np.int8), key: np.array(PATIENTS)}
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    assert read(tmp_path / "data.npz", group_column=key).groups == PATIENTS
    with pytest.raises(InputError, match=r"no array 'patients', which --group-column names"):
        read(tmp_path / "data.npz", group_column="patients")


def test_arrays_that_were_saved_keep_their_groups(tmp_path: Path) -> None:
    data = Dataset.from_arrays(np.eye(4), np.eye(4), groups=PATIENTS)
    data.save(tmp_path / "data.npz")
    assert read(tmp_path / "data.npz").groups == PATIENTS


def test_a_column_of_a_saved_data_set_gives_the_groups(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = examples()[:3]
    features = datasets.Features(
        {"image": datasets.Image(), "labels": datasets.List(datasets.Value("string")), "site": datasets.Value("int64")}
    )
    columns = {
        "image": [{"bytes": row.content, "path": row.name} for row in rows],
        "labels": [list(row.labels) for row in rows],
        "site": [4, None, 4],
    }
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "saved"))
    options = {"cache": str(tmp_path / "cache")}
    kept = read(tmp_path / "saved", group_column="site", on_error="skip", **options)
    assert kept.groups == ("4", "4")
    with pytest.raises(InputError, match=r"image all/00000001\.jpg: 'site', the --group-column, is empty"):
        read(tmp_path / "saved", group_column="site", **options)
    with pytest.raises(InputError, match=r"no column 'sites', which --group-column names \(did you mean 'site'\?\)"):
        read(tmp_path / "saved", group_column="sites", **options)


@pytest.mark.parametrize("write", FILES)
def test_a_division_by_ratio_keeps_the_groups_of_the_file_whole(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, PATIENTS)
    data = read(path, group_column="patient", split_ratios={"train": 0.5, "test": 0.5})
    assert data.splits[0] == data.splits[2]
    assert set(data.splits) == {"train", "test"}
