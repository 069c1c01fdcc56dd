"""One image cache wanted by several processes: one decodes, the others wait, and a killed one does no harm."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import numpy as np
import pytest
from PIL import Image

from tailwise.data.cache_folder import Entry, remove
from tailwise.data.pixels import image_cache as cache_module
from tailwise.data.pixels.image_cache import build_cache
from tailwise.files import hold

COUNT, SIZE = 24, 16

BUILDER = textwrap.dedent("""
    import logging, sys, time
    from pathlib import Path
    from tailwise.data.pixels import image_cache as cache

    source, folder, seconds_per_image = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    decode, decoded = cache.decode_image, []

    def slowly(path, size):
        time.sleep(seconds_per_image)
        decoded.append(path)
        if len(decoded) == 6:
            print("halfway", flush=True)
        return decode(path, size)

    cache.decode_image = slowly
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    print("ready", flush=True)
    sys.stdin.readline()
    built = cache.build_cache(sorted(source.glob("*.png")), int(sys.argv[4]), folder, workers=1, progress=False)
    assert built.damaged() == [], built.damaged()
    print(f"decoded={len(decoded)} name={built.path.name}", flush=True)
""")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(COUNT):
        pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed:02}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def start(source: Path, folder: Path) -> Iterator[Start]:
    """Starts a process that builds the cache when told to."""
    started: list[subprocess.Popen[str]] = []

    def start_one(seconds_per_image: float = 0.02, size: int = SIZE) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", BUILDER, source, folder, str(seconds_per_image), str(size)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def go(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        read_until(process, "ready")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def read_until(process: subprocess.Popen[str], start: str) -> list[str]:
    """Lines up to the one that starts so; the test fails if the process ends without it."""
    assert process.stdout is not None
    lines: list[str] = []
    while not (lines and lines[-1].startswith(start)):
        line = process.stdout.readline()
        assert line, f"ended without {start!r}: {lines}"
        lines.append(line.strip())
    return lines


def assert_whole(source: Path, folder: Path) -> None:
    """The cache is there with the right images, was not built by this call, and nothing else lies beside it."""
    paths = sorted(source.glob("*.png"))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix != ".lock"}
    cache = build_cache(paths, SIZE, folder, progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in (cache.path, cache.path.with_suffix(".json"))}
    for row, path in zip(cache.images, paths, strict=True):
        with Image.open(path) as image:
            assert np.array_equal(row, np.asarray(image))


def test_one_decodes_and_the_others_wait(start: Start, source: Path, folder: Path) -> None:
    processes = [start() for _ in range(3)]
    go(*processes)
    said = ["\n".join(read_until(process, "decoded=")) for process in processes]
    assert sorted(f"decoding {COUNT} images" in text for text in said) == [False, False, True]
    assert sorted("waiting for another process that is writing" in text for text in said) == [
        False,
        True,
        True,
    ]
    assert all(process.wait(timeout=60) == 0 for process in processes)
    assert_whole(source, folder)


def test_who_waits_takes_over_from_one_that_is_killed(start: Start, source: Path, folder: Path) -> None:
    killed, waiting = start(0.05), start(0.0)
    go(killed)
    read_until(killed, "halfway")
    go(waiting)
    read_until(waiting, "waiting for another process")
    killed.kill()
    killed.wait()
    leftover = [path.name for path in folder.iterdir() if ".bin." in path.name]
    assert len(leftover) == 1
    assert read_until(waiting, "decoded=")[-1].startswith(f"decoded={COUNT} ")
    assert_whole(source, folder)


def test_leftovers_of_another_cache_are_removed(source: Path, folder: Path) -> None:
    folder.mkdir()
    leftovers = [folder / f".{64 * 'a'}.{kind}.k3v_x0q1.{kind}" for kind in ("bin", "json")]
    written = folder / f".{64 * 'b'}.bin.writing.bin"
    others = [folder / "notes.txt", folder / f"{64 * 'a'}.bin", folder / ".bin.backup.bin"]
    for path in (*leftovers, written, *others):
        path.write_text("")
    handle = hold(written)
    assert handle is not None
    build_cache(sorted(source.glob("*.png")), SIZE, folder, progress=False)
    os.close(handle)
    assert [path.exists() for path in leftovers] == [False, False]
    assert all(path.exists() for path in (written, *others))


def test_what_another_process_is_writing_is_left_alone_however_old(start: Start, source: Path, folder: Path) -> None:
    slow = start(0.05, size=5)
    go(slow)
    read_until(slow, "halfway")
    (written,) = (path for path in folder.iterdir() if ".bin." in path.name)
    os.utime(written, (time.time() - 7200,) * 2)
    key = written.name.split(".")[1]
    assert not remove(Entry("images", folder / f"{key}.bin", size=0, used=0.0))
    build_cache(sorted(source.glob("*.png")), SIZE, folder, progress=False)
    assert read_until(slow, "decoded=")[-1].startswith(f"decoded={COUNT} ")


@pytest.mark.parametrize(
    "error",
    [NotImplementedError("no flock"), OSError(errno.EOPNOTSUPP, ""), OSError(errno.ENOLCK, "")],
)
def test_a_file_system_without_locks_still_gets_its_cache(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    class Unsupported(filelock.FileLock):  # type: ignore[valid-type, misc]
        def acquire(self, *_: object, **__: object) -> None:
            raise error

    monkeypatch.setattr("tailwise.data.cache_folder.FileLock", Unsupported)
    cache = build_cache(sorted(source.glob("*.png")), SIZE, folder, progress=False)
    assert "cannot be locked" in caplog.text
    assert cache.damaged() == []
    assert sorted(path.suffix for path in folder.iterdir()) == [".bin", ".json"]


def test_a_lock_that_fails_otherwise_is_an_error(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def failing(_: Path) -> Iterator[None]:
        raise OSError(5, "Input/output error")
        yield

    monkeypatch.setattr(cache_module, "alone", failing)
    with pytest.raises(ValueError, match=r"cannot be written \(Input/output error\); choose another folder"):
        build_cache(sorted(source.glob("*.png")), SIZE, folder, progress=False)
