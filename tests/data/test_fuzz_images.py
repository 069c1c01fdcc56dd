"""Thousands of damaged images: pixels or an error that names the file, and never another image's row."""

from __future__ import annotations

import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from tailwise.data.pixels.decode import ImageError, decode_image
from tailwise.data.pixels.image_cache import build_cache
from tests.data.fuzz_images import Plan, main, mutated, run
from tests.data.image_files import originals

JPEG_AND_PNG = Plan(seed=0, kinds=("jpg", "png"))


def test_two_thousand_damaged_files_are_decoded_or_refused():
    report = run(JPEG_AND_PNG, iter(range(2000)))
    assert report.failures == []
    assert report.files == 2000
    assert min(report.decoded, report.refused.total()) > 300


def test_no_image_comes_under_another_row(tmp_path):
    """Damaged files between whole ones: the whole keep their own pixels, and what cannot be read is listed."""
    whole = originals(JPEG_AND_PNG.kinds)
    paths: list[Path] = []
    for number in range(600):
        file = whole[number // 3 % len(whole)] if number % 3 == 0 else mutated(JPEG_AND_PNG, number)[0]
        paths.append(tmp_path / f"{number}.{file.suffix}")
        paths[-1].write_bytes(file.data)
    cache = build_cache(paths, 24, tmp_path / "cache", workers=2, on_error="skip", progress=False)
    skipped = [entry.index for entry in cache.skipped]
    assert sorted([*skipped, *cache.kept]) == list(range(600))
    assert not any(index % 3 == 0 for index in skipped)
    assert 50 < len(skipped) < 380
    for row, index in zip(cache.images, cache.kept, strict=True):
        assert np.array_equal(row, decoded(paths[index]))
    for entry in cache.skipped:
        assert entry.path == str(paths[entry.index])
        with pytest.raises(ImageError):
            decoded(paths[entry.index])


def decoded(path: Path) -> np.ndarray:
    with warnings.catch_warnings(action="ignore"):
        return decode_image(path, 24)


def misbehave(path: Path, size: int) -> np.ndarray:
    """A decoder with every fault that there is to find, one after the other."""
    number = int(path.stem)
    if number == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif number == 1:
        time.sleep(60)
    elif number == 2:
        raise KeyError("surprise")
    elif number == 3:
        raise ImageError(Path("another file"), "is broken")
    elif number == 4:
        return np.zeros((size, size), dtype=np.uint8)
    elif number == 5:
        return np.zeros((size, size, 3))
    elif number == 6:
        np.ones(200 * 2**20, dtype=np.uint8)
    return np.zeros((size, size, 3), dtype=np.uint8)


def test_every_fault_is_found():
    plan = Plan(kinds=("png",), seconds=2, megabytes=100, decode=misbehave)
    report = run(plan, iter([7, 0, 1, 2, 3, 4, 5, 6]), workers=1)
    faults = (
        "kills the process, exit code -11",
        "takes longer than 2 s",
        "KeyError",
        "does not name the file",
        "gives <class 'numpy.ndarray'>",
        "gives <class 'numpy.ndarray'>",
        "MB",
    )
    assert report.decoded == 1
    assert len(report.failures) == len(faults)
    for number, (failure, fault) in enumerate(zip(report.failures, faults, strict=True)):
        assert failure.startswith(f"file {number} of seed 0 (")
        assert fault in failure


def test_a_file_can_be_written_again(tmp_path, capsys):
    assert main(["--first", "5", "--count", "2", "--seed", "3", "--workers", "1", "--keep", str(tmp_path)]) == 0
    for number in (5, 6):
        file, _ = mutated(Plan(seed=3), number)
        assert (tmp_path / f"{number}.{file.suffix}").read_bytes() == file.data
    assert capsys.readouterr().out.startswith("2 files: ")


@pytest.mark.parametrize("original", originals(), ids=lambda original: f"{original.name} {original.suffix}")
def test_the_files_to_start_from_are_whole(original, tmp_path):
    path = tmp_path / f"file.{original.suffix}"
    path.write_bytes(original.data)
    assert decode_image(path, 16).std() > 5
