"""Benchmarks of the same make as the published ones, with a handful of images, served from this machine."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tailwise.data.benchmarks.benchmark import BenchmarkData, LongTailBenchmark, PublishedFacts, build_benchmark
from tailwise.data.benchmarks.coco_mlt import CocoArchives
from tailwise.data.benchmarks.store import RemoteFile
from tailwise.data.benchmarks.voc_mlt import VocArchives
from tests.data.file_server import FileServer
from tests.data.formats.coco_file import box, instances
from tests.data.formats.voc_tree import annotation

CLASSES = ("cat", "dog", "person")
VOC_TRAIN: dict[str, Any] = {
    "2008_000001": ["person", "dog"],
    "2008_000002": ["cat"],
    "2008_000003": [("person", 1)],
    "2008_000004": ["person", "person"],
    "2008_000005": ["dog"],
}
VOC_LIST = ["2008_000003", "2008_000001", "2008_000004"]
VOC_TEST: dict[str, Any] = {"000001": ["cat", ("person", 1)], "000002": ["dog"], "000004": ["person"]}

CATEGORIES = {18: "dog", 1: "person", 17: "cat"}
BY_ID = ("person", "cat", "dog")
COCO_TRAIN = [9, 25, 30, 34, 36]
COCO_LIST = [36, 9, 30]
COCO_BOXES = [box(9, 1), box(9, 18, 1), box(36, 1, 2), box(30, 17, 3, size=(0.5, 9.0)), box(25, 17, 4), box(30, 1, 5)]
COCO_TEST = [139, 285, 632]
COCO_TEST_BOXES = [box(139, 1), box(285, 18, 1)]


def photo(seed: int, width: int = 8, height: int = 6) -> bytes:
    """A JPEG of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def tar(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            # With the date that ZipInfo starts from, the same content makes the same archive.
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def year(folder: str, images: Mapping[str, Any], lists: Mapping[str, list[str]]) -> dict[str, bytes]:
    """The files of a year, as in its archive."""
    files = {f"VOCdevkit/{folder}/ImageSets/Main/{name}.txt": "\n".join(ids).encode() for name, ids in lists.items()}
    for number, (name, objects) in enumerate(images.items()):
        files[f"VOCdevkit/{folder}/Annotations/{name}.xml"] = annotation(name, objects).encode()
        files[f"VOCdevkit/{folder}/JPEGImages/{name}.jpg"] = photo(number)
    return files


def remote(server: FileServer, path: str, content: bytes) -> RemoteFile:
    """Serve a file."""
    server.files[path] = content
    return RemoteFile((f"{server.url}{path}",), hashlib.sha256(content).hexdigest())


def voc(server: FileServer, **changes: bytes) -> LongTailBenchmark:
    """A benchmark like VOC-MLT; ``changes`` replaces files of its archives by name."""
    train = year("VOC2012", VOC_TRAIN, {"trainval": list(VOC_TRAIN)})
    test = year("VOC2007", VOC_TEST, {"test": list(VOC_TEST)})
    for name, content in changes.items():
        for files in (train, test):
            files.update({key: content for key in files if key.endswith(name)})
    return LongTailBenchmark(
        name="tiny-voc",
        facts=PublishedFacts(
            class_names=CLASSES,
            class_counts=(0, 1, 3),
            groups={"head": (), "medium": (), "tail": (0, 1, 2)},
            num_train=3,
            num_test=3,
            test_counts={"person": 2},
            num_test_without_label=0,
        ),
        image_ids=remote(
            server, "/authors/appendix/longtail2012/img_id.txt", "".join(f"{i}\n" for i in VOC_LIST).encode()
        ),
        list_place="appendix/longtail2012/img_id.txt",
        images=VocArchives(remote(server, "/voc/train.tar", tar(train)), remote(server, "/voc/test.tar", tar(test))),
    )


def coco(server: FileServer) -> LongTailBenchmark:
    """A benchmark like COCO-MLT."""
    annotations = {
        "annotations/instances_train2017.json": json.dumps(instances(COCO_TRAIN, COCO_BOXES, CATEGORIES)).encode(),
        "annotations/instances_val2017.json": json.dumps(instances(COCO_TEST, COCO_TEST_BOXES, CATEGORIES)).encode(),
        "annotations/captions_val2017.json": b"{}",
    }
    for image in COCO_TRAIN:
        server.files[f"/train2017/{image:012d}.jpg"] = photo(image)
    return LongTailBenchmark(
        name="tiny-coco",
        facts=PublishedFacts(
            class_names=BY_ID,
            class_counts=(3, 0, 1),
            groups={"head": (), "medium": (), "tail": (0, 1, 2)},
            num_train=3,
            num_test=3,
            num_test_without_label=1,
        ),
        image_ids=remote(
            server, "/authors/appendix/longtail2017/img_id.pkl", "".join(f"{i}\n" for i in COCO_LIST).encode()
        ),
        list_place="appendix/longtail2017/img_id.pkl",
        images=CocoArchives(
            annotations=remote(server, "/annotations.zip", zipped(annotations)),
            test_images=remote(
                server, "/val2017.zip", zipped({f"val2017/{image:012d}.jpg": photo(image) for image in COCO_TEST})
            ),
            train_images=f"{server.url}/train2017",
        ),
    )


def build(benchmark: LongTailBenchmark, root: Path, **options: Any) -> BenchmarkData:
    """Build without bars and without waiting."""
    return build_benchmark(benchmark, root, progress=False, wait=0, **options)


if __name__ == "__main__":
    # What a test runs to kill it: the address of the server that the test has filled, and the folder.
    build(coco(FileServer(url=sys.argv[1])), Path(sys.argv[2]))
