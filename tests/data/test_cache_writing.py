"""The image cache on disks that are full, closed or broken, and what it says meanwhile."""

from __future__ import annotations

import logging
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tailwise.data.pixels import image_cache as cache_module
from tailwise.data.pixels.image_cache import build_cache
from tailwise.errors import InputError
from tests.data.test_cache import build, names


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{grey}.png" for grey in range(10)]
    for grey, path in enumerate(paths):
        Image.new("L", (12, 12), grey).save(path)
    return paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_too_little_space_is_found_before_decoding(images, folder, monkeypatch):
    full = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(InputError, match=r"needs 0.000 GB and 0.000 GB are free; free some space"):
        build(images, folder)
    assert names(folder) == []


def test_a_write_that_fails_leaves_nothing(images, folder):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            InputError, match=r"cannot be written \(File too large\); it needs 0.00 GB: free some space"
        ):
            build(images, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(folder) == []


def test_a_disk_that_fills_up_leaves_nothing_and_is_told_what_it_takes(images, folder, monkeypatch):
    @contextmanager
    def on_a_full_disk(path: Path) -> Iterator[Path]:
        full = path.with_suffix(".full")
        full.symlink_to("/dev/full")
        yield full
        raise AssertionError("the write went well")

    monkeypatch.setattr(cache_module, "replacing", on_a_full_disk)
    with pytest.raises(InputError, match=r"\(No space left on device\); it needs 0.03 GB: free some space"):
        build_cache(images, 1024, folder, progress=False)
    assert [name for name in names(folder) if not name.endswith(".full")] == []


def test_a_folder_without_permission_is_named(as_nobody):
    image, folder = as_nobody / "image.png", as_nobody / "cache"
    Image.new("RGB", (4, 4)).save(image)
    folder.mkdir(mode=0o500)
    with pytest.raises(InputError, match=r"/cache: .* \(Permission denied\); choose another folder"):
        build([image], folder)
    folder.chmod(0o700)
    built = build([image], folder)
    folder.chmod(0o500)
    assert build([image], folder).path == built.path  # reading needs no permission to write


def test_a_folder_that_cannot_be_made_is_named(images, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match=r"taken: the image cache cannot be written"):
        build(images, tmp_path / "taken")


def test_off_a_terminal_progress_is_plain_log_lines(images, folder, caplog, capfd):
    with caplog.at_level(logging.INFO, logger="tailwise"):
        build(images, folder, progress=True)
    assert "decoding 10 images to 8 x 8 pixels" in caplog.messages[0]
    assert "decoded 10 images" in caplog.messages[1]
    assert capfd.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar_if_wanted(images, folder, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    build(images, folder, progress=True)
    assert "decoding images" in capsys.readouterr().err
    build(images[1:], folder, progress=False)
    assert capsys.readouterr().err == ""
