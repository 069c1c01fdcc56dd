"""VOC-MLT: the published constants against the official files and torchvision, and a tiny one from end to end."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from torchvision.datasets.voc import DATASET_YEAR_DICT
from torchvision.models.segmentation import FCN_ResNet50_Weights

from tailwise.data.benchmarks import VOC_MLT, LongTailBenchmark
from tailwise.data.benchmarks.benchmark import class_differences, read_image_ids, require_published
from tailwise.data.benchmarks.store import Store
from tailwise.data.dataset import require_images
from tailwise.errors import InputError
from tests.data.benchmarks.tiny import CLASSES, VOC_LIST, VOC_TEST, VOC_TRAIN, build, photo, remote, tar, voc, year
from tests.data.file_server import Fault, FileServer
from tests.data.formats.voc_tree import annotation, write_year
from tests.formats import read_csv


@pytest.fixture
def tiny(server: FileServer) -> LongTailBenchmark:
    return voc(server)


def paths(server: FileServer) -> list[str]:
    return [path for path, _ in server.requests]


def truth(images: dict[str, Any], names: Any) -> list[list[int]]:
    found = []
    for name in names:
        objects = {entry if isinstance(entry, str) else entry[0] for entry in images[name]}
        found.append([int(label in objects) for label in CLASSES])
    return found


def test_the_official_list_is_the_one_that_is_downloaded(shared: Path) -> None:
    official = (shared / "data/official/voc_mlt_image_ids.txt").read_bytes()
    assert hashlib.sha256(official).hexdigest() == VOC_MLT.image_ids.sha256


def test_the_official_list_and_labels_give_the_published_numbers(shared: Path, tmp_path: Path) -> None:
    official = shared / "data/official"
    ids = read_image_ids(official / "voc_mlt_image_ids.txt")
    text = (official / "voc2012_trainval_labels.csv").read_text().replace("image_id,labels", "image,labels", 1)
    (tmp_path / "labels.csv").write_text(text)
    labels = read_csv(tmp_path / "labels.csv", classes=VOC_MLT.facts.class_names)
    row_of = {image: row for row, image in enumerate(labels.names)}
    chosen = labels.subset([row_of[image] for image in ids])
    assert len(chosen) == VOC_MLT.facts.num_train == 1142
    assert chosen.stats().class_counts.tolist() == list(VOC_MLT.facts.class_counts)
    groups = {name: tuple(members.tolist()) for name, members in chosen.stats().groups.items()}
    assert groups == VOC_MLT.facts.groups
    rows = (official / "voc_mlt_label_rows.csv").read_text().split()[1:]
    by_row = [sorted(int(k) for k in row.split(",")[1].split("|")) for row in rows]
    assert [np.flatnonzero(row).tolist() for row in chosen.targets] == by_row


def test_the_official_labels_in_a_tree_make_the_benchmark(shared: Path, tmp_path: Path) -> None:
    """All of VOC-MLT but the pictures: annotations made from the official labels, and a test set of the right size."""
    official = shared / "data/official"
    ids = (official / "voc_mlt_image_ids.txt").read_text().split()
    rows = dict(line.split(",") for line in (official / "voc2012_trainval_labels.csv").read_text().split()[1:])
    facts = VOC_MLT.facts
    test = {
        f"{number:06d}": ["person"] if number <= facts.test_counts["person"] else ["dog"] for number in range(1, 4953)
    }
    train = {name: [(label, 1) for label in rows[name].split("|")] for name in ids}
    for year_name, images, lists in (("VOC2012", train, {}), ("VOC2007", test, {"test": list(test)})):
        folder = write_year(tmp_path / "VOCdevkit" / year_name, images, lists)
        (folder / "JPEGImages").mkdir()
        for name in images:
            (folder / "JPEGImages" / f"{name}.jpg").touch()
    data = build(VOC_MLT, tmp_path, lists=official / "voc_mlt_image_ids.txt", download=False)
    assert (len(data.train), len(data.test)) == (1142, 4952)
    assert data.stats.class_counts.tolist() == list(facts.class_counts)


def test_the_facts_are_those_of_the_official_statistics(shared: Path) -> None:
    official = json.loads((shared / "data/official/voc_mlt_stats.json").read_text())
    facts = VOC_MLT.facts
    assert list(facts.class_names) == official["classes"]
    assert list(facts.class_counts) == official["class_counts"]
    assert {name: list(members) for name, members in facts.groups.items()} == official["groups"]
    assert facts.num_train == official["num_samples"]


def test_archives_and_classes_against_torchvision() -> None:
    for file, key in ((VOC_MLT.images.train, "2012"), (VOC_MLT.images.test, "2007-test")):  # type: ignore[attr-defined]
        known = DATASET_YEAR_DICT[key]
        assert file.name == known["filename"]
        # Its versions differ in the server.
        assert {urlsplit(url).path for url in file.urls} == {urlsplit(known["url"]).path}
        assert known["url"] in file.urls
    categories = FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    assert categories == ["__background__", *VOC_MLT.facts.class_names]


def test_a_build_gets_what_it_needs_and_a_second_one_nothing(
    tiny: LongTailBenchmark, server: FileServer, tmp_path: Path
) -> None:
    data = build(tiny, tmp_path / "data")
    assert sorted(paths(server)) == ["/authors/appendix/longtail2012/img_id.txt", "/voc/test.tar", "/voc/train.tar"]
    assert data.train.names == tuple(f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg" for name in VOC_LIST)
    assert data.test.names == tuple(f"VOCdevkit/VOC2007/JPEGImages/{name}.jpg" for name in VOC_TEST)
    assert data.train.targets.tolist() == truth(VOC_TRAIN, VOC_LIST)
    assert data.test.targets.tolist() == truth(VOC_TEST, VOC_TEST)
    assert (set(data.train.splits), set(data.test.splits)) == ({"train"}, {"test"})
    assert data.train.class_names == data.test.class_names == data.stats.class_names == CLASSES
    assert data.train.lines == (1, 2, 3)
    assert data.train.source == tmp_path / "data/tiny-voc/img_id.txt"
    for part in (data.train, data.test):
        require_images(part)
    assert [path.read_bytes() for path in data.train.paths()] == [photo(list(VOC_TRAIN).index(i)) for i in VOC_LIST]
    assert [path.read_bytes() for path in data.test.paths()] == [photo(i) for i in range(3)]
    pictures = tmp_path / "data/VOCdevkit/VOC2012/JPEGImages"
    assert sorted(path.stem for path in pictures.iterdir()) == sorted(VOC_LIST)

    server.requests.clear()
    again = build(tiny, tmp_path / "data", download=False)
    assert again.train.names == data.train.names
    for archive in (tmp_path / "data").glob("*.tar"):
        archive.unlink()
    build(tiny, tmp_path / "data")
    assert server.requests == []


def unpack(folder: Path) -> None:
    files = year("VOC2012", VOC_TRAIN, {"trainval": list(VOC_TRAIN)}) | year(
        "VOC2007", VOC_TEST, {"test": list(VOC_TEST)}
    )
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("place", [".", "VOC", "VOCdevkit as root"])
def test_trees_that_are_there_are_used(tiny: LongTailBenchmark, server: FileServer, tmp_path: Path, place: str) -> None:
    unpack(tmp_path if place == "VOCdevkit as root" else tmp_path / place)
    root = tmp_path / "VOCdevkit" if place == "VOCdevkit as root" else tmp_path
    data = build(tiny, root)
    assert paths(server) == ["/authors/appendix/longtail2012/img_id.txt"]
    assert data.train.root == root
    require_images(data.train)
    require_images(data.test)


def test_a_tree_that_lacks_an_image_is_completed(tiny: LongTailBenchmark, server: FileServer, tmp_path: Path) -> None:
    unpack(tmp_path)
    for lost in ("VOC2012/JPEGImages/2008_000001.jpg", "VOC2007/ImageSets/Main/test.txt"):
        (tmp_path / "VOCdevkit" / lost).unlink()
    kept = (tmp_path / "VOCdevkit/VOC2012/JPEGImages/2008_000003.jpg").stat().st_mtime_ns
    require_images(build(tiny, tmp_path).train)
    assert sorted(paths(server))[1:] == ["/voc/test.tar", "/voc/train.tar"]
    assert (tmp_path / "VOCdevkit/VOC2012/JPEGImages/2008_000003.jpg").stat().st_mtime_ns == kept


def test_without_download_the_error_says_what_is_missing(
    tiny: LongTailBenchmark, server: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"img_id.txt is missing, and nothing may be downloaded; get http://.* put it"):
        build(tiny, tmp_path, download=False)
    (tmp_path / "tiny-voc").mkdir()
    (tmp_path / "tiny-voc/img_id.txt").write_bytes(server.files["/authors/appendix/longtail2012/img_id.txt"])
    with pytest.raises(InputError, match=r"train.tar is missing \(6 of 6 files of VOC2012 are missing, such as Annot"):
        build(tiny, tmp_path, download=False)
    (tmp_path / "train.tar").write_bytes(server.files["/voc/train.tar"])
    (tmp_path / "test.tar").write_bytes(server.files["/voc/test.tar"])
    assert len(build(tiny, tmp_path, download=False).test) == 3
    assert server.requests == []


def test_connections_that_break_do_not_matter(tiny: LongTailBenchmark, server: FileServer, tmp_path: Path) -> None:
    server.faults = {
        "/voc/train.tar": [Fault(cut_after=3000), Fault(status=503)],
        "/voc/test.tar": [Fault(cut_after=0)],
        "/authors/appendix/longtail2012/img_id.txt": [Fault(status=500)],
    }
    assert len(build(tiny, tmp_path).train) == 3
    assert len(server.requests) == 7


def test_another_server_is_asked_when_one_is_down(tiny: LongTailBenchmark, server: FileServer, tmp_path: Path) -> None:
    images = tiny.images
    url = f"{server.url}/gone/train.tar"
    train = replace(images.train, urls=(url, *images.train.urls))  # type: ignore[attr-defined]
    benchmark = replace(tiny, images=replace(images, train=train))  # type: ignore[type-var]
    assert len(build(benchmark, tmp_path).train) == 3
    assert paths(server).count("/gone/train.tar") == 1
    server.files.clear()
    with pytest.raises(InputError, match=r"/voc/train.tar: the server answers 404"):
        build(benchmark, tmp_path / "other", lists=tmp_path / "tiny-voc")


def test_wrong_content_stops_the_build(tiny: LongTailBenchmark, server: FileServer, tmp_path: Path) -> None:
    server.files["/voc/train.tar"] = server.files["/voc/train.tar"][:-1] + b"x"
    with pytest.raises(InputError, match=r"train.tar: SHA256 hash of downloaded file .*does not match"):
        build(tiny, tmp_path)
    assert not list(tmp_path.glob("train.tar*"))


def test_an_archive_that_lacks_an_image(tiny: LongTailBenchmark, server: FileServer, tmp_path: Path) -> None:
    files = year("VOC2012", VOC_TRAIN, {})
    del files["VOCdevkit/VOC2012/JPEGImages/2008_000004.jpg"]
    images = replace(tiny.images, train=remote(server, "/voc/short.tar", tar(files)))  # type: ignore[type-var]
    with pytest.raises(
        InputError, match=r"short.tar does not hold VOCdevkit/VOC2012/JPEGImages/2008_000004.jpg \(1 files"
    ):
        build(replace(tiny, images=images), tmp_path)


def test_damaged_annotations_are_replaced_once_they_are_removed(
    tiny: LongTailBenchmark, server: FileServer, tmp_path: Path
) -> None:
    build(tiny, tmp_path)
    damaged = tmp_path / "VOCdevkit/VOC2007/Annotations/000002.xml"
    damaged.write_text("<annotation>")
    with pytest.raises(InputError, match=r"000002.xml: not a usable XML .* \(1 in all\); remove what is damaged"):
        build(tiny, tmp_path)
    damaged.unlink()
    server.requests.clear()
    assert len(build(tiny, tmp_path).test) == 3
    assert server.requests == []


def test_a_damaged_archive_is_not_asked_of_another_server(
    tiny: LongTailBenchmark, server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "train.tar").write_bytes(b"x" * len(server.files["/voc/train.tar"]))
    with pytest.raises(InputError, match=r"train.tar is another file than expected .* remove it to download it again"):
        build(tiny, tmp_path)
    assert "/voc/train.tar" not in paths(server)


def test_other_numbers_than_published_are_listed(tiny: LongTailBenchmark, tmp_path: Path) -> None:
    facts = replace(
        tiny.facts,
        class_counts=(0, 2, 150),
        groups={"head": (2,), "medium": (), "tail": (0, 1)},
        num_test=4,
        test_counts={"person": 3, "cat": 1},
        num_test_without_label=2,
    )
    with pytest.raises(InputError) as caught:
        build(replace(tiny, facts=facts), tmp_path)
    assert str(caught.value).splitlines()[:10] == [
        "tiny-voc: these are not the published images and labels.",
        "  class   published  found",
        "  dog             2      1",
        "  person        150      3",
        "  the group head differs by person",
        "  the group tail differs by person",
        "  3 test images instead of 4",
        "  2 test images with person instead of 3",
        "  0 test images without any class instead of 2",
        str(caught.value).splitlines()[9],
    ]
    assert "Likely reasons: the list of image ids is another one" in str(caught.value).splitlines()[9]


def test_edited_annotations_are_noticed(server: FileServer, tmp_path: Path) -> None:
    """Without its difficult objects, VOC has fewer persons."""
    edited = voc(server, **{"Annotations/000001.xml": annotation("000001", ["cat"]).encode()})
    with pytest.raises(InputError, match="1 test images with person instead of 2"):
        build(edited, tmp_path)


def test_the_comparison_is_with_both_parts(tiny: LongTailBenchmark, tmp_path: Path) -> None:
    data = build(tiny, tmp_path)
    require_published("tiny-voc", tiny.facts, data.train, data.test)
    with pytest.raises(InputError, match="2 training images instead of 3"):
        require_published("tiny-voc", tiny.facts, data.train.subset([0, 1]), data.test)
    with pytest.raises(InputError, match="2 test images instead of 3"):
        require_published("tiny-voc", tiny.facts, data.train, data.test.subset([0, 1]))
    assert class_differences(tiny.facts, [0, 1, 3]) == []


def test_the_folder_that_lacks_least_is_chosen(tmp_path: Path) -> None:
    for place in ("a/set", "b/set", "set"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "b/set/1").touch()
    (tmp_path / "set/3").touch()
    (tmp_path / "b/set/2").touch()
    store = Store(tmp_path)
    assert store.least_missing("set", ["1", "2", "3"]) == (tmp_path / "b/set", ["3"])
    assert store.least_missing("other", ["1", "2"]) == (None, ["1", "2"])
    assert list(store.folders("set")) == [tmp_path / "set", tmp_path / "a/set", tmp_path / "b/set"]
