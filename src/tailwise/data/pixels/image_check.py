"""A check of every image file before training: missing, damaged, unusual and duplicate ones."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tailwise.data.dataset import Dataset
from tailwise.data.pixels.decode import ImageError, decode_image, in_threads, without_warnings
from tailwise.errors import InputError
from tailwise.matrix import to_dense
from tailwise.shapes import Int

EXTREME_ASPECT = 3.0
"""Long side over short side from which the squash to a square distorts an image badly."""

# Large JPEGs are decoded at a fraction of their resolution; damage shows at any.
_DECODED_SIDE = 32
_SECONDS_BETWEEN_LINES = 10.0
_TURNED_SIDEWAYS = (5, 6, 7, 8)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DuplicateGroup:
    """Images whose files are equal byte for byte.

    Attributes:
        rows: their rows, rising.
        splits: the splits they are in, each once, in the order of the rows; rows in no split add none.
        same_labels: whether all of them have the same labels.
    """

    rows: tuple[int, ...]
    splits: tuple[str, ...]
    same_labels: bool

    @property
    def crosses_splits(self) -> bool:
        """Whether the same image is in more than one split."""
        return len(self.splits) > 1


@dataclass(frozen=True, eq=False)
class ImageReport:
    """Results of opening every image. Only images that can be read are in the counts of their properties.

    Attributes:
        data: the images that were checked.
        missing: (m,) rows whose file is not there.
        unreadable: the reason by row, for each file that is there and cannot be read; rows rise.
        num_empty: files of zero bytes among the unreadable.
        formats: number of images by Pillow's name of the format, most frequent first.
        modes: number of images by Pillow's mode, most frequent first.
        animated: (a,) rows of images with several frames or pages.
        rotated: (r,) rows of images that their EXIF data turn or mirror.
        sizes: (N, 2) width and height in pixels after that turn; 0 where the image cannot be read.
        duplicates: groups of equal files, in the order of their first rows.
    """

    data: Dataset
    missing: Int[np.ndarray, " m"]
    unreadable: Mapping[int, str]
    num_empty: int
    formats: Mapping[str, int]
    modes: Mapping[str, int]
    animated: Int[np.ndarray, " a"]
    rotated: Int[np.ndarray, " r"]
    sizes: Int[np.ndarray, "N 2"]
    duplicates: tuple[DuplicateGroup, ...]

    @property
    def num_readable(self) -> int:
        """Images that can be trained on."""
        return len(self.data) - len(self.missing) - len(self.unreadable)

    @property
    def extreme(self) -> NDArray[np.intp]:
        """Rows of images whose long side is at least ``EXTREME_ASPECT`` times the short side, the worst first."""
        rows = self._readable_rows
        aspect = self.sizes[rows].max(axis=1) / self.sizes[rows].min(axis=1)
        worst = np.argsort(-aspect, kind="stable")
        return rows[worst[: np.count_nonzero(aspect >= EXTREME_ASPECT)]]

    def size_quantiles(self, levels: tuple[float, ...] = (0, 0.05, 0.5, 0.95, 1)) -> NDArray[np.int64]:
        """(2, len(levels)) widths and heights in pixels that those shares of the readable images do not exceed."""
        sizes = self.sizes[self._readable_rows]
        if not len(sizes):
            return np.zeros((2, len(levels)), dtype=np.int64)
        quantiles: NDArray[np.int64] = np.quantile(sizes, levels, axis=0, method="inverted_cdf").T.astype(np.int64)
        return quantiles

    def messages(self) -> Iterator[str]:
        """One message for each image that is missing or unreadable, in the order of the rows."""
        reasons = dict(self.unreadable) | {int(row): "there is no such file" for row in self.missing}
        for row in sorted(reasons):
            yield f"{self.data.where(row)}: {self.data.names[row]}: {reasons[row]}"

    @property
    def _readable_rows(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.sizes[:, 0])


def check_images(data: Dataset, *, workers: int | None = None, progress: bool = True) -> ImageReport:
    """Open every image as training does, and hash its file. Images that cannot be read are listed, not raised.

    Args:
        data: the images; some 100 bytes of memory are used for each.
        workers: threads (Pillow and hashlib release the interpreter); one per CPU core when None.
        progress: show a bar with the time left if standard error is a terminal, else log a line now and then.

    Raises:
        InputError: ``workers`` is below 1.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    paths = data.paths()
    collected = _Collected(len(paths))
    with (
        without_warnings(),
        closing(in_threads(_look, paths, workers or os.cpu_count() or 1)) as looks,
        _progress(len(paths), show=progress) as advance,
    ):
        for row, look in enumerate(looks):
            collected.add(row, look.result())
            advance(len(collected.missing), len(collected.unreadable))
    return ImageReport(
        data=data,
        missing=np.array(collected.missing, dtype=np.intp),
        unreadable=collected.unreadable,
        num_empty=collected.num_empty,
        formats=dict(collected.formats.most_common()),
        modes=dict(collected.modes.most_common()),
        animated=np.array(collected.animated, dtype=np.intp),
        rotated=np.array(collected.rotated, dtype=np.intp),
        sizes=collected.sizes,
        duplicates=_find_duplicates(collected.digests, np.flatnonzero(collected.sizes[:, 0]), data),
    )


@dataclass(frozen=True)
class _Look:
    """One image: why it cannot be read, or its properties."""

    reason: str = ""
    is_missing: bool = False
    is_empty: bool = False
    format: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    is_animated: bool = False
    is_rotated: bool = False
    digest: bytes = b""


class _Collected:
    """The looks so far, in little memory."""

    def __init__(self, num_images: int) -> None:
        self.missing: list[int] = []
        self.unreadable: dict[int, str] = {}
        self.num_empty = 0
        self.formats: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()
        self.animated: list[int] = []
        self.rotated: list[int] = []
        self.sizes = np.zeros((num_images, 2), dtype=np.int32)
        self.digests = np.zeros((num_images, hashlib.sha256().digest_size), dtype=np.uint8)

    def add(self, row: int, look: _Look) -> None:
        if look.is_missing:
            self.missing.append(row)
            return
        if look.reason:
            self.unreadable[row] = look.reason
            self.num_empty += look.is_empty
            return
        self.formats[look.format] += 1
        self.modes[look.mode] += 1
        if look.is_animated:
            self.animated.append(row)
        if look.is_rotated:
            self.rotated.append(row)
        self.sizes[row] = look.size
        self.digests[row] = np.frombuffer(look.digest, dtype=np.uint8)


def _look(path: Path) -> _Look:
    try:
        decode_image(path, _DECODED_SIDE)
        with path.open("rb") as file, Image.open(file) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            width, height = image.size
            # A JPEG with previews or depth behind it is still one picture.
            is_animated = image.format != "MPO" and getattr(image, "is_animated", False)
            file.seek(0)
            return _Look(
                format=image.format or "unknown",
                mode=image.mode,
                size=(height, width) if orientation in _TURNED_SIDEWAYS else (width, height),
                is_animated=is_animated,
                is_rotated=orientation in range(2, 9),
                digest=hashlib.file_digest(file, "sha256").digest(),
            )
    except ImageError as error:
        return _Look(reason=error.reason, is_missing=_is_missing(error), is_empty=_is_empty(path))
    except (OSError, MemoryError) as error:
        return _Look(reason=str(error) or "not enough memory")


def _is_missing(error: ImageError) -> bool:
    return isinstance(error.__cause__, FileNotFoundError)


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _find_duplicates(
    digests: NDArray[np.uint8], readable: NDArray[np.intp], data: Dataset
) -> tuple[DuplicateGroup, ...]:
    words = digests[readable].view(np.uint64)
    order = np.lexsort(words.T)
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.any(words[order[1:]] != words[order[:-1]], axis=1)
    starts = np.flatnonzero(is_first)
    ends = np.append(starts[1:], len(order))
    groups = []
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        rows = tuple(sorted(int(row) for row in readable[order[start:end]]))
        splits = tuple(dict.fromkeys(data.splits[row] for row in rows if data.splits[row]))
        labels = {to_dense(data.targets[[row]]).tobytes() for row in rows}
        groups.append(DuplicateGroup(rows, splits, same_labels=len(labels) == 1))
    return tuple(sorted(groups, key=lambda group: group.rows))


@contextmanager
def _progress(total: int, *, show: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield ``advance(missing, unreadable)``, to be called once for each image."""
    console = Console(stderr=True)
    if show and console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("checking images", total=total)
            yield lambda missing, unreadable: bar.update(
                task, advance=1, description=f"checking images ({missing + unreadable} bad)"
            )
        return
    start = last_line = time.monotonic()
    done = 0

    def advance(missing: int, unreadable: int) -> None:
        nonlocal done, last_line
        done += 1
        now = time.monotonic()
        if show and (now - last_line >= _SECONDS_BETWEEN_LINES or done == total):
            last_line = now
            left = (now - start) / done * (total - done)
            _logger.info(
                "checked %d of %d images, %d missing, %d unreadable, %.0f s left",
                done, total, missing, unreadable, left,
            )  # fmt: skip

    yield advance
