"""Published long-tailed benchmarks: the authors' lists of image ids, and images and labels that agree with them."""

from __future__ import annotations

import json
import logging
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath

import numpy as np
import pooch

from tailwise.data.benchmarks.store import RemoteFile, Store
from tailwise.data.dataset import Dataset
from tailwise.data.formats.rows import read_text
from tailwise.errors import InputError
from tailwise.labels import LabelStats

_ID = re.compile(r"[0-9A-Za-z_-]+")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedFacts:
    """The numbers that identify a benchmark.

    Attributes:
        class_names: K names, in the order of the published counts.
        class_counts: training images of each class.
        groups: indices of the classes of each group.
        num_train: training images.
        num_test: test images.
        test_counts: test images of some classes, by name.
        num_test_without_label: test images without any class, if known.
    """

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    groups: Mapping[str, tuple[int, ...]]
    num_train: int
    num_test: int
    test_counts: Mapping[str, int] = field(default_factory=dict)
    num_test_without_label: int | None = None

    @classmethod
    def load(cls, name: str) -> PublishedFacts:
        """The facts of a benchmark by its name, from ``published.json``, which names the source."""
        text = resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8")
        record = json.loads(text)[name]
        return cls(
            class_names=tuple(record.pop("class_names")),
            class_counts=tuple(record.pop("class_counts")),
            groups={group: tuple(members) for group, members in record.pop("groups").items()},
            **record,
        )


class ImageSource(ABC):
    """Where the images of a benchmark and their labels come from."""

    @abstractmethod
    def read(
        self, ids: Sequence[str], source: Path, class_names: tuple[str, ...], store: Store
    ) -> tuple[Dataset, Dataset]:
        """Get what is missing and read the labels.

        Args:
            ids: ids of the training images.
            source: the list they come from.
            class_names: the classes.
            store: the folder of the benchmark.

        Returns:
            The training images in the order of ``ids``, and the test images; both refer to files from the root of the
            store.

        Raises:
            InputError: something is not available or readable.
        """

    @abstractmethod
    def pool(self, class_names: tuple[str, ...], store: Store) -> Dataset:
        """Read the labels of all images that the training images were chosen from, getting what is missing.

        Args:
            class_names: the classes.
            store: the folder of the benchmark.

        Returns:
            All rows of the split; their images need not be there.

        Raises:
            InputError: something is not available or readable.
        """


@dataclass(frozen=True)
class LongTailBenchmark:
    """A published benchmark.

    Attributes:
        name: its name in this package.
        facts: what is published about it.
        image_ids: the authors' list of training images.
        list_place: the path of that list in the authors' repository.
        images: where images and labels come from.
    """

    name: str
    facts: PublishedFacts
    image_ids: RemoteFile
    list_place: str
    images: ImageSource


@dataclass(frozen=True, eq=False)
class BenchmarkData:
    """The images of a benchmark, agreeing with what is published.

    Attributes:
        name: the name of the benchmark.
        train: training images, in the split "train".
        test: test images, in the split "test".
        stats: names, counts and groups of the classes in the training images.
    """

    name: str
    train: Dataset
    test: Dataset
    stats: LabelStats

    def __repr__(self) -> str:
        return f"BenchmarkData({self.name}: {len(self.train)} for training, {len(self.test)} for test)"


def build_benchmark(
    benchmark: LongTailBenchmark,
    root: str | Path,
    *,
    lists: str | Path | None = None,
    download: bool = True,
    progress: bool = True,
    wait: float = 1.0,
) -> BenchmarkData:
    """Get the images of a published benchmark, and verify that they are those that published numbers are about.

    The authors' list of image ids and the images are downloaded into ``root`` where they are missing; existing files
    are used, in the usual places up to two folders deep. An interrupted call resumes. Archives stay in ``root`` and can
    be removed afterwards. The images keep the terms of their publishers.

    Args:
        benchmark: which one.
        root: the folder of the images; made if absent.
        lists: the authors' list, its folder, or a copy of their repository; downloaded when None.
        download: whether anything may be downloaded.
        progress: show bars with the time left, if standard error is a terminal.
        wait: seconds before a failed request is repeated for the first time.

    Returns:
        Training and test images, with references from ``root``.

    Raises:
        InputError: something is not available or readable, or the data disagree with the published class counts, groups
            or numbers of images; the message lists the differences.
    """
    store = Store(Path(root), download, progress, wait)
    if lists is None:
        source = store.get(benchmark.image_ids, benchmark.name)
    else:
        source = find_list(Path(lists), benchmark.list_place)
        # Line ends may differ, for instance; the class counts will tell whether the images do.
        if pooch.file_hash(str(source)) != benchmark.image_ids.sha256:
            _logger.info("%s is not byte for byte the published list; its images are checked by their labels", source)
    ids = read_image_ids(source)
    if len(ids) != benchmark.facts.num_train:
        raise InputError(
            f"{source} lists {len(ids)} images where {benchmark.name} has {benchmark.facts.num_train} for training: it "
            "is the list of another split"
        )
    train, test = benchmark.images.read(ids, source, benchmark.facts.class_names, store)
    require_published(benchmark.name, benchmark.facts, train, test)
    _logger.info(
        "%s: %d training and %d test images in %s agree with the published class counts and groups",
        *(benchmark.name, len(train), len(test), root),
    )
    return BenchmarkData(benchmark.name, train, test, train.stats())


def read_pool(
    benchmark: LongTailBenchmark, root: str | Path, *, download: bool = True, progress: bool = True, wait: float = 1.0
) -> Dataset:
    """Read the labels that the training images of a benchmark were chosen from.

    Args and what is raised are those of :func:`build_benchmark`.

    Returns:
        One row per image; the images need not be there.
    """
    return benchmark.images.pool(benchmark.facts.class_names, Store(Path(root), download, progress, wait))


def find_list(given: Path, place: str) -> Path:
    """Find a list of image ids in a copy of the authors' repository.

    Args:
        given: the list itself, or a folder: that of the repository, or any on the way from there to the list.
        place: path of the list in the repository.

    Raises:
        InputError: there is no such list, or it is a file of the repository that belongs to another split.
    """
    name = PurePosixPath(place).name
    if given.is_file():
        if given.name != name and given.name.endswith(name):
            raise InputError(f"{given} belongs to another split than the published one, whose list is {place}")
        return given
    parts = PurePosixPath(place).parts
    for start in range(len(parts)):
        candidate = given.joinpath(*parts[start:])
        if candidate.is_file():
            return candidate
    raise InputError(f"{given}: no {name} is there; give the list, or its folder, or a copy of the repository: {place}")


def read_image_ids(path: Path) -> list[str]:
    """Read a text of image ids, one per line, in their order. The authors' ``img_id.pkl`` is such a text too.

    Raises:
        InputError: it is no such text, it is empty, or an id is repeated.
    """
    ids = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not (image := line.strip()):
            continue
        if not _ID.fullmatch(image):
            raise InputError(f"{path}: line {number} is no image id; give a text with one id per line")
        ids.append(image)
    if not ids:
        raise InputError(f"{path}: no image ids: the file is empty")
    repeated = [image for image, count in Counter(ids).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: image {repeated[0]!r} is listed more than once")
    return ids


def require_published(name: str, facts: PublishedFacts, train: Dataset, test: Dataset) -> None:
    """Check that the numbers of training and test images are the published ones.

    Raises:
        InputError: they are not; the message lists every difference and the likely reasons.
    """
    differences = [*_train_differences(facts, train), *_test_differences(facts, test)]
    if differences:
        listed = "\n".join(f"  {difference}" for difference in differences)
        raise InputError(
            f"{name}: these are not the published images and labels.\n{listed}\n"
            f"Likely reasons: the list of image ids is another one ({train.source}); annotations were edited, or "
            "objects marked as difficult were removed from them; the test images are those of another year or split. "
            "Name a folder that holds none of these data, to have all of them downloaded and verified"
        )


def _train_differences(facts: PublishedFacts, train: Dataset) -> Iterator[str]:
    if len(train) != facts.num_train:
        yield f"{len(train)} training images instead of {facts.num_train}"
    found = train.stats()
    yield from class_differences(facts, found.class_counts.tolist())
    for group, members in facts.groups.items():
        if found.groups[group].tolist() != list(members):
            names = [facts.class_names[k] for k in np.setxor1d(found.groups[group], members)]
            yield f"the group {group} differs by {', '.join(names)}"


def class_differences(facts: PublishedFacts, counts: Sequence[int]) -> list[str]:
    """A table of the classes whose number of training images is not the published one; empty if all are."""
    differing = [
        (name, published, found)
        for name, published, found in zip(facts.class_names, facts.class_counts, counts, strict=True)
        if published != found
    ]
    if not differing:
        return []
    width = max(len("class"), *(len(name) for name, _, _ in differing))
    header = f"{'class':{width}}  published  found"
    return [header, *(f"{name:{width}}  {published:9}  {found:5}" for name, published, found in differing)]


def _test_differences(facts: PublishedFacts, test: Dataset) -> Iterator[str]:
    if len(test) != facts.num_test:
        yield f"{len(test)} test images instead of {facts.num_test}"
    for name, published in facts.test_counts.items():
        found = int((test.targets[:, facts.class_names.index(name)] == 1).sum())
        if found != published:
            yield f"{found} test images with {name} instead of {published}"
    without = int((~(test.targets == 1).any(axis=1)).sum())
    if facts.num_test_without_label not in (None, without):
        yield f"{without} test images without any class instead of {facts.num_test_without_label}"
