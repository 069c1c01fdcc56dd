"""The cache of decoded images: 8-bit pixels of one shape, in one file that training reads instead of JPEGs.

Every image is squashed to S × S when the cache is built. The published augmentation squashes
its crops anyway (Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets",
ECCV 2020), and a crop of the squashed image is the squash of the crop, so nothing is lost as long as S is not below
the size that the network sees. As a result, all images have one shape, the file is a plain (N, 3, S, S) array, and
crops, flips and colours run on whole batches on the device. Each colour is a plane of its own, because changes of
colour work on planes and would have to take the pixels apart again in every epoch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import time
import warnings
import weakref
import zlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import PIL
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from tailwise.data.cache_folder import alone, remove_leftovers, require_space, touch
from tailwise.data.pixels.decode import ImageError, decode_image, in_threads, without_warnings
from tailwise.errors import InputError, OnError
from tailwise.files import hold, replacing
from tailwise.shapes import Int, UInt8

_Planes: TypeAlias = UInt8[np.ndarray, "3 S S"]

_FORMAT = "tailwise-images-3"
_ROWS_CHECKED_ON_OPEN = 64
_MAKE_ROOM = "free some space, or choose another folder or a smaller size"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_logger = logging.getLogger(__name__)


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
        path: the file of pixels, (N, 3, S, S) uint8.
        size: S, the side in pixels.
        kept: (N,) for each row of the cache, the index of its image among the paths given; increasing.
        skipped: the images that could not be read.
        checksums: (N,) CRC-32 of each image's pixels.
        digest: SHA-256 of all pixels, in the order of the rows.
    """

    path: Path
    size: int
    kept: Int[np.ndarray, "N"]
    skipped: tuple[SkippedImage, ...]
    checksums: Int[np.ndarray, "N"] = field(repr=False)
    digest: str

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def images(self) -> np.memmap:
        """All pixels, (N, S, S, 3) uint8, mapped read-only, for inspection. Training uses :meth:`batch`."""
        planes = np.memmap(self.path, dtype=np.uint8, mode="r", shape=(len(self), 3, self.size, self.size))
        return planes.transpose(0, 2, 3, 1)

    def batch(
        self, indices: Sequence[SupportsIndex] | Int[np.ndarray, "B"] | Int[Tensor, "B"]
    ) -> UInt8[Tensor, "B 3 S S"]:
        """Read images into a new tensor.

        The rows are read from the file rather than copied out of a memory map: mapped pages count as the process's
        memory until the system needs them back, so that an epoch would look like a leak the size of the file.

        Args:
            indices: rows of the cache, 0 to N - 1, in any order and with repeats.

        Returns:
            (B, 3, S, S) uint8, the caller's own copy.

        Raises:
            IndexError: an index is outside the cache.
            InputError: the file was deleted, or has another length than when it was opened.
        """
        rows = [int(index) for index in indices]
        pixels = torch.empty((len(rows), 3, self.size, self.size), dtype=torch.uint8)
        stride = _stride(self.size)
        try:
            with self.path.open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != len(self) * stride:
                    # Built again with more images or fewer, it would have other images in these rows.
                    raise InputError(f"{self.path}: this image cache has changed while in use; start again")
                for row, target in zip(rows, pixels.numpy(), strict=True):
                    if not 0 <= row < len(self):
                        raise IndexError(f"image {row} of a cache of {len(self)} images")
                    file.seek(row * stride)
                    file.readinto(target.data)
        except FileNotFoundError as error:
            raise InputError(f"{self.path}: this image cache was deleted while in use; start again") from error
        return pixels

    def damaged(self, rows: Iterable[int] | None = None) -> list[int]:
        """The rows, of those given or of all, whose pixels are no longer those that were written."""
        return [
            row
            for row in (range(len(self)) if rows is None else rows)
            if zlib.crc32(self.batch([row]).numpy().data) != self.checksums[row]
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
    time of change of every image, so that another size or a changed image gives another cache. (An image replaced by
    another of the same length with its time of change set back is not noticed: delete the cache after doing that.)

    It is written under a temporary name and renamed when it is whole: an interrupted build leaves no cache. Of several
    processes that want the same cache, one decodes and the others wait; if it is killed, the next takes over and
    removes what it left. ``tailwise cache`` and the limit of the cache leave the file alone while the object returned
    lives. On opening, the header, the length and the checksums of up to 64 images spread over the file are verified; a
    cache that fails is rebuilt with a warning.

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
            be written, for want of space or of permission; an argument is out of range.
    """
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if size < 1:
        raise InputError(f"the size of cached images must be at least 1 pixel, got {size}")
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    if not paths:
        raise InputError("there are no images to cache: the list of paths is empty")
    data_path = Path(folder) / f"{_key(paths, size)}.bin"
    if (cache := _reusable(data_path, len(paths), size, on_error)[0]) is not None:
        return cache
    needed = len(paths) * _stride(size)
    try:
        data_path.parent.mkdir(parents=True, exist_ok=True)
        with alone(_lock_name(data_path)) as is_alone:
            if is_alone:
                remove_leftovers(data_path.parent, own=data_path.stem)
            cache, problem = _reusable(data_path, len(paths), size, on_error)
            if cache is not None:
                return cache
            if problem:
                warnings.warn(f"{data_path}: damaged image cache ({problem}); building it again", stacklevel=2)
            require_space(data_path.parent, needed, "the image cache", _MAKE_ROOM)
            _build(paths, size, data_path, workers or os.cpu_count() or 1, on_error, progress)
            return _open(data_path, len(paths), size)
    except OSError as error:
        way_out = f"it needs {needed / 1e9:.2f} GB: {_MAKE_ROOM}" if error.errno in _FULL else "choose another folder"
        reason = error.strerror or error
        raise InputError(f"{folder}: the image cache cannot be written ({reason}); {way_out}") from error


def _stride(size: int) -> int:
    return size * size * 3


def _require_readable(cache: ImageCache) -> None:
    with without_warnings():
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


def _reusable(data_path: Path, num_paths: int, size: int, on_error: OnError) -> tuple[ImageCache | None, str]:
    """The cache at this path if it is there and will do, and what is wrong with it if it is damaged."""
    if not (data_path.with_suffix(".json").exists() and data_path.exists()):
        return None, ""
    try:
        cache = _open(data_path, num_paths, size)
        sample = np.linspace(0, len(cache) - 1, num=min(len(cache), _ROWS_CHECKED_ON_OPEN)).astype(int)
        damaged = cache.damaged(sample.tolist())
    except FileNotFoundError:  # removed a moment ago
        return None, ""
    except (OSError, ValueError, TypeError, LookupError) as error:
        return None, str(error)
    if damaged:
        return None, f"image {damaged[0]} is not what was written"
    if on_error == "raise" and cache.skipped:
        _require_readable(cache)
        return None, ""
    touch(data_path)
    return cache, ""


def _open(data_path: Path, num_paths: int, size: int) -> ImageCache:
    header = json.loads(data_path.with_suffix(".json").read_text(encoding="utf-8"))
    skipped = tuple(SkippedImage(**entry) for entry in header["skipped"])
    kept = np.delete(np.arange(num_paths), [entry.index for entry in skipped])
    checksums = np.array(header["checksums"], dtype=np.int64)
    if [header["format"], header["size"]] != [_FORMAT, size] or len(checksums) != len(kept):
        raise ValueError("the header does not fit the images")
    cache = ImageCache(data_path, size, kept, skipped, checksums, header["digest"])
    # Nobody removes the file as long as this object lives.
    handle = hold(data_path)
    if handle is not None:
        weakref.finalize(cache, os.close, handle)
    expected, actual = len(kept) * _stride(size), data_path.stat().st_size
    if actual != expected:
        raise ValueError(f"{actual} bytes instead of {expected}")
    return cache


def _lock_name(data_path: Path) -> Path:
    """The name that the lock of a cache is made from: that of no temporary file."""
    return data_path.with_suffix("")


def _build(paths: Sequence[Path], size: int, data_path: Path, workers: int, on_error: OnError, progress: bool) -> None:
    _logger.info("decoding %d images to %d x %d pixels into %s", len(paths), size, size, data_path)
    start = time.perf_counter()
    console = Console(stderr=True)
    with (
        without_warnings(),
        Progress(console=console, disable=not (progress and console.is_terminal)) as bar,
        replacing(data_path) as temporary,
    ):
        header = _write_pixels(paths, size, temporary, workers, on_error, bar)
    # The header makes the pixels a cache.
    with replacing(data_path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(header), encoding="utf-8")
    kept, skipped = len(header["checksums"]), len(header["skipped"])
    _logger.info("decoded %d images in %.0f s, skipped %d", kept, time.perf_counter() - start, skipped)


def _write_pixels(
    paths: Sequence[Path], size: int, target: Path, workers: int, on_error: OnError, bar: Progress
) -> dict[str, Any]:
    """Decode into a file, and return the header."""
    checksums: list[int] = []
    skipped: list[SkippedImage] = []
    digest = hashlib.sha256()
    with target.open("wb") as file, closing(in_threads(partial(_planes, size=size), paths, workers)) as decoded:
        task = bar.add_task("decoding images", total=len(paths))
        for index, (path, future) in enumerate(zip(paths, decoded, strict=True)):
            try:
                planes = future.result()
                file.write(planes.data)
                checksums.append(zlib.crc32(planes.data))
                digest.update(planes.data)
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
    return {
        "format": _FORMAT,
        "size": size,
        "digest": digest.hexdigest(),
        "of": f"{len(checksums)} images of {size} x {size} pixels in {_common_folder(paths)}",
        "skipped": [asdict(entry) for entry in skipped],
        "checksums": checksums,
    }


def _common_folder(paths: Sequence[Path]) -> str:
    folders = [str(path.absolute().parent) for path in paths]
    return os.path.commonpath([min(folders), max(folders)])


def _planes(path: Path, size: int) -> _Planes:
    return np.ascontiguousarray(decode_image(path, size).transpose(2, 0, 1))
