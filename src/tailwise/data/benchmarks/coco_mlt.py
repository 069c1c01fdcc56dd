"""COCO-MLT: a long-tailed selection of COCO's train2017, tested on val2017."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from tailwise.data.benchmarks.benchmark import ImageSource, LongTailBenchmark, PublishedFacts
from tailwise.data.benchmarks.store import RemoteFile, Store, assemble_all, require_none
from tailwise.data.dataset import Dataset
from tailwise.data.download import download_each
from tailwise.data.formats.coco import CocoImage, read_instances
from tailwise.data.formats.rows import Problems, Row
from tailwise.errors import InputError

_FOLDER = "annotations"
_AUTHORS = "https://raw.githubusercontent.com/wutong16/DistributionBalancedLoss"
_SERVER = "http://images.cocodataset.org"
_CONNECTIONS = 8
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoArchives(ImageSource):
    """The archives of COCO, and its single images: of the 118,287 training images, few are needed.

    Attributes:
        annotations: archive of the annotations of both splits.
        test_images: archive of the test images.
        train_images: address of the folder of single training images.
        train_split: name of the split that training images are chosen from.
        test_split: name of the split that is the test set.
    """

    annotations: RemoteFile
    test_images: RemoteFile
    train_images: str
    train_split: str = "train2017"
    test_split: str = "val2017"

    def read(
        self, ids: Sequence[str], source: Path, class_names: tuple[str, ...], store: Store
    ) -> tuple[Dataset, Dataset]:
        """Training and test images; see :class:`~tailwise.data.benchmarks.benchmark.ImageSource`."""
        train_file, test_file = (f"instances_{split}.json" for split in (self.train_split, self.test_split))
        folder = store.complete(_FOLDER, [train_file, test_file], self.annotations)
        _logger.info("reading %s", folder / train_file)
        train = _images(folder / train_file, class_names, _numbers(ids, source))
        train_folder = self._get_single_images(train, store)
        test = _images(folder / test_file, class_names)
        test_folder = store.complete(self.test_split, [image.file_name for image in test], self.test_images)
        train_rows = _rows(train, train_folder, store.root, "train", by_id=False)
        test_rows = _rows(test, test_folder, store.root, "test", by_id=True)
        return (
            assemble_all(train_rows, source, store.root, class_names),
            assemble_all(test_rows, folder / test_file, store.root, class_names, "{source}, image {line}"),
        )

    def pool(self, class_names: tuple[str, ...], store: Store) -> Dataset:
        """Labels of the training split; see :class:`~tailwise.data.benchmarks.benchmark.ImageSource`."""
        file = f"instances_{self.train_split}.json"
        source = store.complete(_FOLDER, [file], self.annotations) / file
        _logger.info("reading %s", source)
        rows = _rows(_images(source, class_names), store.root / self.train_split, store.root, "train", by_id=True)
        return assemble_all(rows, source, store.root, class_names, "{source}, image {line}")

    def _get_single_images(self, images: Sequence[CocoImage], store: Store) -> Path:
        """The folder of the training images, after getting those that are missing."""
        names = {image.file_name: image for image in images}
        found, missing = store.least_missing(self.train_split, names)
        folder = found or store.root / self.train_split
        if missing:
            what = f"{len(missing)} of {len(images)} images are missing in {folder}, such as {missing[0]}"
            store.require_permission(what, f"get them from {self.train_images}")
            _logger.info("%s; downloading them from %s", what, self.train_images)
            wanted = [names[name] for name in missing]
            download_each(
                [f"{self.train_images}/{name}" for name in missing],
                [folder / name for name in missing],
                lambda index, content: _problem_with(wanted[index], content),
                connections=_CONNECTIONS,
                progress=store.progress,
                wait=store.wait,
            )
        return folder


def _numbers(ids: Sequence[str], source: Path) -> list[int]:
    for line, image in enumerate(ids, 1):
        if not image.isdecimal():
            raise InputError(f"{source}:{line}: {image!r} is no image id of COCO, which are whole numbers")
    return [int(image) for image in ids]


def _images(file: Path, class_names: tuple[str, ...], ids: Sequence[int] | None = None) -> list[CocoImage]:
    """The images of an instances file: those with some ids, in that order, or all."""
    problems = Problems("skip")
    instances = read_instances(file, problems)
    require_none(problems)
    if instances.class_names != class_names:
        strange = sorted(set(instances.class_names).symmetric_difference(class_names))
        what = f"such as {strange[0]!r}" if strange else "in another order"
        raise InputError(f"{file}: its categories are not those of the benchmark, {what}")
    # They become names of files to write.
    outside = next((image for image in instances.images if Path(image.file_name).name != image.file_name), None)
    if outside is not None:
        raise InputError(
            f"{file}: image {outside.id}: the name {outside.file_name!r} leads out of the folder of images"
        )
    if ids is None:
        return list(instances.images)
    by_id = {image.id: image for image in instances.images}
    absent = [number for number in ids if number not in by_id]
    if absent:
        raise InputError(
            f"{file} lacks image {absent[0]} ({len(absent)} of {len(ids)} images are not in it): it is the file of "
            "another split or year"
        )
    return [by_id[number] for number in ids]


def _rows(images: Sequence[CocoImage], folder: Path, root: Path, split: str, *, by_id: bool) -> list[Row]:
    prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    return [
        Row(image.id if by_id else line, f"{prefix}{image.file_name}", image.labels, split=split)
        for line, image in enumerate(images, 1)
    ]


def _problem_with(wanted: CocoImage, content: bytes) -> str | None:
    """What is wrong with a downloaded image, if anything: servers send pages of text where they lack an image."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            sizes = {image.size, ImageOps.exif_transpose(image).size}
    except Exception as error:  # damaged files make decoders raise almost anything
        return f"the answer is not an image that can be decoded ({error})"
    if (wanted.width, wanted.height) not in sizes:
        found = " x ".join(map(str, min(sizes)))
        return f"an image of {found} pixels instead of {wanted.width} x {wanted.height}"
    return None


COCO_MLT = LongTailBenchmark(
    name="coco-mlt",
    facts=PublishedFacts.load("coco-mlt"),
    image_ids=RemoteFile(
        (f"{_AUTHORS}/8f913268682508bdc8b3e051cd31b7e70a8631d5/appendix/coco/longtail2017/img_id.pkl",),
        sha256="f31e853d2c7b69512c62b65ff1db067a49b3ab86a62f685c7da86b7c3dd04768",
    ),
    list_place="appendix/coco/longtail2017/img_id.pkl",
    images=CocoArchives(
        annotations=RemoteFile(
            (f"{_SERVER}/annotations/annotations_trainval2017.zip",),
            sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        ),
        test_images=RemoteFile(
            (f"{_SERVER}/zips/val2017.zip",),
            sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        ),
        train_images=f"{_SERVER}/train2017",
    ),
)
