"""Data sets of the datasets library: the columns taken, the names of labels, and images written once."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from tailwise.data.formats import hugging_face as hub
from tailwise.data.formats.hugging_face import is_saved_dataset
from tailwise.errors import InputError
from tests.formats import read_hub

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
    data = read_hub(save(tmp_path, labels, feature, column), cache=tmp_path)
    assert data.class_names == class_names
    named = [[class_names[k] for k in range(len(class_names)) if row[k]] for row in data.targets.tolist()]
    as_names = {0: class_names[0], 1: class_names[1], 2: class_names[-1], -1: None, None: None}
    for got, given in zip(named, labels, strict=True):
        wanted = [as_names.get(label, label) for label in (given if isinstance(given, list) else [given])]
        assert sorted(got) == sorted(name for name in wanted if name is not None)


def test_images_are_written_as_they_are_and_once(tmp_path: Path) -> None:
    saved = save(tmp_path, [["x"], ["y"]], datasets.List(datasets.Value("string")))
    first = read_hub(saved, cache=tmp_path)
    assert [path.read_bytes() for path in first.paths()] == [picture(0), picture(1)]
    assert {path.suffix for path in first.paths()} == {".png"}
    first.paths()[0].write_bytes(b"changed")
    again = read_hub(saved, cache=tmp_path)
    assert again.names == first.names
    assert again.paths()[0].read_bytes() == b"changed"


def test_given_classes_name_numbers_and_refuse_others(tmp_path: Path) -> None:
    saved = save(tmp_path, [[0, 1], [2]], datasets.List(datasets.Value("int64")))
    data = read_hub(saved, classes=["a", "b", "c"], cache=tmp_path)
    assert data.class_names == ("a", "b", "c")
    assert data.targets.tolist() == [[1, 1, 0], [0, 0, 1]]
    with pytest.raises(InputError, match=r"row 2: label 2 is none of the 2 classes"):
        read_hub(saved, classes=["a", "b"], cache=tmp_path)
    kept = read_hub(saved, classes=["a", "b"], cache=tmp_path, on_error="skip")
    assert (len(kept), len(kept.skipped)) == (1, 1)


def write(folder: Path, columns: dict[str, Any], features: dict[str, Any]) -> Path:
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    data.save_to_disk(str(folder / "saved"))
    return folder / "saved"


TEXTS = datasets.List(datasets.Value("string"))


@pytest.mark.parametrize(
    ("columns", "taken"),
    [(["photo"], "photo"), (["photo", "img"], "img"), (["img", "image"], "image"), (["file_name", "img"], "img")],
)
def test_the_column_of_images_is_the_named_or_the_only_one(tmp_path: Path, columns: list[str], taken: str) -> None:
    cells = {name: [{"bytes": picture(10 * place), "path": None}] for place, name in enumerate(columns)}
    saved = write(tmp_path, {**cells, "tags": [["x"]]}, {**dict.fromkeys(columns, datasets.Image()), "tags": TEXTS})
    (path,) = read_hub(saved, cache=tmp_path).paths()
    assert path.read_bytes() == picture(10 * columns.index(taken))


def test_several_columns_of_images_with_other_names_are_refused(tmp_path: Path) -> None:
    cells = {name: [{"bytes": picture(1), "path": None}] for name in ("left", "right")}
    saved = write(tmp_path, {**cells, "tags": [["x"]]}, {**dict.fromkeys(cells, datasets.Image()), "tags": TEXTS})
    with pytest.raises(InputError, match=r"expected one column of images, named 'image'; .*'left', 'right', 'tags'"):
        read_hub(saved, cache=tmp_path)


@pytest.mark.parametrize("columns", [["labels", "label", "tags", "classes"], ["label", "tags"], ["classes", "tags"]])
def test_the_first_column_of_labels_counts(tmp_path: Path, columns: list[str]) -> None:
    taken = next(name for name in ("labels", "label", "tags", "classes") if name in columns)
    cells = {name: [[name]] for name in reversed(columns)}
    images = [{"bytes": picture(1), "path": None}]
    saved = write(tmp_path, {**cells, "img": images}, {**dict.fromkeys(cells, TEXTS), "img": datasets.Image()})
    assert read_hub(saved, cache=tmp_path).class_names == (taken,)


def test_splits_are_read_one_after_the_other(tmp_path: Path) -> None:
    features = datasets.Features({"img": datasets.Image(), "labels": TEXTS})
    parts = {
        split: datasets.Dataset.from_dict(
            {"img": [{"bytes": picture(shade), "path": None} for shade in shades], "labels": labels}, features=features
        )
        for split, shades, labels in (("train", [1, 2], [["a"], [" b ", ""]]), ("test", [3], [[]]))
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert is_saved_dataset(tmp_path / "saved")
    assert is_saved_dataset(tmp_path / "saved" / "train")
    assert not is_saved_dataset(tmp_path)
    data = read_hub(tmp_path / "saved", cache=tmp_path)
    assert data.names == ("train/00000000.png", "train/00000001.png", "test/00000000.png")
    assert (data.splits, data.lines) == (("train", "train", "test"), (1, 2, 3))
    assert data.targets.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert [path.read_bytes() for path in data.paths()] == [picture(shade) for shade in (1, 2, 3)]
    assert data.where(2) == f"{tmp_path / 'saved'}, image test/00000000.png"
    one = read_hub(tmp_path / "saved" / "train", cache=tmp_path)
    assert (one.names, one.splits) == (("all/00000000.png", "all/00000001.png"), ("", ""))


@pytest.mark.parametrize(
    ("form", "ending"), [("PNG", ".png"), ("JPEG", ".jpg"), ("GIF", ".gif"), ("BMP", ".bmp"), ("WEBP", ".webp")]
)
def test_files_end_as_their_content_says(tmp_path: Path, form: str, ending: str) -> None:
    images = [{"bytes": picture(1, form), "path": None}, {"bytes": b"what", "path": "x.jpg"}]
    features = {"img": datasets.Image(), "labels": TEXTS}
    saved = write(tmp_path, {"img": images, "labels": [["a"], []]}, features)
    data = read_hub(saved, cache=tmp_path)
    assert [path.suffix for path in data.paths()] == [ending, ".img"]
    assert [path.read_bytes() for path in data.paths()] == [picture(1, form), b"what"]


@pytest.mark.parametrize(
    ("cell", "names", "found"),
    [
        ([0, 2], "abc", ["a", "c"]),
        ([-1, 1], "abc", ["b"]),
        (2, "abc", ["c"]),
        (None, "abc", []),
        ([None, 0], "abc", ["a"]),
        ([7, -1], None, ["7"]),
        (["x ", "", " "], "abc", ["x"]),
        ([3], "abc", r"label 3 is none of the 3 classes"),
        ([0.5], "abc", r"0\.5 is neither the name nor the number of a class"),
        ([[1]], None, r"\[1\] is neither the name"),
    ],
)
def test_labels_of_a_cell(cell: Any, names: str | None, found: Any) -> None:
    if isinstance(found, str):
        with pytest.raises(InputError, match=found):
            hub._labels(cell, names)
    else:
        assert hub._labels(cell, names) == found


def test_images_may_lie_in_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(7))
    kept = tmp_path / "kept"
    kept.mkdir()
    assert hub._write_image({"bytes": None, "path": str(tmp_path / "a.png")}, kept, "one") == "one.png"
    assert (kept / "one.png").read_bytes() == picture(7)
    assert hub._write_image({"bytes": picture(8), "path": str(tmp_path / "a.png")}, kept, "two") == "two.png"
    assert (kept / "two.png").read_bytes() == picture(8)
    assert hub._write_image({"bytes": None, "path": None}, kept, "none") == ""
    assert hub._write_image(None, kept, "none") == ""


@pytest.mark.parametrize(
    ("name", "called"), [("hf:owner/name", ("owner/name", None)), ("hf:owner/name:small", ("owner/name", "small"))]
)
def test_names_on_the_hub_have_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, called: tuple[str, str | None]
) -> None:
    saved = datasets.load_from_disk(str(save(tmp_path, [["x"]], TEXTS)))
    asked: list[Any] = []

    def load(*arguments: Any, **_: Any) -> Any:
        asked.append(arguments)
        return saved

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "why_unreachable", lambda _: None)
    assert read_hub(name, cache=tmp_path).class_names == ("x",)
    assert asked == [called]


def test_no_rows_are_refused(tmp_path: Path) -> None:
    saved = write(tmp_path, {"img": [], "labels": []}, {"img": datasets.Image(), "labels": TEXTS})
    with pytest.raises(InputError, match="has no rows"):
        read_hub(saved, cache=tmp_path)


def test_other_data_have_another_folder(tmp_path: Path) -> None:
    roots = set()
    for place, labels in enumerate(([["a"]], [["b"]], [["a"], ["a"]])):
        (tmp_path / str(place)).mkdir()
        roots.add(read_hub(save(tmp_path / str(place), labels, TEXTS), cache=tmp_path).root)
    assert len(roots) == 3
    assert all(root.parent == tmp_path / "hub" for root in roots)


def test_a_row_without_an_image_is_named(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "labels": datasets.List(datasets.Value("string"))})
    images = [None, {"bytes": picture(1), "path": None}]
    data = datasets.Dataset.from_dict({"image": images, "labels": [["a"], ["a"]]}, features=features)
    data.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(InputError, match="no image is named"):
        read_hub(tmp_path / "saved", cache=tmp_path)
    assert len(read_hub(tmp_path / "saved", cache=tmp_path, on_error="skip")) == 1


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
        read_hub(tmp_path / "saved", cache=tmp_path)


def test_what_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"gone cannot be loaded"):
        read_hub(tmp_path / "gone", cache=tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'tailwise\[hub\]'"):
        read_hub("hf:owner/name", cache=tmp_path)


def test_a_hub_that_cannot_be_reached_is_asked_once(
    tmp_path: Path, unreachable: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, reason = unreachable
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(InputError, match=rf"{endpoint} cannot be reached \(.*{reason}.*HF_HUB_OFFLINE=1") as caught:
        read_hub("hf:owner/name", cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_offline_mode_asks_no_hub_and_takes_what_was_loaded_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save(tmp_path, [["x"], ["y"]], datasets.List(datasets.Value("string")))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.load_from_disk(str(saved)))
    assert read_hub("hf:owner/name", cache=tmp_path).class_names == ("x", "y")
