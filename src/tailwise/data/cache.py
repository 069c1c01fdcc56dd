"""Images decoded once: 8-bit pixels of one shape, in one file that training reads instead of JPEGs.

Every image is squashed to S × S when the cache is built, whatever its shape. The published augmentation squashes
its crops anyway (Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets",
ECCV 2020), and a crop of the squashed image is the squash of the crop, so nothing is lost as long as S is not below
the size that the network sees. What is won: all images have one shape, the file is a plain (N, S, S, 3) array, and
crops, flips and colours run on whole batches on the device.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import warnings
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, SupportsIndex, TypeAlias

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from tailwise.errors import InputError
from tailwise.files import replacing
from tailwise.shapes import Int, UInt8

OnError: TypeAlias = Literal["raise", "skip"]
_Pixels: TypeAlias = UInt8[np.ndarray, "S S 3"]

_FORMAT = "tailwise-images-1"
_ROWS_CHECKED_ON_OPEN = 64
_IN_FLIGHT_PER_WORKER = 4
_ROOM_WAYS_OUT = "free some space, or choose another folder or a smaller size"
_logger = logging.getLogger(__name__)


class ImageError(InputError):
    """An image file that cannot be read: ``path`` and the ``reason``."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True)
class SkippedImage:
    """An image left out of a cache: its index among the paths given, its path, and why."""

    index: int
    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class ImageCache:
    """N decoded images of S × S pixels. It holds no open file, so it is cheap to send to worker processes.

    Args:
        path: the file of pixels, (N, S, S, 3) uint8, channels last.
        size: S, the side in pixels.
        kept: (N,) for each row of the cache, the index of its image among the paths given; increasing.
        skipped: the images that could not be read.
        checksums: (N,) CRC-32 of each image's pixels.
    """

    path: Path
    size: int
    kept: Int[np.ndarray, "N"]
    skipped: tuple[SkippedImage, ...]
    checksums: Int[np.ndarray, "N"] = field(repr=False)

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def images(self) -> np.memmap:
        """All pixels, (N, S, S, 3) uint8, mapped read-only: for looking around. Training uses :meth:`batch`."""
        return np.memmap(self.path, dtype=np.uint8, mode="r", shape=(len(self), self.size, self.size, 3))

    def batch(
        self, indices: Sequence[SupportsIndex] | Int[np.ndarray, "B"] | Int[Tensor, "B"]
    ) -> UInt8[Tensor, "B 3 S S"]:
        """Read images into a new tensor.

        The rows are read from the file rather than copied out of a memory map: mapped pages count as the process's
        memory until the system needs them back, so that an epoch would look like a leak the size of the file.

        Args:
            indices: rows of the cache, 0 to N - 1, in any order and with repeats.

        Returns:
            (B, 3, S, S) uint8 in channels-last memory format, the caller's own copy.

        Raises:
            IndexError: an index is outside the cache.
            InputError: the file has become shorter since it was opened.
        """
        rows = [int(index) for index in indices]
        pixels = torch.empty((len(rows), self.size, self.size, 3), dtype=torch.uint8)
        stride = _stride(self.size)
        with self.path.open("rb", buffering=0) as file:
            for row, target in zip(rows, pixels.numpy(), strict=True):
                if not 0 <= row < len(self):
                    raise IndexError(f"image {row} of a cache of {len(self)} images")
                file.seek(row * stride)
                if file.readinto(target.data) != stride:
                    raise InputError(f"{self.path}: ends before image {row}; delete this image cache to rebuild it")
        return pixels.permute(0, 3, 1, 2)

    def damaged(self, rows: Iterable[int] | None = None) -> list[int]:
        """The rows, of those given or of all, whose pixels are no longer those that were written."""
        return [
            row
            for row in (range(len(self)) if rows is None else rows)
            if zlib.crc32(self.batch([row]).permute(0, 2, 3, 1).numpy().data) != self.checksums[row]
        ]


def build_cache(
    paths: Sequence[Path],
    size: int,
    folder: Path,
    *,
    workers: int | None = None,
    on_error: OnError = "raise",
    progress: bool = True,
) -> ImageCache:
    """Decode images into a cache, or open the cache that an earlier call built from the same files.

    The file is named by the SHA-256 of the size, the versions of this format and of Pillow, and the path, length and
    time of change of every image, so that another size or a changed image gives another cache. It is written under a
    temporary name and renamed when it is whole: an interrupted build leaves no cache behind, and processes that
    build the same cache at once do not disturb each other. On opening, the header, the length and the checksums of
    up to 64 images spread over the file are verified; a cache that fails is rebuilt with a warning.

    Args:
        paths: the image files, in the order of the rows.
        size: S, the side of the stored images in pixels.
        folder: where the cache lies; made if absent.
        workers: decoding threads; one per CPU core when None. Four decoded images per thread are held in memory.
        on_error: ``"raise"`` stops at the first unreadable image; ``"skip"`` leaves its row out and lists it.
        progress: show a bar with the time left, if standard error is a terminal.

    Returns:
        The cache, verified.

    Raises:
        InputError: an image cannot be read and ``on_error`` is ``"raise"``; no image can be read; the cache cannot
            be written, for want of space or otherwise; an argument is out of range.
    """
    _require_sensible(size, workers, on_error)
    paths = [Path(path) for path in paths]
    if not paths:
        raise InputError("there are no images to cache: the list of paths is empty")
    data_path = Path(folder) / f"{_key(paths, size)}.bin"
    cache = _open_or_warn(data_path, len(paths), size)
    if cache is not None and on_error == "raise":
        _require_readable(cache)
    if cache is not None and (on_error == "skip" or not cache.skipped):
        return cache
    _logger.info("decoding %d images to %d x %d pixels into %s", len(paths), size, size, data_path)
    start = time.perf_counter()
    console = Console(stderr=True)
    try:
        data_path.parent.mkdir(parents=True, exist_ok=True)
        _require_space(data_path.parent, len(paths) * _stride(size))
        with Progress(console=console, disable=not (progress and console.is_terminal)) as bar:
            _build(paths, size, data_path, workers or os.cpu_count() or 1, on_error, bar)
    except OSError as error:
        raise InputError(
            f"{folder}: the image cache cannot be written ({error.strerror or error}); {_ROOM_WAYS_OUT}"
        ) from error
    cache = _open(data_path, len(paths), size)
    _logger.info("decoded %d images in %.0f s, skipped %d", len(cache), time.perf_counter() - start, len(cache.skipped))
    return cache


def decode_image(path: Path, size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Read one image file and squash it to a square.

    The orientation of the EXIF data is applied, transparent pixels are laid over white, 16-bit values are scaled to
    8 bits, other colour spaces become RGB, and of an animation the first frame is taken. The squash is bilinear with
    antialiasing. A JPEG of at least four times the size is decoded at a fraction of its resolution, never below
    twice the size: ten times as fast for a 12-megapixel photo.

    Args:
        path: the file.
        size: S, the side in pixels.

    Returns:
        (S, S, 3) uint8 RGB.

    Raises:
        ImageError: the file is missing, empty or damaged, has suspiciously many pixels, or is not an image.
    """
    try:
        if path.stat().st_size == 0:
            raise ImageError(path, "the file is empty (0 bytes)")
        with Image.open(path) as image:
            image.draft(None, (2 * size, 2 * size))
            ImageOps.exif_transpose(image, in_place=True)
            squashed = _to_rgb(image).resize((size, size), Image.Resampling.BILINEAR)
            return np.array(squashed)
    except (ImageError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise ImageError(path, "there is no such file") from error
    except UnidentifiedImageError as error:
        raise ImageError(path, "not an image in a format that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"refused, too many pixels ({error})") from error
    except Exception as error:  # a damaged file makes decoders raise almost anything
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ImageError(path, f"cannot be decoded ({reason})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its 32-bit values have no defined range: convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _require_sensible(size: int, workers: int | None, on_error: str) -> None:
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if size < 1:
        raise InputError(f"the size of cached images must be at least 1 pixel, got {size}")
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")


def _stride(size: int) -> int:
    return size * size * 3


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: the image cache needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; {_ROOM_WAYS_OUT}"
        )


def _require_readable(cache: ImageCache) -> None:
    for skipped in cache.skipped:
        try:
            decode_image(Path(skipped.path), cache.size)
        except ImageError as error:
            raise _with_way_out(error) from error


def _with_way_out(error: ImageError) -> InputError:
    return InputError(f"{error}; repair or remove it, or leave unreadable images out with on_error='skip'")


def _key(paths: Sequence[Path], size: int) -> str:
    # Pillow's version is part of the key: its decoders and filters decide the pixels.
    digest = hashlib.sha256(json.dumps([_FORMAT, PIL.__version__, size]).encode())
    for path in paths:
        try:
            status = path.stat()
            state = [status.st_size, status.st_mtime_ns]
        except OSError:
            state = []
        digest.update(json.dumps([str(path.absolute()), *state]).encode())
    return digest.hexdigest()


def _open_or_warn(data_path: Path, num_paths: int, size: int) -> ImageCache | None:
    """The cache at this path; None if there is none, or, with a warning, if it is damaged."""
    header_path = data_path.with_suffix(".json")
    if not (header_path.exists() and data_path.exists()):
        return None
    try:
        cache = _open(data_path, num_paths, size)
        sample = np.linspace(0, len(cache) - 1, num=min(len(cache), _ROWS_CHECKED_ON_OPEN)).astype(int)
        damaged = cache.damaged(sample.tolist())
        if not damaged:
            return cache
        problem = f"image {damaged[0]} is not what was written"
    except (OSError, ValueError, TypeError, LookupError) as error:
        problem = str(error)
    warnings.warn(f"{data_path}: damaged image cache ({problem}); building it again", stacklevel=3)
    return None


def _open(data_path: Path, num_paths: int, size: int) -> ImageCache:
    header = json.loads(data_path.with_suffix(".json").read_text(encoding="utf-8"))
    skipped = tuple(SkippedImage(**entry) for entry in header["skipped"])
    kept = np.delete(np.arange(num_paths), [entry.index for entry in skipped])
    checksums = np.array(header["checksums"], dtype=np.int64)
    if [header["format"], header["size"]] != [_FORMAT, size] or len(checksums) != len(kept):
        raise ValueError("the header does not fit the images")
    expected, actual = len(kept) * _stride(size), data_path.stat().st_size
    if actual != expected:
        raise ValueError(f"{actual} bytes instead of {expected}")
    return ImageCache(data_path, size, kept, skipped, checksums)


def _build(paths: Sequence[Path], size: int, data_path: Path, workers: int, on_error: OnError, bar: Progress) -> None:
    """Write the pixels, then the header that makes them a cache."""
    checksums: list[int] = []
    skipped: list[SkippedImage] = []
    with (
        replacing(data_path) as temporary,
        temporary.open("wb") as file,
        closing(_decoded(paths, size, workers)) as decoded,
    ):
        task = bar.add_task("decoding images", total=len(paths))
        for index, (path, future) in enumerate(zip(paths, decoded, strict=True)):
            try:
                pixels = future.result()
                file.write(pixels.data)
                checksums.append(zlib.crc32(pixels.data))
            except ImageError as error:
                if on_error == "raise":
                    raise _with_way_out(error) from error
                skipped.append(SkippedImage(index, str(path), error.reason))
            bar.advance(task)
        if not checksums:
            raise InputError(
                f"none of the {len(paths)} images can be read; the first is {paths[0]}: {skipped[0].reason}"
            )
        file.flush()
        os.fsync(file.fileno())
    header = {"format": _FORMAT, "size": size, "skipped": [asdict(entry) for entry in skipped], "checksums": checksums}
    with replacing(data_path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(header), encoding="utf-8")


def _decoded(paths: Sequence[Path], size: int, workers: int) -> Generator[Future[_Pixels], None, None]:
    """Decode in threads (Pillow releases the interpreter while it decodes), in order, a bounded number ahead."""
    pending: deque[Future[_Pixels]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for path in paths:
                pending.append(pool.submit(decode_image, path, size))
                if len(pending) >= _IN_FLIGHT_PER_WORKER * workers:
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        finally:
            for future in pending:
                future.cancel()
