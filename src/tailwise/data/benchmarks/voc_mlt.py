"""VOC-MLT: a long-tailed selection of VOC 2012, tested on VOC 2007."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tailwise.data.benchmarks.benchmark import ImageSource, LongTailBenchmark, PublishedFacts
from tailwise.data.benchmarks.store import RemoteFile, Store, assemble_all, require_none
from tailwise.data.dataset import Dataset
from tailwise.data.formats.rows import Problems
from tailwise.data.formats.voc import annotated_images, label_rows, list_of_names

_WITHIN = "VOCdevkit"
_AUTHORS = "https://raw.githubusercontent.com/wutong16/DistributionBalancedLoss"
# The second one, named in most places, redirects to the first and has been unavailable for months.
_SERVERS = ("https://thor.robots.ox.ac.uk/pascal/VOC", "http://host.robots.ox.ac.uk/pascal/VOC")


@dataclass(frozen=True)
class VocArchives(ImageSource):
    """The archives of two years of VOC: one has the training images, the other the test images and their list.

    Attributes:
        train: archive of the training images.
        test: archive of the test images.
        train_year: folder of the training images.
        test_year: folder of the test images.
        test_list: the list of test images in that folder.
        train_list: the list of the images that training images are chosen from, in the other.
    """

    train: RemoteFile
    test: RemoteFile
    train_year: str = "VOC2012"
    test_year: str = "VOC2007"
    test_list: str = "ImageSets/Main/test.txt"
    train_list: str = "ImageSets/Main/trainval.txt"

    def read(
        self, ids: Sequence[str], source: Path, class_names: tuple[str, ...], store: Store
    ) -> tuple[Dataset, Dataset]:
        """Training and test images; see :class:`~tailwise.data.benchmarks.benchmark.ImageSource`."""
        train = store.complete(self.train_year, _files(ids), self.train, within=_WITHIN)
        test = store.complete(self.test_year, [self.test_list], self.test, within=_WITHIN)
        names = list_of_names(test / self.test_list)
        needed = [self.test_list, *_files(name for _, name in names)]
        test = store.complete(self.test_year, needed, self.test, within=_WITHIN)
        return (
            _labeled(train, list(enumerate(ids, 1)), "train", source, class_names, store.root),
            _labeled(test, names, "test", test / self.test_list, class_names, store.root),
        )

    def pool(self, class_names: tuple[str, ...], store: Store) -> Dataset:
        """Labels of trainval; see :class:`~tailwise.data.benchmarks.benchmark.ImageSource`."""
        year = store.complete(self.train_year, [self.train_list], self.train, within=_WITHIN)
        names = list_of_names(year / self.train_list)
        needed = [self.train_list, *(f"Annotations/{name}.xml" for _, name in names)]
        year = store.complete(self.train_year, needed, self.train, within=_WITHIN)
        return _labeled(year, names, "train", year / self.train_list, class_names, store.root)


def _files(ids: Iterable[str]) -> list[str]:
    return [file for name in ids for file in (f"Annotations/{name}.xml", f"JPEGImages/{name}.jpg")]


def _labeled(
    year: Path, names: Sequence[tuple[int, str]], split: str, source: Path, class_names: tuple[str, ...], root: Path
) -> Dataset:
    problems = Problems("skip")
    prefix = "" if year == root else f"{year.relative_to(root).as_posix()}/"
    images = list(annotated_images(year, names, problems, prefix=prefix, split=split))
    require_none(problems)
    return assemble_all(label_rows(images, class_names), source, root, class_names)


VOC_MLT = LongTailBenchmark(
    name="voc-mlt",
    facts=PublishedFacts.load("voc-mlt"),
    image_ids=RemoteFile(
        (f"{_AUTHORS}/38ef08934efafa23a7263f0006a15c07367d6c3b/appendix/VOCdevkit/longtail2012/img_id.txt",),
        sha256="6e49185d5421236718f7393e952f5790e5c0cfeb1694892b1b971f59725d5ebc",
    ),
    list_place="appendix/VOCdevkit/longtail2012/img_id.txt",
    images=VocArchives(
        train=RemoteFile(
            tuple(f"{server}/voc2012/VOCtrainval_11-May-2012.tar" for server in _SERVERS),
            sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        ),
        test=RemoteFile(
            tuple(f"{server}/voc2007/VOCtest_06-Nov-2007.tar" for server in _SERVERS),
            sha256="6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
        ),
    ),
)
