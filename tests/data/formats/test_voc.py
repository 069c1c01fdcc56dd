"""Pascal VOC trees against torchvision and plain loops, and files that are broken or hostile."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import VOCDetection

from tailwise.data.dataset import require_images
from tailwise.data.formats.voc import VocImage, label_rows
from tailwise.errors import InputError
from tests.data.formats.voc_tree import annotation, write_year
from tests.formats import read_voc

CLASSES = ("cat", "dog", "person", "tvmonitor")
IMAGES: dict[str, list[str | tuple[str, int]]] = {
    "2008_000001": ["person", ("person", 1), "dog"],
    "2008_000002": [("cat", 1)],
    "2008_000003": [("dog", 1), ("dog", 0), ("tvmonitor", 0), ("cat", 1)],
    "2008_000004": ["tvmonitor"],
}
LISTS = {"train": ["2008_000001", "2008_000003"], "val": ["2008_000002"], "trainval": list(IMAGES)[:3]}


@pytest.fixture
def year(tmp_path: Path) -> Path:
    return write_year(tmp_path / "VOCdevkit" / "VOC2012", IMAGES, LISTS)


def labels(data: Any) -> list[set[str]]:
    return [{data.class_names[k] for k in np.flatnonzero(row == 1)} for row in data.targets]


def test_one_year(year: Path) -> None:
    data = read_voc(year)
    assert data.names == tuple(f"JPEGImages/{name}.jpg" for name in (*LISTS["train"], *LISTS["val"]))
    assert data.class_names == CLASSES
    assert data.splits == ("train", "train", "val")
    assert labels(data) == [{"person", "dog"}, {"cat", "dog", "tvmonitor"}, {"cat"}]
    assert data.root == year
    assert data.targets.dtype == np.int8
    assert set(np.unique(data.targets)) == {0, 1}


@pytest.mark.parametrize("start", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_wherever_one_starts_the_images_are_found(year: Path, tmp_path: Path, start: str) -> None:
    (year / "JPEGImages").mkdir()
    for name in IMAGES:
        Image.new("RGB", (4, 4)).save(year / "JPEGImages" / f"{name}.jpg")
    data = read_voc(tmp_path / start)
    assert require_images(data) is data
    assert len(data) == 3
    if start != "VOCdevkit/VOC2012":
        assert data.names[0] == "VOC2012/JPEGImages/2008_000001.jpg"
        assert data.root == tmp_path / "VOCdevkit"


def test_several_years_name_themselves_in_splits(year: Path) -> None:
    write_year(year.parent / "VOC2007", {"000001": ["cat"], "000002": ["dog"]}, {"test": ["000002", "000001"]})
    write_year(year.parent / "VOC2010", {"b": ["dog"], "a": ["cat"]})
    (year.parent / "results").mkdir()
    data = read_voc(year.parent)
    assert data.splits == ("VOC2007/test",) * 2 + ("",) * 2 + ("VOC2012/train",) * 2 + ("VOC2012/val",)
    assert data.names[:4] == (
        *("VOC2007/JPEGImages/000002.jpg", "VOC2007/JPEGImages/000001.jpg"),
        *("VOC2010/JPEGImages/a.jpg", "VOC2010/JPEGImages/b.jpg"),
    )
    assert len(data.select("VOC2007/test")) == 2


def test_years_in_different_folders(tmp_path: Path) -> None:
    write_year(tmp_path / "first" / "VOCdevkit" / "VOC2007", {"1": ["cat"]})
    write_year(tmp_path / "second" / "VOCdevkit" / "VOC2012", {"1": ["dog"]})
    data = read_voc(tmp_path)
    assert data.root == tmp_path
    assert data.names == ("first/VOCdevkit/VOC2007/JPEGImages/1.jpg", "second/VOCdevkit/VOC2012/JPEGImages/1.jpg")


@pytest.mark.parametrize("image_set", ["train", "val", "trainval"])
def test_torchvision_reads_the_same(tmp_path: Path, image_set: str) -> None:
    lists = {"trainval": LISTS["trainval"]} if image_set == "trainval" else LISTS
    year = write_year(tmp_path / "VOCdevkit" / "VOC2012", IMAGES, lists)
    (year / "JPEGImages").mkdir()
    for name in IMAGES:
        Image.new("RGB", (4, 4)).save(year / "JPEGImages" / f"{name}.jpg")
    reference = VOCDetection(tmp_path, year="2012", image_set=image_set)
    data = read_voc(tmp_path).select(image_set)
    assert [str(path) for path in data.paths()] == reference.images
    expected = [{entry["name"] for entry in target["annotation"]["object"]} for _, target in reference]
    assert labels(data) == expected


def test_difficult_objects(year: Path) -> None:
    data = read_voc(year, difficult="unknown")
    assert dict(zip(data.class_names, data.targets[1], strict=True)) == {
        "cat": -1,
        "dog": 1,
        "person": 0,
        "tvmonitor": 1,
    }
    assert data.targets[0].tolist() == [0, 1, 1, 0]
    assert data.targets[2].tolist() == [-1, 0, 0, 0]


@pytest.mark.parametrize("flags", [(1, 0), (0, 1), (0, 1, 1), (1, 1, 0)])
def test_one_easy_object_makes_its_class_positive(tmp_path: Path, flags: tuple[int, ...]) -> None:
    objects = [*(("dog", flag) for flag in flags), ("cat", 1)]
    images = [VocImage(1, "a.jpg", tuple((name, flag == 1) for name, flag in objects))]
    for difficult, labels, unknown in (("unknown", ("dog",), ("cat",)), ("positive", ("dog", "cat"), ())):
        (row,) = label_rows(images, CLASSES, difficult)  # type: ignore[arg-type]
        assert (row.labels, row.unknown, row.line) == (labels, unknown, 1)
    data = read_voc(write_year(tmp_path / "VOC", {"1": objects}), classes=CLASSES, difficult="unknown")
    assert data.targets.tolist() == [[-1, 1, 0, 0]]


def test_the_most_frequent_spelling_counts_and_of_several_the_first_by_name(tmp_path: Path) -> None:
    often = write_year(tmp_path / "often", {"1": ["dog", "Cat"], "2": ["Dog", "cat"], "3": ["dog", "cat"]})
    assert read_voc(often).class_names == ("cat", "dog")
    tied = write_year(tmp_path / "tied", {"1": ["dog"], "2": ["Dog"]})
    assert read_voc(tied).class_names == ("Dog",)
    assert read_voc(tied, classes=["dog"]).targets.tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("lists", "splits"),
    [
        (["train", "val", "trainval", "test"], ["train", "val", "test"]),
        (["trainval", "test"], ["trainval", "test"]),
        (["train", "trainval"], ["train"]),
        (["val", "trainval"], ["val"]),
        (["test"], ["test"]),
        ([], [""]),
    ],
)
def test_lists_that_are_read(tmp_path: Path, lists: list[str], splits: list[str]) -> None:
    members = {"train": ["1"], "val": ["2"], "trainval": ["1", "2"], "test": ["3"]}
    year = write_year(tmp_path / "VOC", {name: ["cat"] for name in "123"}, {name: members[name] for name in lists})
    data = read_voc(year)
    assert list(dict.fromkeys(data.splits)) == splits
    for split in filter(None, splits):
        names = [image.removeprefix("JPEGImages/").removesuffix(".jpg") for image in data.select(split).names]
        assert names == members[split]
    sizes = [3] if splits == [""] else [len(members[split]) for split in splits]
    assert list(data.lines) == [line for size in sizes for line in range(1, size + 1)]


def test_difficult_is_one_of_two(year: Path, unchecked: None) -> None:
    with pytest.raises(InputError, match="difficult must be one of 'positive', 'unknown', got 'ignore'"):
        read_voc(year, difficult="ignore")  # type: ignore[arg-type]


OBJECTS = st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from([None, 0, 1])), min_size=1, max_size=5)
NUMBERS = itertools.count()


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(images=st.lists(OBJECTS, min_size=1, max_size=4), difficult=st.sampled_from(["positive", "unknown"]))
def test_any_objects_against_a_plain_loop(tmp_path: Path, images: list[Any], difficult: Any) -> None:
    names = {
        f"{index}": [name if hard is None else (name, hard) for name, hard in objects]
        for index, objects in enumerate(images)
    }
    data = read_voc(write_year(tmp_path / str(next(NUMBERS)), names), classes=CLASSES, difficult=difficult)
    for row, objects in zip(data.targets, images, strict=True):
        for name, value in zip(CLASSES, row, strict=True):
            flags = [hard == 1 for label, hard in objects if label == name]
            expected = 0 if not flags else -1 if difficult == "unknown" and all(flags) else 1
            assert value == expected


def test_names_may_differ_in_case_and_space(tmp_path: Path) -> None:
    images = {"1": ["Traffic  Light", "cat"], "2": [" traffic\n light ", "Cat"], "3": ["Traffic light", "cat"]}
    year = write_year(tmp_path / "VOC", {**images, "4": ["Traffic light"]})
    assert read_voc(year).class_names == ("Traffic light", "cat")
    assert labels(read_voc(year, classes=["CAT", "traffic light"])) == [{"CAT", "traffic light"}] * 3 + [
        {"traffic light"}
    ]
    exact = read_voc(write_year(tmp_path / "other", {"1": ["US", "us"], "2": ["us"]}), classes=["US", "us"])
    assert exact.targets.tolist() == [[1, 1], [0, 1]]


def test_file_names_may_leave_out_or_have_another_ending(tmp_path: Path) -> None:
    year = write_year(tmp_path / "VOC", {name: ["cat"] for name in "abcd"})
    for name, filename in (("a", "a"), ("b", "b.png"), ("c", "c.JPG")):
        (year / "Annotations" / f"{name}.xml").write_text(annotation(name, ["cat"], filename=filename))
    text = annotation("d", ["cat"]).replace("<filename>d.jpg</filename>", "")
    (year / "Annotations" / "d.xml").write_text(text)
    assert read_voc(year).names == tuple(f"JPEGImages/{name}" for name in ("a.jpg", "b.png", "c.JPG", "d.jpg"))


def test_lists_may_have_a_second_column_and_blank_lines(year: Path) -> None:
    (year / "ImageSets/Main/train.txt").write_bytes(b"\xef\xbb\xbf2008_000001  1\r\n\r\n2008_000003 -1\r\n")
    assert [image[-8:-4] for image in read_voc(year).select("train").names] == ["0001", "0003"]


LAUGHS = "<!DOCTYPE x [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {new} '{f'&{old};' * 10}'>" for old, new in itertools.pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", r"000001.xml: not a usable XML annotation: no element found"),
        ("", "not a usable XML annotation"),
        ("\x00", "not a usable XML annotation"),
        ("<?xml version='1.0' encoding='no-such'?><annotation/>", "not a usable XML annotation"),
        ("<annotation>&x;</annotation>", "not a usable XML annotation: undefined entity"),
        (LAUGHS + "]><annotation><object><name>&j;</name></object></annotation>", "holds a document type definition"),
        ("<!DOCTYPE x SYSTEM 'file:///etc/passwd'><annotation/>", "holds a document type definition"),
        ("<annotations/>", "the outermost element is not <annotation>"),
        ("<annotation><object><difficult>0</difficult></object></annotation>", "object 1 has no name"),
        ("<annotation><object><name> </name></object></annotation>", "object 1 has no name"),
        ("<annotation><object><part><name>head</name></part></object></annotation>", "object 1 has no name"),
        (annotation("2008_000001", ["cat", ("dog", 2)]), "object 2 has difficult '2' where 0 or 1 is expected"),
        (
            annotation("", ["cat"], filename="2008_000009.jpg"),
            "annotates '2008_000009.jpg', not an image '2008_000001'",
        ),
        (annotation("", ["cat"], filename="2007_1.jpg"), "annotates '2007_1.jpg', not an image '2008_000001'"),
        (None, r"no annotation .*2008_000001.xml: No such file"),
    ],
)
def test_bad_annotations_are_named_or_left_out(year: Path, content: str | None, message: str) -> None:
    file = year / "Annotations" / "2008_000001.xml"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_voc(year)
    assert str(file) in str(caught.value)
    tracemalloc.start()
    data = read_voc(year, on_error="skip")
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    assert [image[-8:-4] for image in data.names] == ["0003", "0002"]
    assert len(data.skipped) == 1
    assert re.search(message, data.skipped[0])


def test_unknown_classes_and_repeated_images(year: Path) -> None:
    with pytest.raises(InputError, match=r"image JPEGImages/2008_000001.jpg: 'dog' is none of the 3 classes"):
        read_voc(year, classes=["cat", "person", "tvmonitor"])
    (year / "ImageSets/Main/val.txt").write_text("2008_000003\n")
    with pytest.raises(InputError, match=r"'JPEGImages/2008_000003.jpg' is at .* already"):
        read_voc(year)
    assert len(read_voc(year, on_error="skip")) == 2


def test_lists_cannot_lead_out_of_the_tree(year: Path) -> None:
    (year / "ImageSets/Main/val.txt").write_text("2008_000002\n../../secret\n")
    with pytest.raises(InputError, match=r"val.txt:2: '../../secret' is not the name of an image"):
        read_voc(year)
    assert len(read_voc(year, on_error="skip")) == 3


@pytest.mark.parametrize("filename", ["../../2008_000001.jpg", "C:\\2008_000001.jpg"])
def test_annotations_cannot_lead_out_of_the_tree(year: Path, filename: str) -> None:
    text = annotation("2008_000001", ["cat"], filename=filename)
    (year / "Annotations" / "2008_000001.xml").write_text(text)
    with pytest.raises(InputError, match="2008_000001"):
        read_voc(year)
    data = read_voc(year, on_error="skip")
    assert (len(data), len(data.skipped)) == (2, 1)


def test_images_without_objects_stay(year: Path) -> None:
    (year / "Annotations" / "2008_000001.xml").write_text(annotation("2008_000001", []))
    data = read_voc(year)
    assert labels(data) == [set(), {"cat", "dog", "tvmonitor"}, {"cat"}]


def test_what_is_no_tree(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="expected VOCdevkit, or the folder of one year"):
        read_voc(tmp_path)
    with pytest.raises(InputError, match="expected VOCdevkit"):
        read_voc(tmp_path / "nothing")


def test_root_is_an_option(year: Path, tmp_path: Path) -> None:
    assert read_voc(year, root=tmp_path / "elsewhere").paths()[0] == tmp_path / "elsewhere/JPEGImages/2008_000001.jpg"
