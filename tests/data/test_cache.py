"""The image cache: what it holds, what it refuses, and what it survives."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import pickle
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from tailwise.data.pixels import image_cache as cache_module
from tailwise.data.pixels.decode import decode_image
from tailwise.data.pixels.image_cache import ImageCache, SkippedImage, build_cache
from tailwise.errors import InputError

SIZE = 8
TINY_STRIDE = SIZE * SIZE * 3


def noise(side: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def reference(path: Path, size: int) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Ten lossless images of 12 x 12 pixels."""
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / f"{i}.png" for i in range(10)]
    for seed, path in enumerate(paths):
        Image.fromarray(noise(12, seed)).save(path)
    return paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The paths decoded so far."""
    calls: list[Path] = []

    def counting(path: Path, size: int) -> np.ndarray:
        calls.append(path)
        return decode_image(path, size)

    monkeypatch.setattr(cache_module, "decode_image", counting)
    return calls


def build(paths: list[Path], folder: Path, **options) -> ImageCache:
    return build_cache(paths, SIZE, folder, **{"workers": 2, "progress": False, **options})


def names(folder: Path) -> list[str]:
    """What lies in the folder, but for the empty files that are locked."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


class TestContents:
    def test_digest_is_that_of_the_pixels_wherever_the_images_lie(self, images, folder, tmp_path):
        cache = build(images, folder)
        assert cache.digest == hashlib.sha256(cache.path.read_bytes()).hexdigest()
        assert build(images, folder).digest == cache.digest
        moved = [path.rename(tmp_path / path.name) for path in images]
        elsewhere = build(moved, folder)
        assert (elsewhere.digest, elsewhere.path == cache.path) == (cache.digest, False)
        assert build(moved[::-1], folder).digest != cache.digest

    def test_rows_are_the_images_in_order(self, images, folder):
        cache = build(images, folder)
        assert len(cache) == 10
        assert cache.kept.tolist() == list(range(10))
        assert cache.skipped == ()
        assert cache.images.shape == (10, SIZE, SIZE, 3)
        for row, path in zip(cache.images, images, strict=True):
            assert np.array_equal(row, reference(path, SIZE))

    @pytest.mark.parametrize("workers", [None, 1, 3])
    def test_the_number_of_threads_does_not_matter(self, images, folder, tmp_path, workers):
        cache = build(images, folder, workers=workers)
        assert cache.path.read_bytes() == build(images, tmp_path / "other").path.read_bytes()

    @pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
    def test_batch_takes_rows_in_any_order_with_repeats(self, images, folder, kind):
        cache = build(images, folder)
        batch = cache.batch(kind([7, 0, 7]))
        assert batch.shape == (3, 3, SIZE, SIZE)
        assert batch.dtype == torch.uint8
        assert batch.is_contiguous()
        for pixels, row in zip(batch, (7, 0, 7), strict=True):
            assert np.array_equal(pixels.permute(1, 2, 0), cache.images[row])

    def test_batch_is_a_copy(self, images, folder):
        cache = build(images, folder)
        before = cache.path.read_bytes()
        cache.batch([0]).zero_()
        assert cache.path.read_bytes() == before
        with pytest.raises(ValueError, match="read-only"):
            cache.images[0] = 0

    @pytest.mark.parametrize("row", [-1, 10])
    def test_rows_outside_the_cache_are_refused(self, images, folder, row):
        with pytest.raises(IndexError, match=f"image {row} of a cache of 10"):
            build(images, folder).batch([0, row])

    def test_an_empty_batch_is_empty(self, images, folder):
        assert build(images, folder).batch([]).shape == (0, 3, SIZE, SIZE)

    def test_workers_receive_a_few_bytes_not_the_pixels(self, images, folder):
        cache = build(images, folder)
        sent = pickle.dumps(cache)
        assert len(sent) < 1500 < cache.path.stat().st_size
        assert torch.equal(pickle.loads(sent).batch([3]), cache.batch([3]))

    def test_reading_everything_does_not_keep_it_in_memory(self, images, tmp_path):
        cache = build_cache(images * 40, 256, tmp_path / "large", progress=False)
        process = psutil.Process()
        cache.batch(range(32))
        before = process.memory_info().rss
        for start in range(0, len(cache), 32):
            cache.batch(range(start, min(start + 32, len(cache))))
        assert process.memory_info().rss - before < cache.path.stat().st_size / 3


def damage(path: Path, kind: str) -> None:
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404 Not Found</html>")
    elif kind == "missing":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "32-bit":
        Image.new("F", (4, 4), 0.5).save(path, format="TIFF")


UNREADABLE = {
    "truncated": r"cannot be decoded \(image file is truncated",
    "empty": r"the file is empty \(0 bytes\)",
    "text": "not an image in a format that Pillow can read",
    "missing": "there is no such file",
    "folder": "a folder, not an image file",
    "32-bit": "32-bit values have no defined range",
}


class TestUnreadableImages:
    @pytest.fixture
    def jpegs(self, tmp_path: Path) -> list[Path]:
        paths = [tmp_path / f"{i}.jpg" for i in range(6)]
        for seed, path in enumerate(paths):
            Image.fromarray(noise(64, seed)).save(path)
        return paths

    @pytest.mark.parametrize(("kind", "reason"), UNREADABLE.items())
    def test_the_error_names_the_file_the_reason_and_the_way_out(self, jpegs, folder, kind, reason):
        damage(jpegs[4], kind)
        with pytest.raises(InputError, match=f"4.jpg: .*{reason}.*on_error='skip'"):
            build(jpegs, folder)
        assert names(folder) == []

    def test_damaged_exif_data_is_no_reason_and_no_warning(self, jpegs, folder):
        pixels = reference(jpegs[3], SIZE)
        with Image.open(jpegs[3]) as image:
            image.save(jpegs[3], exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12", quality=75)
        with pytest.warns(UserWarning, match="Corrupt EXIF data"), Image.open(jpegs[3]) as image:
            image.getexif()
        np.testing.assert_allclose(build(jpegs, folder).images[3], pixels, atol=12)

    def test_skipping_leaves_rows_out_and_lists_them(self, jpegs, folder):
        good = {i: reference(jpegs[i], SIZE) for i in (1, 2, 5)}
        for i, kind in ((0, "empty"), (3, "truncated"), (4, "missing")):
            damage(jpegs[i], kind)
        for cache in (build(jpegs, folder, on_error="skip"), build(jpegs, folder, on_error="skip")):
            assert cache.kept.tolist() == [1, 2, 5]
            assert [entry.index for entry in cache.skipped] == [0, 3, 4]
            assert cache.skipped[2] == SkippedImage(4, str(jpegs[4]), "there is no such file")
            for row, i in zip(cache.images, cache.kept, strict=True):
                np.testing.assert_allclose(row, good[i], atol=12)

    def test_a_cache_with_gaps_is_refused_at_once_by_a_caller_who_wants_none(self, jpegs, folder, decoded):
        damage(jpegs[2], "empty")
        build(jpegs, folder, on_error="skip")
        decoded.clear()
        with pytest.raises(InputError, match=r"2.jpg: the file is empty"):
            build(jpegs, folder)
        assert decoded == [jpegs[2]]

    def test_gaps_are_filled_when_the_image_has_become_readable(self, jpegs, folder):
        whole, status = jpegs[2].read_bytes(), jpegs[2].stat()
        jpegs[2].write_bytes(bytes(len(whole)))
        os.utime(jpegs[2], ns=(status.st_atime_ns, status.st_mtime_ns))
        assert len(build(jpegs, folder, on_error="skip")) == 5
        jpegs[2].write_bytes(whole)
        os.utime(jpegs[2], ns=(status.st_atime_ns, status.st_mtime_ns))
        assert len(build(jpegs, folder)) == 6

    def test_nothing_readable_is_an_error_even_when_skipping(self, jpegs, folder):
        for path in jpegs:
            damage(path, "text")
        with pytest.raises(InputError, match=r"none of the 6 images can be read.*0.jpg"):
            build(jpegs, folder, on_error="skip")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": 0}, "size"),
            ({"workers": 0}, "workers"),
            ({"on_error": "ignore"}, "on_error"),
            ({"paths": []}, "no"),
        ],
    )
    def test_senseless_arguments_are_refused(self, images, folder, options, message):
        arguments = {"paths": images, "size": SIZE, "folder": folder, "on_error": "raise", **options}
        unchecked = inspect.unwrap(build_cache)  # without the run-time type checks of the tests
        with pytest.raises(InputError, match=message):
            unchecked(**arguments)


class TestReuse:
    def test_the_second_call_decodes_nothing(self, images, folder, decoded):
        first = build(images, folder)
        assert len(decoded) == 10
        second = build(images, folder)
        assert len(decoded) == 10
        assert second.path == first.path
        assert torch.equal(second.batch(range(10)), first.batch(range(10)))

    def test_a_relative_path_names_the_same_cache(self, images, folder, decoded, monkeypatch):
        build(images, folder)
        monkeypatch.chdir(images[0].parent)
        build([Path(path.name) for path in images], folder)
        assert len(decoded) == 10

    @pytest.mark.parametrize("change", ["time", "length", "order", "fewer"])
    def test_another_source_is_another_cache(self, images, folder, decoded, change):
        build(images, folder)
        if change == "time":
            os.utime(images[3], ns=(0, images[3].stat().st_mtime_ns + 1000))
        elif change == "length":
            status = images[3].stat()
            Image.fromarray(noise(13, 99)).save(images[3])
            os.utime(images[3], ns=(status.st_atime_ns, status.st_mtime_ns))
        elif change == "order":
            images[0], images[1] = images[1], images[0]
        else:
            images.pop()
        cache = build(images, folder)
        assert len(decoded) == 10 + len(images)
        for row, path in zip(cache.images, images, strict=True):
            assert np.array_equal(row, reference(path, SIZE))

    def test_another_size_is_another_cache(self, images, folder):
        build(images, folder)
        assert build_cache(images, 5, folder, progress=False).images.shape == (10, 5, 5, 3)

    def test_an_interrupted_build_leaves_nothing(self, images, folder, monkeypatch):
        def interrupted(path: Path, size: int) -> np.ndarray:
            if path == images[6]:
                raise KeyboardInterrupt
            return decode_image(path, size)

        with monkeypatch.context() as patch:
            patch.setattr(cache_module, "decode_image", interrupted)
            with pytest.raises(KeyboardInterrupt):
                build(images, folder)
        assert names(folder) == []
        assert len(build(images, folder)) == 10

    def test_pixels_without_a_header_are_no_cache(self, images, folder, decoded):
        path = build(images, folder).path
        path.with_suffix(".json").unlink()
        assert len(build(images, folder)) == 10
        assert len(decoded) == 20

    @pytest.mark.parametrize(
        ("kind", "problem"),
        [
            ("pixel", "image 4 is not what was written"),
            ("short", "1919 bytes instead of 1920"),
            ("long", "1921 bytes instead of 1920"),
            ("header", "."),
            ("checksums", "the header does not fit the images"),
        ],
    )
    def test_a_damaged_cache_is_rebuilt_with_a_warning(self, images, folder, kind, problem):
        whole = build(images, folder)
        pixels, header = bytearray(whole.path.read_bytes()), whole.path.with_suffix(".json")
        if kind == "pixel":
            pixels[4 * TINY_STRIDE + 17] ^= 1
            whole.path.write_bytes(pixels)
        elif kind == "short":
            whole.path.write_bytes(pixels[:-1])
        elif kind == "long":
            whole.path.write_bytes(pixels + b"0")
        elif kind == "header":
            header.write_text(header.read_text()[:40])
        else:
            content = json.loads(header.read_text())
            header.write_text(json.dumps({**content, "checksums": content["checksums"][1:]}))
        with pytest.warns(UserWarning, match=f"damaged image cache .*{problem}.*building it again"):
            cache = build(images, folder)
        assert cache.damaged() == []
        for row, path in zip(cache.images, images, strict=True):
            assert np.array_equal(row, reference(path, SIZE))

    def test_full_verification_finds_every_damaged_row(self, images, folder):
        cache = build(images, folder)
        with cache.path.open("r+b") as file:
            for row in (2, 9):
                file.seek(row * TINY_STRIDE)
                value = file.read(1)[0]
                file.seek(row * TINY_STRIDE)
                file.write(bytes([value ^ 255]))
        assert cache.damaged() == [2, 9]
        assert cache.damaged([0, 9]) == [9]

    @pytest.mark.parametrize("rows", [9, 11])
    def test_a_file_of_another_length_is_refused_while_in_use(self, images, folder, rows):
        """Another process has built it again with fewer images or with more: every row may be another image."""
        cache = build(images, folder)
        assert len(cache.batch([0, 2])) == 2
        os.truncate(cache.path, rows * TINY_STRIDE)
        with pytest.raises(InputError, match="has changed while in use"):
            cache.batch([0])

    def test_a_file_deleted_while_in_use_is_named(self, images, folder):
        cache = build(images, folder)
        cache.path.unlink()
        with pytest.raises(InputError, match=r"\.bin: this image cache was deleted while in use"):
            cache.batch([0])
