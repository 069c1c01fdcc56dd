"""Data sets of the datasets library: the columns taken, the names of labels, and images written once."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from tailwise.data.sources.hub import read_hub
from tailwise.errors import InputError

datasets.disable_progress_bars()


def picture(shade: int, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(buffer, form)
    return buffer.getvalue()


def save(folder: Path, labels: list[Any], feature: Any, column: str = "labels", **others: Any) -> Path:
    features = datasets.Features({"img": datasets.Image(), column: feature})
    images = [{"bytes": picture(index), "path": None} for index in range(len(labels))]
    data = datasets.Dataset.from_dict({"img": images, column: labels}, features=features)
    data.save_to_disk(str(folder / "saved"))
    return folder / "saved"


NAMES = ["cat", "dog", "cow"]


@pytest.mark.parametrize(
    ("labels", "feature", "column", "class_names"),
    [
        ([[0, 2], [], [1]], datasets.List(datasets.ClassLabel(names=NAMES)), "labels", ("cat", "dog", "cow")),
        ([["cat", "cow"], [], ["dog"]], datasets.List(datasets.Value("string")), "tags", ("cat", "cow", "dog")),
        ([[0, 2], [-1], [1]], datasets.List(datasets.Value("int64")), "label", ("0", "1", "2")),
        ([0, None, 1], datasets.ClassLabel(names=NAMES), "label", ("cat", "dog", "cow")),
    ],
)
def test_labels_of_every_type_of_column(
    tmp_path: Path, labels: list[Any], feature: Any, column: str, class_names: tuple[str, ...]
) -> None:
    data = read_hub(save(tmp_path, labels, feature, column), folder=tmp_path / "kept")
    assert data.class_names == class_names
    named = [[class_names[k] for k in range(len(class_names)) if row[k]] for row in data.targets.tolist()]
    as_names = {0: class_names[0], 1: class_names[1], 2: class_names[-1], -1: None, None: None}
    for got, given in zip(named, labels, strict=True):
        wanted = [as_names.get(label, label) for label in (given if isinstance(given, list) else [given])]
        assert sorted(got) == sorted(name for name in wanted if name is not None)


def test_images_are_written_as_they_are_and_once(tmp_path: Path) -> None:
    saved = save(tmp_path, [["x"], ["y"]], datasets.List(datasets.Value("string")))
    first = read_hub(saved, folder=tmp_path / "kept")
    assert [path.read_bytes() for path in first.paths()] == [picture(0), picture(1)]
    assert {path.suffix for path in first.paths()} == {".png"}
    first.paths()[0].write_bytes(b"changed")
    again = read_hub(saved, folder=tmp_path / "kept")
    assert again.images == first.images
    assert again.paths()[0].read_bytes() == b"changed"


def test_given_classes_name_numbers_and_refuse_others(tmp_path: Path) -> None:
    saved = save(tmp_path, [[0, 1], [2]], datasets.List(datasets.Value("int64")))
    data = read_hub(saved, classes=["a", "b", "c"], folder=tmp_path / "kept")
    assert data.class_names == ("a", "b", "c")
    assert data.targets.tolist() == [[1, 1, 0], [0, 0, 1]]
    with pytest.raises(InputError, match=r"row 2: label 2 is none of the 2 classes"):
        read_hub(saved, classes=["a", "b"], folder=tmp_path / "kept")
    kept = read_hub(saved, classes=["a", "b"], folder=tmp_path / "kept", on_error="skip")
    assert (len(kept), len(kept.skipped)) == (1, 1)


def test_a_row_without_an_image_is_named(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "labels": datasets.List(datasets.Value("string"))})
    images = [None, {"bytes": picture(1), "path": None}]
    data = datasets.Dataset.from_dict({"image": images, "labels": [["a"], ["a"]]}, features=features)
    data.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(InputError, match="no image is named"):
        read_hub(tmp_path / "saved", folder=tmp_path / "kept")
    assert len(read_hub(tmp_path / "saved", folder=tmp_path / "kept", on_error="skip")) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "labels": [["x"]]}, r"expected one column of images, .*'text', 'labels'"),
        ({"image": ["a"], "colours": [["x"]]}, r"expected one column of images"),
    ],
)
def test_data_sets_without_the_columns_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(InputError, match=message):
        read_hub(tmp_path / "saved", folder=tmp_path / "kept")


def test_what_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"gone cannot be loaded"):
        read_hub(tmp_path / "gone", folder=tmp_path / "kept")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'tailwise\[hub\]'"):
        read_hub("hf:owner/name", folder=tmp_path / "kept")


@pytest.mark.parametrize(("kind", "reason"), [("refusing", "Connection refused"), ("silent", "no answer within 0 s")])
def test_a_hub_that_cannot_be_reached_is_asked_once(
    tmp_path: Path, silent: str, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    endpoint = silent if kind == "silent" else "http://127.0.0.1:9"
    monkeypatch.setattr("tailwise.data.http._SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(InputError, match=rf"{endpoint} cannot be reached \(.*{reason}.*HF_HUB_OFFLINE=1") as caught:
        read_hub("hf:owner/name", folder=tmp_path / "kept")
    assert "\n" not in str(caught.value)


def test_offline_mode_asks_no_hub_and_takes_what_was_loaded_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save(tmp_path, [["x"], ["y"]], datasets.List(datasets.Value("string")))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.load_from_disk(str(saved)))
    assert read_hub("hf:owner/name", folder=tmp_path / "kept").class_names == ("x", "y")
