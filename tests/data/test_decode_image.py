"""Decoding of image files of every kind, against Pillow and known pixels."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tailwise.data.pixels.decode import ImageError, decode_image, read_thumbnail
from tests.data.image_files import originals

SIZE = 8


def reference(path: Path, size: int) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


class TestPhotos:
    @pytest.fixture
    def paths(self, photos: Path) -> list[Path]:
        with photos.open(newline="") as file:
            return [photos.parent / row["image"] for row in csv.DictReader(file) if row["split"] == "test"][:48]

    def test_equal_to_pillow(self, paths):
        for path in paths:
            assert np.array_equal(decode_image(path, 160), reference(path, 160))

    def test_large_jpegs_decoded_at_a_fraction_are_close_to_the_whole(self, paths):
        errors = [np.abs(decode_image(path, 32).astype(int) - reference(path, 32)).mean() for path in paths]
        assert 0 < np.mean(errors) < 1.5  # 0: the fraction was not used
        assert np.max(errors) < 6


class TestKindsOfImages:
    """Each file is decoded at its own size or is of one colour, so the expected pixels are known exactly."""

    def colour(self, path: Path) -> list[int]:
        pixels = decode_image(path, SIZE)
        assert (pixels == pixels[0, 0]).all()
        return pixels[0, 0].tolist()

    @pytest.mark.parametrize(
        ("mode", "value", "expected"),
        [
            ("1", 1, [255, 255, 255]),
            ("L", 77, [77, 77, 77]),
            ("LA", (100, 255), [100, 100, 100]),
            ("LA", (0, 0), [255, 255, 255]),
            ("RGB", (10, 20, 30), [10, 20, 30]),
            ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
            ("RGBA", (10, 20, 30, 0), [255, 255, 255]),
            ("RGBA", (0, 0, 0, 51), [204, 204, 204]),
        ],
    )
    def test_png_modes(self, tmp_path, mode, value, expected):
        path = tmp_path / "image.png"
        Image.new(mode, (20, 14), value).save(path)
        assert self.colour(path) == expected

    @pytest.mark.parametrize(("transparent", "expected"), [(None, [200, 100, 50]), (0, [255, 255, 255])])
    def test_palette(self, tmp_path, transparent, expected):
        image = Image.new("P", (20, 14), 0)
        image.putpalette([200, 100, 50, 0, 0, 0])
        path = tmp_path / "image.png"
        image.save(path, **({} if transparent is None else {"transparency": transparent}))
        assert self.colour(path) == expected

    def test_cmyk_jpeg(self, tmp_path):
        path = tmp_path / "image.jpg"
        Image.new("CMYK", (32, 32), (255, 0, 0, 0)).save(path, quality=100)
        np.testing.assert_allclose(self.colour(path), [0, 255, 255], atol=3)

    @pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
    def test_16_bit_grey_is_scaled_to_8_bits(self, tmp_path, suffix):
        values = np.linspace(0, 65535, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE)
        path = tmp_path / f"image.{suffix}"
        if suffix == "pgm":
            path.write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
        else:
            Image.fromarray(values).save(path)
        expected = np.rint(values / 257).astype(np.uint8)
        assert np.array_equal(decode_image(path, SIZE), np.repeat(expected[..., None], 3, axis=2))

    @pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
    def test_the_first_frame_of_an_animation_is_taken(self, tmp_path, suffix):
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
        path = tmp_path / f"image.{suffix}"
        lossless = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **lossless)
        np.testing.assert_allclose(self.colour(path), [255, 0, 0], atol=2)

    @pytest.mark.parametrize(
        ("orientation", "stored"),
        [
            (1, lambda seen: seen),
            (2, np.fliplr),
            (3, lambda seen: np.rot90(seen, 2)),
            (4, np.flipud),
            (5, lambda seen: seen.transpose(1, 0, 2)),
            (6, np.rot90),
            (7, lambda seen: np.rot90(seen, 2).transpose(1, 0, 2)),
            (8, lambda seen: np.rot90(seen, -1)),
        ],
    )
    def test_exif_orientation_is_applied(self, tmp_path, orientation, stored):
        seen = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / "image.png"
        Image.fromarray(np.ascontiguousarray(stored(seen))).save(path, exif=exif)
        assert np.array_equal(decode_image(path, SIZE), seen)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_of_a_jpeg_decoded_at_a_fraction(self, tmp_path, orientation):
        seen = np.zeros((64, 64, 3), dtype=np.uint8)
        seen[:32, :32, 0] = seen[:32, 32:, 1] = seen[32:, :32, 2] = 255
        image, exif = Image.fromarray(seen), Image.Exif()
        back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that undoes each orientation
        exif[0x0112] = orientation
        path = tmp_path / "image.jpg"
        stored = image.transpose(Image.Transpose(back[orientation])) if orientation > 1 else image
        stored.save(path, exif=exif, quality=95, subsampling=0)
        pixels = decode_image(path, 4)
        np.testing.assert_allclose(pixels[::3, ::3], seen[::63, ::63], atol=12)

    def test_cmyk_jpeg_is_no_negative(self, tmp_path):
        """Adobe's files hold inverted values, and say so."""
        path = tmp_path / "image.jpg"
        Image.new("CMYK", (32, 32), (0, 0, 0, 255)).save(path, quality=100)
        assert b"Adobe" in path.read_bytes()
        np.testing.assert_allclose(self.colour(path), [0, 0, 0], atol=3)

    def test_16_bit_colours_are_scaled_to_8_bits(self, tmp_path):
        (original,) = (file for file in originals() if file.name == "16 bits per colour")
        (plain,) = (file for file in originals() if (file.name, file.suffix) == ("plain", "png"))
        path, other = tmp_path / "image.png", tmp_path / "plain.png"
        path.write_bytes(original.data)
        other.write_bytes(plain.data)
        assert np.array_equal(decode_image(path, 20), decode_image(other, 20))

    def test_interlaced_png(self, tmp_path):
        (original,) = (file for file in originals() if file.name == "interlaced")
        (plain,) = (file for file in originals() if (file.name, file.suffix) == ("plain", "png"))
        path, other = tmp_path / "image.png", tmp_path / "plain.png"
        path.write_bytes(original.data)
        other.write_bytes(plain.data)
        assert np.array_equal(decode_image(path, 20), decode_image(other, 20))

    def test_the_shape_is_squashed(self, tmp_path):
        path = tmp_path / "image.png"
        halves = np.zeros((10, 40, 3), dtype=np.uint8)
        halves[:, 20:] = 255
        Image.fromarray(halves).save(path)
        pixels = decode_image(path, SIZE)
        assert (pixels[:, :3] == 0).all()
        assert (pixels[:, 5:] == 255).all()


class TestThumbnails:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [((640, 480), (64, 48)), ((300, 600), (32, 64)), ((20, 10), (64, 32)), ((900, 2), (64, 1))],
    )
    def test_the_longer_side_is_as_long_as_wanted(self, tmp_path, size, expected):
        path = tmp_path / "image.jpg"
        Image.new("RGB", size, (200, 10, 10)).save(path)
        thumbnail = read_thumbnail(path, 64)
        assert thumbnail.size == expected
        assert np.abs(np.asarray(thumbnail, int) - (200, 10, 10)).max() < 6

    def test_it_is_upright(self, tmp_path):
        image = Image.new("RGB", (80, 40))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "turned.jpg", exif=exif)
        assert read_thumbnail(tmp_path / "turned.jpg", 40).size == (20, 40)

    def test_what_cannot_be_read_is_said(self, tmp_path):
        with pytest.raises(ImageError, match="there is no such file"):
            read_thumbnail(tmp_path / "none.jpg", 40)


class TestUnreadable:
    @pytest.fixture
    def photo(self, tmp_path: Path) -> Path:
        path = tmp_path / "photo.jpg"
        Image.effect_noise((64, 64), 80).save(path)
        return path

    def refused(self, path: Path, reason: str) -> None:
        with pytest.raises(ImageError) as caught:
            decode_image(path, SIZE)
        assert caught.value.path == path
        assert re.fullmatch(reason, caught.value.reason), caught.value.reason
        assert str(caught.value) == f"{path}: {caught.value.reason}"

    @pytest.mark.parametrize("part", [0.9, 0.5, 0.1])
    def test_truncated(self, photo, part):
        photo.write_bytes(photo.read_bytes()[: int(part * photo.stat().st_size)])
        self.refused(photo, r"cannot be decoded \(.*[Tt]runcated.*\)")

    def test_empty(self, photo):
        photo.write_bytes(b"")
        self.refused(photo, r"the file is empty \(0 bytes\)")

    def test_another_kind_of_file(self, photo):
        photo.write_text("<html>404 Not Found</html>")
        self.refused(photo, "not an image in a format that Pillow can read")

    def test_missing(self, photo):
        self.refused(photo.parent / "other.jpg", "there is no such file")
        self.refused(photo / "other.jpg", "there is no such file")

    def test_folder(self, photo):
        self.refused(photo.parent, "a folder, not an image file")

    def test_a_pipe_is_not_waited_for(self, photo):
        photo.unlink()
        os.mkfifo(photo)
        self.refused(photo, "not a regular file")

    @pytest.mark.parametrize("closed", ["file", "folder"])
    def test_without_permission(self, closed, as_nobody):
        folder = as_nobody / "photos"
        folder.mkdir()
        path = folder / "photo.png"
        Image.new("RGB", (4, 4)).save(path)
        (path if closed == "file" else folder).chmod(0)
        try:
            self.refused(path, "there is no permission to read it")
        finally:
            folder.chmod(0o700)

    def test_values_without_a_range(self, photo):
        Image.new("F", (4, 4), 0.5).save(photo, format="TIFF")
        self.refused(photo, r"cannot be decoded \(its 32-bit values have no defined range: convert.*\)")

    def test_decompression_bomb(self, photo, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        self.refused(photo, r"refused, too many pixels \(Image size \(4096 pixels\) exceeds limit of 2000 pixels.*\)")

    def test_too_large_for_the_memory(self, photo, monkeypatch):
        def fail(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(Image.Image, "resize", fail)
        self.refused(photo, "its pixels need more memory than there is")
