"""COCO-MLT: the published constants against the official files and torchvision, and a tiny one from end to end."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from tailwise.data.benchmarks import BENCHMARKS, COCO_MLT, VOC_MLT, LongTailBenchmark
from tailwise.data.benchmarks.benchmark import read_image_ids
from tailwise.data.dataset import require_images
from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tests.data.benchmarks.tiny import BY_ID, CATEGORIES, COCO_LIST, COCO_TEST, COCO_TRAIN, build, coco, photo
from tests.data.file_server import Fault, FileServer
from tests.data.formats.coco_file import box, write_instances

IMAGE_PATHS = [f"/train2017/{image:012d}.jpg" for image in COCO_LIST]
OTHERS = ["/annotations.zip", "/authors/appendix/longtail2017/img_id.pkl", "/val2017.zip"]


@pytest.fixture
def tiny(server: FileServer) -> LongTailBenchmark:
    return coco(server)


def paths(server: FileServer) -> Counter[str]:
    return Counter(path for path, _ in server.requests)


def test_the_official_list_is_the_one_that_is_downloaded(shared: Path) -> None:
    path = shared / "data/official/coco_mlt_image_ids.txt"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == COCO_MLT.image_ids.sha256
    ids = read_image_ids(path)
    assert len(ids) == len(set(ids)) == COCO_MLT.facts.num_train == 1909


def test_the_official_label_rows_give_the_published_numbers(shared: Path) -> None:
    rows = (shared / "data/official/coco_mlt_label_rows.csv").read_text().split()[1:]
    counts = Counter(int(k) for row in rows for k in row.split(",")[1].split("|") if k)
    assert len(rows) == COCO_MLT.facts.num_train
    assert [counts[k] for k in range(80)] == list(COCO_MLT.facts.class_counts)
    official = json.loads((shared / "data/official/coco_mlt_stats.json").read_text())
    assert list(COCO_MLT.facts.class_counts) == official["class_counts"]
    assert {name: list(members) for name, members in COCO_MLT.facts.groups.items()} == official["groups"]


def test_the_official_labels_in_a_folder_make_the_benchmark(shared: Path, tmp_path: Path) -> None:
    """All of COCO-MLT but the pictures: annotations made from the official labels, and a test set of the right size."""
    ids = [int(image) for image in (shared / "data/official/coco_mlt_image_ids.txt").read_text().split()]
    rows = (shared / "data/official/coco_mlt_label_rows.csv").read_text().split()[1:]
    gaps = FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    categories = {key: name for key, name in enumerate(gaps) if name in COCO_MLT.facts.class_names}
    key_of = {name: key for key, name in categories.items()}
    shown = [[key_of[COCO_MLT.facts.class_names[int(k)]] for k in row.split(",")[1].split("|")] for row in rows]
    boxes = [box(image, key) for image, keys in zip(ids, shown, strict=True) for key in keys]
    # The file has its images in another order, and more of them.
    write_instances(tmp_path / "annotations/instances_train2017.json", [*sorted(ids), 1], boxes, categories)
    test = range(1, 5001)
    write_instances(
        tmp_path / "annotations/instances_val2017.json", test, [box(image, 1) for image in test[48:]], categories
    )
    for split, images in (("train2017", ids), ("val2017", test)):
        (tmp_path / split).mkdir()
        for image in images:
            (tmp_path / split / f"{image:012d}.jpg").touch()
    data = build(COCO_MLT, tmp_path, lists=shared / "data/official/coco_mlt_image_ids.txt", download=False)
    assert (len(data.train), len(data.test)) == (1909, 5000)
    by_row = [sorted(int(k) for k in row.split(",")[1].split("|")) for row in rows]
    assert [np.flatnonzero(row).tolist() for row in data.train.targets] == by_row
    groups = {name: tuple(members.tolist()) for name, members in data.stats.groups.items()}
    assert groups == COCO_MLT.facts.groups


def test_classes_against_torchvision() -> None:
    """By id, with gaps: torchvision marks those."""
    categories = FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    assert [name for name in categories if name not in ("__background__", "N/A")] == list(COCO_MLT.facts.class_names)


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=list(BENCHMARKS))
def test_published_groups_follow_from_published_counts(benchmark: LongTailBenchmark) -> None:
    facts = benchmark.facts
    groups = LabelStats(np.array(facts.class_counts), facts.num_train, facts.class_names).groups
    assert {name: tuple(members.tolist()) for name, members in groups.items()} == facts.groups
    assert list(BENCHMARKS) == [VOC_MLT.name, COCO_MLT.name] == ["voc-mlt", "coco-mlt"]


def test_a_build_gets_single_images_and_a_second_one_nothing(
    tiny: LongTailBenchmark, server: FileServer, tmp_path: Path
) -> None:
    data = build(tiny, tmp_path / "data")
    assert paths(server) == Counter([*OTHERS, *IMAGE_PATHS])
    assert data.train.class_names == data.stats.class_names == BY_ID
    assert data.train.names == tuple(path[1:] for path in IMAGE_PATHS)
    assert data.train.targets.tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 0]]
    assert data.train.lines == (1, 2, 3)
    assert data.train.source == tmp_path / "data/tiny-coco/img_id.pkl"
    assert data.test.names == tuple(f"val2017/{image:012d}.jpg" for image in COCO_TEST)
    assert data.test.targets.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert data.test.lines == tuple(COCO_TEST)
    assert [path.read_bytes() for path in data.train.paths()] == [photo(image) for image in COCO_LIST]
    assert [path.read_bytes() for path in data.test.paths()] == [photo(image) for image in COCO_TEST]
    assert len(list((tmp_path / "data/train2017").iterdir())) == 3
    assert not (tmp_path / "data/annotations/captions_val2017.json").exists()

    server.requests.clear()
    for archive in (tmp_path / "data").glob("*.zip"):
        archive.unlink()
    again = build(tiny, tmp_path / "data", download=False)
    assert np.array_equal(again.train.targets, data.train.targets)
    build(tiny, tmp_path / "data")
    assert server.requests == []


def test_images_that_are_there_are_used(tiny: LongTailBenchmark, server: FileServer, tmp_path: Path) -> None:
    folder = tmp_path / "coco/images/train2017"
    folder.mkdir(parents=True)
    (tmp_path / "train2017").mkdir()
    for image in COCO_TRAIN[1:]:
        (folder / f"{image:012d}.jpg").write_bytes(photo(image))
    data = build(tiny, tmp_path)
    assert paths(server) == Counter([*OTHERS, "/train2017/000000000009.jpg"])
    assert data.train.names[0] == "coco/images/train2017/000000000036.jpg"
    require_images(data.train)


def test_bad_connections_do_not_matter(tiny: LongTailBenchmark, server: FileServer, tmp_path: Path) -> None:
    server.faults = {
        IMAGE_PATHS[0]: [Fault(status=503), Fault(cut_after=100)],
        IMAGE_PATHS[1]: [Fault(content=b"<html>busy</html>"), Fault(content=photo(9)[:200])],
        IMAGE_PATHS[2]: [Fault(content=photo(1, width=9))],
        "/val2017.zip": [Fault(cut_after=500), Fault(cut_after=0)],
        "/annotations.zip": [Fault(status=500)],
    }
    data = build(tiny, tmp_path)
    assert [path.read_bytes() for path in data.train.paths()] == [photo(image) for image in COCO_LIST]
    assert sum(paths(server).values()) == 6 + 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>log in</html>", r"000000000009.jpg: the answer is not an image that can be decoded .*\(5 attempts\)"),
        (photo(9)[:200], r"000000000009.jpg: the answer is not an image that can be decoded .*\(5 attempts\)"),
        (
            photo(9, width=7),
            r"an image of 7 x 6 pixels instead of 8 x 6 \(5 attempts\); try again later, or get",
        ),
    ],
)
def test_an_image_that_stays_wrong_stops_the_build(
    tiny: LongTailBenchmark, server: FileServer, tmp_path: Path, content: bytes, message: str
) -> None:
    server.files["/train2017/000000000009.jpg"] = content
    with pytest.raises(InputError, match=message):
        build(tiny, tmp_path)
    assert not (tmp_path / "train2017/000000000009.jpg").exists()


def test_images_that_are_turned_by_their_metadata(tiny: LongTailBenchmark, server: FileServer, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (6, 8)).save(buffer, "JPEG", exif=exif)
    server.files["/train2017/000000000009.jpg"] = buffer.getvalue()
    assert len(build(tiny, tmp_path).train) == 3


def test_without_download_the_error_says_what_is_missing(
    tiny: LongTailBenchmark, server: FileServer, tmp_path: Path
) -> None:
    build(tiny, tmp_path)
    server.requests.clear()
    (tmp_path / "train2017/000000000009.jpg").unlink()
    with pytest.raises(
        InputError, match=r"1 of 3 images are missing in .*train2017, such as 000000000009.jpg, and nothing"
    ):
        build(tiny, tmp_path, download=False)
    assert server.requests == []


def test_annotations_of_another_year_or_kind(tiny: LongTailBenchmark, tmp_path: Path) -> None:
    build(tiny, tmp_path)
    file = tmp_path / "annotations/instances_train2017.json"
    write_instances(file, [25, 36], [], CATEGORIES)
    with pytest.raises(InputError, match=r"train2017.json lacks image 9 \(2 of 3 images are not in it\)"):
        build(tiny, tmp_path)
    write_instances(file, COCO_TRAIN, [], {1: "person", 2: "cat", 3: "bird"})
    with pytest.raises(InputError, match="its categories are not those of the benchmark, such as 'bird'"):
        build(tiny, tmp_path)
    write_instances(file, COCO_TRAIN, [], {1: "cat", 2: "person", 3: "dog"})
    with pytest.raises(InputError, match="its categories are not those of the benchmark, in another order"):
        build(tiny, tmp_path)
    write_instances(file, COCO_TRAIN, [], CATEGORIES)
    with pytest.raises(InputError, match=r"(?s)these are not the published images.*person +3 +0.*dog +1 +0"):
        build(tiny, tmp_path)


def test_names_that_lead_out_of_the_folder_are_not_written(
    tiny: LongTailBenchmark, server: FileServer, tmp_path: Path
) -> None:
    build(tiny, tmp_path)
    images = [{"id": image, "file_name": f"../../{image}.jpg", "width": 8, "height": 6} for image in COCO_TRAIN]
    write_instances(tmp_path / "annotations/instances_train2017.json", images, [], CATEGORIES)
    server.files |= {f"/{image}.jpg": photo(image) for image in COCO_TRAIN}
    with pytest.raises(InputError, match=r"image 9: the name '../../9.jpg' leads out of the folder of images"):
        build(tiny, tmp_path)
    assert not list(tmp_path.parent.glob("*.jpg"))


def test_lists_must_hold_numbers(tiny: LongTailBenchmark, tmp_path: Path) -> None:
    (tmp_path / "img_id.pkl").write_text("36\n9\n2008_000001\n")
    with pytest.raises(InputError, match=r"img_id.pkl:3: '2008_000001' is no image id of COCO"):
        build(tiny, tmp_path / "data", lists=tmp_path)


def test_the_number_of_test_images_without_a_label_is_checked(tiny: LongTailBenchmark, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 test images without any class instead of 2"):
        build(replace(tiny, facts=replace(tiny.facts, num_test_without_label=2)), tmp_path)


def test_a_killed_build_goes_on_where_it_ended(tiny: LongTailBenchmark, server: FileServer, tmp_path: Path) -> None:
    server.faults[IMAGE_PATHS[0]] = [Fault(stall_after=100)]
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "tests.data.benchmarks.tiny", server.url, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        while len(list(tmp_path.glob("train2017/0*.jpg"))) < 2 or not paths(server)[IMAGE_PATHS[0]]:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / IMAGE_PATHS[0][1:]).exists()
    server.requests.clear()
    data = build(tiny, tmp_path)
    assert paths(server) == Counter([IMAGE_PATHS[0], "/val2017.zip"])
    assert [path.read_bytes() for path in data.train.paths()] == [photo(image) for image in COCO_LIST]
