"""Files that are written whole or not at all, by writers that are killed and by several at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tailwise import files
from tailwise.files import hold, replacing, unused

WRITER = """
import sys
from tailwise.files import hold, replacing
if sys.argv[1] == "write":
    with replacing(sys.argv[2]) as temporary:
        temporary.write_text("half")
        print(temporary.name, flush=True)
        sys.stdin.readline()
else:
    handle = hold(__import__("pathlib").Path(sys.argv[2]))
    print(handle is not None, flush=True)
    sys.stdin.readline()
"""
Start = Callable[[str, Path], tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that writes or holds a file, and gives its first line when it is in the middle of that."""
    started: list[subprocess.Popen[str]] = []

    def start_one(action: str, path: Path) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-c", WRITER, action, str(path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_the_next_writer_takes_over_what_a_killed_one_left(start: Start, tmp_path: Path) -> None:
    target, other = tmp_path / "labels.csv", tmp_path / ".labels.csv.writing.txt"
    target.write_text("whole")
    other.write_text("of somebody else")
    process, name = start("write", target)
    process.kill()
    process.wait()
    assert (tmp_path / name).read_text() == "half"
    assert target.read_text() == "whole"
    write(target, "w")
    assert target.read_text() == "w"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([other.name, "labels.csv"])


def test_writers_that_are_alive_do_not_meet(start: Start, tmp_path: Path) -> None:
    target = tmp_path / "labels.csv"
    process, name = start("write", target)
    write(target, "whole")
    assert (tmp_path / name).read_text() == "half"
    process.communicate("\n")
    assert process.returncode == 0
    assert target.read_text() == "half"
    assert list(tmp_path.iterdir()) == [target]


def test_one_process_may_write_a_file_twice_at_once(tmp_path: Path) -> None:
    target = tmp_path / "labels.csv"
    with replacing(target) as outer:
        outer.write_text("outer")
        write(target, "inner")
        assert target.read_text() == "inner"
    assert target.read_text() == "outer"
    assert list(tmp_path.iterdir()) == [target]


def test_a_writer_that_is_done_leaves_the_next_ones_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the temporary file is free as soon as it has become the target."""
    target = tmp_path / "labels.csv"
    started: list[Path] = []

    def replace(path: Path, to: Path) -> None:
        path.rename(to)
        path.write_text("of the next writer")
        started.append(path)

    monkeypatch.setattr(Path, "replace", replace)
    write(target, "whole")
    assert [path.read_text() for path in started] == ["of the next writer"]
    assert target.read_text() == "whole"


def test_a_link_where_the_temporary_file_goes_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (tmp_path / ".a.csv.writing.csv").symlink_to(precious)
    write(tmp_path / "a.csv", "new")
    assert precious.read_text() == "precious"
    assert (tmp_path / "a.csv").read_text() == "new"
    assert not (tmp_path / "a.csv").is_symlink()


def test_where_files_cannot_be_locked_they_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    write(tmp_path / "a.csv", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert hold(tmp_path / "a.csv") is None
    with unused(tmp_path / "a.csv") as is_unused:
        assert not is_unused


def test_a_file_is_in_use_until_its_holder_ends_however_it_ends(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "pixels.bin"
    path.write_text("pixels")
    process, said = start("hold", path)
    assert said == "True"
    with unused(path) as is_unused:
        assert not is_unused
    process.kill()
    process.wait()
    with unused(path) as is_unused:
        assert is_unused
    handle = hold(path)
    assert handle is not None
    with unused(path) as is_unused:
        assert not is_unused
    os.close(handle)
    with pytest.raises(FileNotFoundError):
        hold(tmp_path / "gone")
