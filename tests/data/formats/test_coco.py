"""COCO instances against a plain loop over the same JSON, and files that are broken."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailwise.data.formats.coco import holds_coco, read_instances
from tailwise.data.formats.rows import Problems
from tailwise.errors import InputError
from tests.data.formats.coco_file import box, instances, write_instances
from tests.formats import read_coco

# COCO's ids have gaps, and files list categories in any order.
CATEGORIES = {18: "dog", 1: "person", 90: "toothbrush", 17: "cat"}
IN_ORDER = ("person", "cat", "dog", "toothbrush")


def labels(data: Any) -> dict[int, set[str]]:
    return {
        line: {data.class_names[k] for k in np.flatnonzero(row)}
        for line, row in zip(data.lines, data.targets, strict=True)
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder as COCO's archives make it."""
    boxes = [box(5, 18), box(5, 18, 1), box(5, 1, 2), box(3, 17, 3, iscrowd=1)]
    write_instances(tmp_path / "annotations/instances_train2017.json", [5, 3, 9], boxes, CATEGORIES)
    write_instances(tmp_path / "annotations/instances_val2017.json", [4], [box(4, 90)], CATEGORIES)
    (tmp_path / "annotations/captions_val2017.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("start", [".", "annotations"])
def test_a_folder_with_annotations(tree: Path, start: str) -> None:
    data = read_coco(tree / start)
    assert data.class_names == IN_ORDER
    assert labels(data) == {5: {"dog", "person"}, 3: {"cat"}, 9: set(), 4: {"toothbrush"}}
    assert data.splits == ("train2017",) * 3 + ("val2017",)
    assert data.names[0] == "train2017/000000000005.jpg"
    assert data.root == tree
    assert data.stats().class_counts.tolist() == [1, 1, 1, 1]


def test_a_folder_as_roboflow_makes_it(tmp_path: Path) -> None:
    for split, image in (("train", 0), ("valid", 1)):
        image_record = {"id": image, "file_name": f"a.rf.{image}.jpg"}
        write_instances(
            tmp_path / split / "_annotations.coco.json", [image_record], [box(image, 1)], {0: "x", 1: "cat"}
        )
    data = read_coco(tmp_path)
    assert data.names == ("train/a.rf.0.jpg", "valid/a.rf.1.jpg")
    assert data.splits == ("train", "valid")
    assert data.class_names == ("x", "cat")
    assert data.root == tmp_path


@pytest.mark.parametrize(
    ("place", "image", "root"),
    [
        ("labels.json", "000000000005.jpg", "."),
        ("instances_val2017.json", "000000000005.jpg", "."),
        ("instances_val2017.json", "val2017/000000000005.jpg", "."),
        ("annotations/instances_val2017.json", "val2017/000000000005.jpg", "."),
        ("annotations/instances_val2017.json", "annotations/000000000005.jpg", "annotations"),
    ],
)
def test_the_images_of_one_file_are_found(tmp_path: Path, place: str, image: str, root: str) -> None:
    file = write_instances(tmp_path / place, [4, 5], [box(5, 1)], CATEGORIES)
    (tmp_path / image).parent.mkdir(exist_ok=True)
    (tmp_path / image).touch()
    data = read_coco(file)
    assert data.root == tmp_path / root
    assert data.paths()[1] == tmp_path / image
    assert data.splits == ("val2017" if "val2017" in place else "",) * 2


def test_the_images_of_one_file_must_be_somewhere(tmp_path: Path) -> None:
    file = write_instances(tmp_path / "annotations/instances_x.json", [5], [box(5, 1)], CATEGORIES)
    with pytest.raises(InputError, match=r"images are not next to it, in x/ and in ../x/; give the root"):
        read_coco(file)
    data = read_coco(file, root=tmp_path / "pictures")
    assert data.paths() == [tmp_path / "pictures/000000000005.jpg"]
    (tmp_path / "annotations/other.json").write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="images are not next to it; give the root"):
        read_coco(tmp_path / "annotations/other.json")


SIDE = st.sampled_from([-1.0, 0.0, 0.5, 0.999, 1, 1.0, 7.25])
BOXES = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.sampled_from(list(CATEGORIES)),
        SIDE,
        SIDE,
        st.sampled_from([0, -1.0, 0.3, 9.0]),
        st.booleans(),
    ),
    max_size=8,
)
NUMBERS = itertools.count()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(boxes=BOXES)
def test_any_boxes_against_a_plain_loop(tmp_path: Path, boxes: list[Any]) -> None:
    records = [
        box(image, category, number, (width, height), area=area, iscrowd=int(crowd))
        for number, (image, category, width, height, area, crowd) in enumerate(boxes)
    ]
    file = write_instances(tmp_path / f"{next(NUMBERS)}.json", [2, 1, 3, 4], records, CATEGORIES)
    data = read_coco(file, root=tmp_path)
    assert data.lines == (2, 1, 3, 4)
    expected: dict[int, set[str]] = {image: set() for image in data.lines}
    for record in json.loads(file.read_text())["annotations"]:
        _, _, width, height = record["bbox"]
        if not (width < 1 or height < 1 or record["area"] <= 0):
            expected[record["image_id"]].add(CATEGORIES[record["category_id"]])
    assert labels(data) == expected


def test_boxes_without_area_have_that_of_their_sides(tmp_path: Path) -> None:
    file = write_instances(
        tmp_path / "a.json", [1], [box(1, 17, area=None), box(1, 18, size=(0, 9), area=None)], CATEGORIES
    )
    assert labels(read_coco(file, root=tmp_path)) == {1: {"cat"}}


@pytest.mark.parametrize(
    ("size", "more", "gives"),
    [
        ((1.0, 1.0), {}, True),
        ((1, 0.999), {}, False),
        ((0.999, 1), {}, False),
        ((9.0, 9.0), {"area": 0}, False),
        ((9.0, 9.0), {"area": -1.0}, False),
        ((9.0, 9.0), {"area": 1e-9}, True),
        ((9.0, 9.0), {"area": None}, True),
        ((9.0, 9.0), {"iscrowd": 1}, True),
        ((0.5, 9.0), {"iscrowd": 1}, False),
        ((9.0, 9.0), {"iscrowd": None}, True),
    ],
)
def test_a_box_gives_a_label_from_a_pixel_on(tmp_path: Path, size: Any, more: dict[str, Any], gives: bool) -> None:
    file = write_instances(tmp_path / "a.json", [1], [box(1, 17, size=size, **more)], CATEGORIES)
    assert labels(read_coco(file, root=tmp_path)) == {1: {"cat"} if gives else set()}


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [1, 2, 3, True]},
        {"bbox": [1, 2, 3, "4"]},
        {"bbox": [1, 2, 3, 4, 5]},
        {"bbox": [1, 2, float("nan"), 4]},
        {"bbox": [1, 2, 3, float("inf")]},
        {"area": True},
        {"area": float("nan")},
        {"category_id": True},
    ],
)
def test_numbers_of_boxes_are_finite_numbers(tmp_path: Path, change: dict[str, Any]) -> None:
    file = write_instances(tmp_path / "a.json", [1, 2], [box(1, 17, 4, **change), box(2, 1, 5)], CATEGORIES)
    with pytest.raises(InputError, match="annotation 4: "):
        read_coco(file, root=tmp_path)
    assert labels(read_coco(file, root=tmp_path, on_error="skip")) == {2: {"person"}}


def test_images_may_lack_their_size_and_names_have_space(tmp_path: Path) -> None:
    images = [{"id": 3, "file_name": " a.jpg "}, {"id": 2, "file_name": "b.jpg", "width": 5, "height": None}]
    file = write_instances(tmp_path / "a.json", images, [box(2, 90)], {90: " toothbrush "})
    found = read_instances(file, Problems())
    assert found.class_names == ("toothbrush",)
    assert [(i.id, i.file_name, i.width, i.height, i.labels) for i in found.images] == [
        (3, "a.jpg", None, None, ()),
        (2, "b.jpg", 5, None, ("toothbrush",)),
    ]
    for key in ("width", "height"):
        write_instances(tmp_path / "a.json", [{"id": 3, "file_name": "a", key: 2.5}], [], CATEGORIES)
        with pytest.raises(InputError, match=f"image 3: '{key}' is 2.5 where a whole number"):
            read_instances(file, Problems())


def test_one_hundred_images_are_looked_for(tmp_path: Path) -> None:
    for count, found in ((100, True), (101, False)):
        folder = tmp_path / str(count)
        file = write_instances(folder / "labels.json", list(range(1, 200)), [box(1, 1)], CATEGORIES)
        (folder / f"{count:012d}.jpg").touch()
        if found:
            assert read_coco(file).root == folder
        else:
            with pytest.raises(InputError, match="give the root"):
                read_coco(file)


def test_files_stand_in_the_order_of_their_names_and_one_form_goes_before_the_other(tree: Path) -> None:
    write_instances(tree / "extra" / "_annotations.coco.json", [7], [box(7, 1)], CATEGORIES)
    assert set(read_coco(tree).splits) == {"train2017", "val2017"}
    assert holds_coco(tree)
    assert holds_coco(tree / "annotations")
    assert not holds_coco(tree / "extra")


def test_classes_fix_the_order(tree: Path) -> None:
    names = ["toothbrush", "cat", "dog", "person", "unicorn"]
    assert read_coco(tree, classes=names).stats().class_counts.tolist() == [1, 1, 1, 1, 0]
    with pytest.raises(InputError, match=r"image 5: 'person' is none of the 3 classes|image 5: 'dog' is none"):
        read_coco(tree, classes=["cat", "toothbrush", "bird"])


def test_files_must_agree_on_categories_unless_classes_are_given(tree: Path) -> None:
    write_instances(tree / "annotations/instances_val2017.json", [4], [box(4, 1)], {1: "person"})
    with pytest.raises(
        InputError, match=r"val2017.json has other categories than .*train2017.json; give the class names"
    ):
        read_coco(tree)
    assert len(read_coco(tree, classes=IN_ORDER)) == 4


NO_BOX = "where \\[x, y, width, height\\] is expected"


@pytest.mark.parametrize(
    ("change", "message", "left"),
    [
        (box(3, 99, 7), "annotation 7: category 99 is none of the 4 categories", [5, 9]),
        (box(77, 1, 7), "annotation 7: image 77 is none of the 3 images", [5, 3, 9]),
        (box(3, 1, 7, bbox=[1, 2, 3]), f"annotation 7: 'bbox' is \\[1, 2, 3\\] {NO_BOX}", [5, 9]),
        (box(3, 1, 7, bbox=[1, 2, 3, "4"]), NO_BOX, [5, 9]),
        (box(3, 1, 7, bbox=[1, 2, 3, float("nan")]), NO_BOX, [5, 9]),
        (box(3, 1, 7, bbox=[1, 2, 3, True]), NO_BOX, [5, 9]),
        (box(3, 1, 7, bbox={"x": 1}), NO_BOX, [5, 9]),
        ({"id": 7, "image_id": 3, "category_id": 1}, f"annotation 7: 'bbox' is None {NO_BOX}", [5, 9]),
        (box(3, 1, 7, area="large"), "annotation 7: 'area' is 'large' where a number", [5, 9]),
        (
            {"id": 7, "image_id": 3},
            "annotation 7: expected an object whose 'category_id' is a whole number, got None",
            [5, 9],
        ),
        ({"id": 7, "image_id": "3"}, "annotation 7: expected an object whose 'image_id' .* got '3'", [5, 3, 9]),
        ({"id": 7, "image_id": [3]}, "annotation 7: expected an object whose 'image_id'", [5, 3, 9]),
        ({}, "annotation number 2: expected an object whose 'image_id'", [5, 3, 9]),
        ("box", "annotation number 2: expected an object whose 'image_id' .* got 'box'", [5, 3, 9]),
    ],
)
def test_bad_boxes_are_named_or_their_images_left_out(
    tmp_path: Path, change: Any, message: str, left: list[int]
) -> None:
    file = write_instances(tmp_path / "a.json", [5, 3, 9], [box(5, 18), change], CATEGORIES)
    with pytest.raises(InputError, match=message) as caught:
        read_coco(file, root=tmp_path)
    assert str(caught.value).startswith(f"{file}: annotation")
    data = read_coco(file, root=tmp_path, on_error="skip")
    assert list(data.lines) == left
    assert len(data.skipped) == 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"id": 5, "file_name": "other.jpg"}, "image 5 occurs more than once"),
        ({"id": 6, "file_name": 6}, "image 6: 'file_name' is 6 where text is expected"),
        ({"id": 6}, "image 6: 'file_name' is None"),
        ({"id": 6, "file_name": "a", "width": "8"}, "image 6: 'width' is '8' where a whole number"),
        ({"id": "6", "file_name": "a"}, "image number 2: expected an object whose 'id' is a whole number, got '6'"),
        ({"file_name": "a"}, "image number 2: expected an object whose 'id'"),
        ("a.jpg", "image number 2: expected an object whose 'id' is a whole number, got 'a.jpg'"),
        ({"id": 6, "file_name": "../a.jpg"}, "image 6: image '../a.jpg' lies outside the root"),
        ({"id": 6, "file_name": "000000000005.jpg"}, "image '000000000005.jpg' is at .*, image 5 already"),
    ],
)
def test_bad_images_are_named_or_left_out(tmp_path: Path, image: Any, message: str) -> None:
    file = write_instances(tmp_path / "a.json", [5, image, 9], [box(5, 18), box(9, 1)], CATEGORIES)
    with pytest.raises(InputError, match=message) as caught:
        read_coco(file, root=tmp_path)
    assert str(file) in str(caught.value)
    data = read_coco(file, root=tmp_path, on_error="skip")
    assert labels(data) == {5: {"dog"}, 9: {"person"}}
    assert len(data.skipped) == 1


WHOLE = instances([1], [box(1, 1)], CATEGORIES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"a.json:1: not valid JSON"),
        ('{"images": [],\n "annotations": nothing}', r"a.json:2: not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "it holds no list 'images'"),
        (json.dumps({key: value for key, value in WHOLE.items() if key != "annotations"}), "no list 'annotations'"),
        (json.dumps(WHOLE | {"images": {}}), "no list 'images'"),
        (json.dumps(WHOLE | {"categories": [{"id": 1}]}), "category 1 has the name None where text is expected"),
        (json.dumps(WHOLE | {"categories": [{"id": "1", "name": "cat"}]}), "category number 1: expected an object"),
        (
            json.dumps(WHOLE | {"categories": [{"id": 1, "name": "cat"}] * 2}),
            "category 1, 'cat': ids and names must be",
        ),
        (
            json.dumps(WHOLE | {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]}),
            "category 2, 'cat': ids and names must be distinct",
        ),
        (json.dumps(WHOLE | {"images": [], "annotations": []}), "has no rows"),
    ],
)
def test_what_is_no_instances_file(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_coco(tmp_path / "a.json", root=tmp_path, on_error="skip")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nothing.json: No such file"):
        read_coco(tmp_path / "nothing.json", root=tmp_path)
    with pytest.raises(InputError, match=r"expected annotations/instances_<split>.json, or <split>/_annotations"):
        read_coco(tmp_path)
