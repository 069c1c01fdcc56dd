"""Small valid image files of many kinds, in memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Original:
    """A file."""

    name: str
    suffix: str
    data: bytes


@cache
def originals(kinds: tuple[str, ...] = ()) -> tuple[Original, ...]:
    """Files of all kinds, or of those whose suffix is given."""
    return tuple(original for original in _originals() if not kinds or original.suffix in kinds)


def _originals() -> Iterator[Original]:
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (40, 52, 3), dtype=np.uint8))
    smooth = noise.resize((120, 90), Image.Resampling.BICUBIC)
    wide = Image.fromarray(generator.integers(0, 65536, (20, 30), dtype=np.uint16))
    palette = smooth.quantize(17)
    clear = smooth.copy()
    clear.putalpha(Image.linear_gradient("L").resize(smooth.size))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    frames = {"save_all": True, "append_images": [noise.resize(smooth.size), smooth.rotate(30)]}
    files: list[tuple[str, str, Image.Image, dict[str, Any]]] = [
        ("baseline", "jpg", smooth, {"quality": 80}),
        ("large enough to be decoded at a fraction", "jpg", smooth.resize((360, 300)), {"quality": 60}),
        ("progressive", "jpg", smooth, {"progressive": True}),
        ("restart markers", "jpg", noise, {"restart_marker_blocks": 3}),
        ("without chroma subsampling", "jpg", noise, {"subsampling": 0, "optimize": True}),
        ("grey", "jpg", smooth.convert("L"), {}),
        ("CMYK", "jpg", smooth.convert("CMYK"), {}),
        ("turned", "jpg", smooth, {"exif": exif, "dpi": (72, 72), "comment": b"words"}),
        ("plain", "png", noise, {}),
        ("bits", "png", smooth.convert("1"), {}),
        ("16 bits", "png", wide, {}),
        ("palette", "png", palette, {}),
        ("palette with a transparent colour", "png", palette, {"transparency": 3}),
        ("transparent", "png", clear, {"exif": exif}),
        ("grey and transparent", "png", clear.convert("LA"), {}),
        ("animated", "png", smooth, frames),
        ("lossy", "webp", smooth, {"exif": exif}),
        ("lossless and transparent", "webp", clear, {"lossless": True}),
        ("animated", "webp", smooth, frames),
        ("plain", "gif", palette, {"transparency": 3}),
        ("animated", "gif", smooth, {**frames, "interlace": 1}),
        ("plain", "bmp", noise, {}),
        ("palette", "bmp", palette, {}),
        ("plain", "tif", noise, {}),
        ("several pages", "tif", smooth, {**frames, "compression": "tiff_lzw"}),
        ("16 bits", "tif", wide, {"compression": "tiff_adobe_deflate"}),
        ("JPEG inside", "tif", smooth, {"compression": "jpeg"}),
        ("plain", "ppm", noise, {}),
    ]
    formats = {"jpg": "JPEG", "tif": "TIFF"}
    for name, suffix, image, options in files:
        buffer = io.BytesIO()
        image.save(buffer, formats.get(suffix, suffix.upper()), **options)
        yield Original(name, suffix, buffer.getvalue())
    yield Original("interlaced", "png", _interlaced_png(np.asarray(noise)))
    yield Original("16 bits per colour", "png", _png(np.asarray(noise).astype(">u2") * 257))


def _png(pixels: np.ndarray) -> bytes:
    """RGB of 8 or 16 bits, which Pillow does not write."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return _png_file(struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, 2, 0, 0, 0), rows)


def _interlaced_png(pixels: np.ndarray) -> bytes:
    height, width = pixels.shape[:2]
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    parts = [pixels[top::down, left::across] for top, left, down, across in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts for row in part if part.size)
    return _png_file(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1), rows)


def _png_file(header: bytes, rows: bytes) -> bytes:
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
