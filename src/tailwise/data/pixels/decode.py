"""Decoding of image files of any kind to 8-bit RGB pixels."""

from __future__ import annotations

import stat
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tailwise.errors import InputError
from tailwise.shapes import UInt8

S = TypeVar("S")
T = TypeVar("T")
_IN_FLIGHT_PER_WORKER = 4


class ImageError(InputError):
    """An image file that cannot be read: ``path`` and the ``reason``."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore Pillow's warnings inside, in the whole process.

    They do not name the file, and whether an image can be read must not depend on the filters that are set.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def in_threads(work: Callable[[S], T], images: Iterable[S], workers: int) -> Generator[Future[T], None, None]:
    """Apply a function to images in threads (Pillow releases the interpreter while it decodes).

    Args:
        work: the function.
        images: the images, or names of their files.
        workers: number of threads; four results per thread are held in memory at most.

    Yields:
        The results in the order of the images.
    """
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
        try:
            for image in images:
                pending.append(pool.submit(work, image))
                if len(pending) >= _IN_FLIGHT_PER_WORKER * workers:
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        finally:
            for future in pending:
                future.cancel()


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
        ImageError: the file is missing, empty or damaged, may not be read, has suspiciously many pixels, or is not an
            image.
    """
    with _opened(path, 2 * size) as image:
        return np.array(image.resize((size, size), Image.Resampling.BILINEAR))


def square_pixels(image: Image.Image | NDArray[Any], size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Squash an image in memory to a square, as :func:`decode_image` does with one in a file.

    Args:
        image: a Pillow image; or pixels, uint8 of the shape (H, W) for gray levels, (H, W, 3) or (H, W, 4).
        size: S, the side in pixels.

    Returns:
        (S, S, 3) uint8 RGB.

    Raises:
        ValueError: the array is of another type or shape, or the image has 32-bit values.
    """
    if not isinstance(image, Image.Image):
        pixels = np.asarray(image)
        is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
        if pixels.dtype != np.uint8 or not is_image or not pixels.size:
            raise ValueError(
                f"pixels must be uint8 of the shape (H, W), (H, W, 3) or (H, W, 4), got {pixels.dtype} of the shape "
                f"{pixels.shape}"
            )
        image = Image.fromarray(pixels)
    upright = ImageOps.exif_transpose(image)
    return np.array(_to_rgb(upright).resize((size, size), Image.Resampling.BILINEAR))


def read_thumbnail(path: Path, size: int) -> Image.Image:
    """Read one image file as :func:`decode_image` does, but keep its shape.

    Args:
        path: the file.
        size: the longer side in pixels.

    Raises:
        ImageError: as :func:`decode_image`.
    """
    with _opened(path, 2 * size) as image:
        scale = size / max(image.size)
        width, height = (max(1, round(scale * side)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BILINEAR)


@contextmanager
def _opened(path: Path, enough: int) -> Iterator[Image.Image]:
    """An image file upright and as RGB; a JPEG may be of lower resolution, but no side below ``enough`` pixels."""
    try:
        _require_content(path)
        with Image.open(path) as image:
            image.draft(None, (enough, enough))
            ImageOps.exif_transpose(image, in_place=True)
            yield _to_rgb(image)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(path, "there is no such file") from error
    except PermissionError as error:
        raise ImageError(path, "there is no permission to read it") from error
    except UnidentifiedImageError as error:
        raise ImageError(path, "not an image in a format that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"refused, too many pixels ({error})") from error
    except MemoryError as error:
        raise ImageError(path, "its pixels need more memory than there is") from error
    except Exception as error:  # a damaged file makes decoders raise almost anything
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ImageError(path, f"cannot be decoded ({reason})") from error


def _require_content(path: Path) -> None:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(path, "a folder, not an image file")
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise ImageError(path, "not a regular file")
    if status.st_size == 0:
        raise ImageError(path, "the file is empty (0 bytes)")


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
