"""The published facts about VOC-MLT and COCO-MLT, typed once more, what must hold between them, and the check."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tailwise.data.benchmarks import BENCHMARKS, COCO_MLT, VOC_MLT, build_benchmark, read_pool
from tailwise.data.benchmarks.benchmark import PublishedFacts, require_published
from tailwise.data.benchmarks.store import Store
from tailwise.data.dataset import Dataset, Files
from tailwise.errors import InputError

# Training images of each class, in the order of the classes.
COUNTS = {
    "voc-mlt": """
    aeroplane 6, bicycle 34, bird 8, boat 14, bottle 154, bus 17, car 249, cat 29, chair 479, cow 4, diningtable 240,
    dog 48, horse 11, motorbike 20, person 775, pottedplant 100, sheep 5, sofa 82, train 7, tvmonitor 64
    """,
    "coco-mlt": """
    person 1128, bicycle 37, car 276, motorcycle 32, airplane 9, bus 41, train 18, truck 87, boat 20,
    traffic_light 50, fire_hydrant 11, stop_sign 13, parking_meter 8, bench 97, bird 19, cat 49, dog 70, horse 17,
    sheep 7, cow 10, elephant 8, bear 6, zebra 7, giraffe 7, backpack 100, umbrella 39, handbag 189, tie 31,
    suitcase 24, frisbee 11, skis 12, snowboard 8, sports_ball 35, kite 10, baseball_bat 25, baseball_glove 21,
    skateboard 17, surfboard 10, tennis_racket 20, bottle 460, wine_glass 84, cup 498, fork 126, knife 207,
    spoon 173, bowl 366, banana 39, apple 35, sandwich 44, orange 36, broccoli 29, carrot 25, hot_dog 14, pizza 45,
    donut 16, cake 73, chair 585, couch 153, potted_plant 164, bed 44, dining_table 624, toilet 25, tv 200,
    laptop 137, mouse 70, remote 89, keyboard 73, cell_phone 127, microwave 91, oven 175, toaster 9, sink 237,
    refrigerator 119, book 292, clock 87, vase 113, scissors 15, teddy_bear 21, hair_drier 6, toothbrush 11
    """,
}
# Training and test images, classes of the groups, and positive labels of the training images together.
SIZES = {"voc-mlt": (1142, 4952, (6, 6, 8), 2346), "coco-mlt": (1909, 5000, (22, 33, 25), 8316)}
CHECKSUMS = {
    "voc-mlt": "eb777c79d872c7ff702dfdf192890b709f8bdc3158a45eb9b66aeaf8a7689ddc",
    "coco-mlt": "e08d79e319541e460968d6e5f8cbab2d8d426cea35d4af748878ce64726fa1b5",
}


@pytest.fixture(params=["voc-mlt", "coco-mlt"])
def facts(request: pytest.FixtureRequest) -> tuple[str, PublishedFacts]:
    """A benchmark's name and what is published about it."""
    return request.param, BENCHMARKS[request.param].facts


def test_classes_and_counts_are_the_published_ones(facts: tuple[str, PublishedFacts]) -> None:
    name, found = facts
    typed = [entry.rsplit(" ", 1) for entry in " ".join(COUNTS[name].split()).split(", ")]
    assert list(zip(found.class_names, found.class_counts, strict=True)) == [
        (label.replace("_", " "), int(count)) for label, count in typed
    ]
    text = ",".join(f"{label}={count}" for label, count in zip(found.class_names, found.class_counts, strict=True))
    assert hashlib.sha256(text.encode()).hexdigest() == CHECKSUMS[name]


def test_groups_follow_from_the_counts(facts: tuple[str, PublishedFacts]) -> None:
    """Head has 100 images or more, medium 20 or more: VOC's pottedplant has 100, COCO's boat and racket have 20."""
    name, found = facts
    by_count: dict[str, list[int]] = {"head": [], "medium": [], "tail": []}
    for k, count in enumerate(found.class_counts):
        by_count["head" if count >= 100 else "medium" if count >= 20 else "tail"].append(k)
    assert {group: list(members) for group, members in found.groups.items()} == by_count
    assert tuple(map(len, by_count.values())) == SIZES[name][2]
    assert sorted(k for members in found.groups.values() for k in members) == list(range(len(found.class_names)))


def test_sizes_are_the_published_ones(facts: tuple[str, PublishedFacts]) -> None:
    name, found = facts
    num_train, num_test, _, positives = SIZES[name]
    assert (found.num_train, found.num_test, sum(found.class_counts)) == (num_train, num_test, positives)
    assert max(found.class_counts) <= num_train <= positives


def test_facts_about_the_test_sets() -> None:
    assert dict(VOC_MLT.facts.test_counts) == {"person": 2097}
    assert VOC_MLT.facts.num_test_without_label is None
    assert dict(COCO_MLT.facts.test_counts) == {}
    assert COCO_MLT.facts.num_test_without_label == 48


def test_addresses() -> None:
    authors = "https://raw.githubusercontent.com/wutong16/DistributionBalancedLoss"
    assert COCO_MLT.images.annotations.urls == (  # type: ignore[attr-defined]
        "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    )
    assert COCO_MLT.images.test_images.urls == ("http://images.cocodataset.org/zips/val2017.zip",)  # type: ignore[attr-defined]
    assert COCO_MLT.images.train_images == "http://images.cocodataset.org/train2017"  # type: ignore[attr-defined]
    for benchmark in BENCHMARKS.values():
        (url,) = benchmark.image_ids.urls
        assert url.startswith(f"{authors}/")
        revision, path = url.removeprefix(f"{authors}/").split("/", 1)
        assert path == benchmark.list_place
        assert len(revision) == 40
    # Other files of the repository hold another split.
    assert VOC_MLT.list_place == "appendix/VOCdevkit/longtail2012/img_id.txt"
    assert COCO_MLT.list_place == "appendix/coco/longtail2017/img_id.pkl"


SMALL = PublishedFacts(
    class_names=("cat", "dog"),
    class_counts=(2, 1),
    groups={"head": (), "medium": (), "tail": (0, 1)},
    num_train=3,
    num_test=4,
    test_counts={"cat": 2},
    num_test_without_label=1,
)
TRAIN, TEST = [[1, 0], [1, 1], [0, 0]], [[1, 0], [1, 1], [0, 1], [0, 0]]


def images(targets: list[list[int]]) -> Dataset:
    size = len(targets)
    return Dataset(
        names=tuple(f"{row}.jpg" for row in range(size)),
        inputs=Files(Path("root")),
        targets=np.array(targets, dtype=np.int8),
        class_names=("cat", "dog"),
        splits=("",) * size,
        lines=tuple(range(size)),
        source=Path("list.txt"),
    )


def test_data_that_agree_are_the_published_ones() -> None:
    require_published("small", SMALL, images(TRAIN), images(TEST))
    unknown = [[1, -1], [1, 1], [0, 1], [-1, -1]]
    require_published("small", SMALL, images(TRAIN), images(unknown))
    silent = replace(SMALL, num_test_without_label=None, test_counts={})
    require_published("small", silent, images(TRAIN), images([[1, 1]] * 4))


@pytest.mark.parametrize(
    ("train", "test", "differences"),
    [
        ([*TRAIN, [0, 0]], TEST, ["4 training images instead of 3"]),
        (TRAIN[:2], TEST, ["2 training images instead of 3"]),
        ([[1, 0], [1, 1], [1, 0]], TEST, ["class  published  found", "cat            2      3"]),
        ([[0, 0], [1, 1], [0, 0]], TEST, ["class  published  found", "cat            2      1"]),
        (TRAIN, [*TEST, [0, 1]], ["5 test images instead of 4"]),
        (TRAIN, [[1, 0], [1, 1], [0, 0]], ["3 test images instead of 4"]),
        (TRAIN, [[1, 0], [1, 1], [1, 1], [0, 0]], ["3 test images with cat instead of 2"]),
        (TRAIN, [[1, 0], [0, 1], [0, 1], [0, 0]], ["1 test images with cat instead of 2"]),
        (TRAIN, [[1, 0], [1, 1], [0, 0], [0, 0]], ["2 test images without any class instead of 1"]),
        (TRAIN, [[1, 0], [1, 1], [0, 1], [0, 1]], ["0 test images without any class instead of 1"]),
    ],
)
def test_more_and_fewer_than_published_are_told(
    train: list[list[int]], test: list[list[int]], differences: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        require_published("small", SMALL, images(train), images(test))
    first, *listed = str(caught.value).splitlines()
    assert first == "small: these are not the published images and labels."
    assert [line.strip() for line in listed if line.startswith("  ")] == differences


def test_other_groups_are_told() -> None:
    facts = replace(SMALL, groups={"head": (0,), "medium": (), "tail": (1,)})
    with pytest.raises(InputError, match=r"(?s)the group head differs by cat.*the group tail differs by cat"):
        require_published("small", facts, images(TRAIN), images(TEST))


def test_downloads_are_allowed_and_shown_unless_they_are_not() -> None:
    store = Store(Path("root"))
    assert (store.download, store.progress, store.wait) == (True, True, 1.0)
    for function, free in ((build_benchmark, 2), (read_pool, 2)):
        parameters = inspect.signature(function).parameters
        assert {parameters[name].kind for name in list(parameters)[free:]} == {inspect.Parameter.KEYWORD_ONLY}
        defaults = [parameters[name].default for name in ("download", "progress", "wait")]
        assert defaults == [True, True, 1.0]
