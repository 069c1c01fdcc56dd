"""Downloads from a server on this machine that cuts connections, changes its files, lies and fails."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from tailwise.data.cache_folder import require_space
from tailwise.data.download import download
from tailwise.errors import InputError
from tests.data.file_server import Fault, FileServer

CONTENT = random.Random(0).randbytes(1_000_000)
OTHER = random.Random(1).randbytes(1_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/data/file.bin"


@pytest.fixture
def served(server: FileServer) -> FileServer:
    server.files[PATH] = CONTENT
    return server


def fetch(server: FileServer, target: Path, *, sha256: str = SHA256, **options: Any) -> Path:
    return download([server.url + PATH], target, sha256=sha256, progress=False, wait=0, **options)


def starts(server: FileServer) -> list[int]:
    """Where each request began."""
    return [int(re.findall(r"\d+", wanted)[0]) if wanted else 0 for _, wanted in server.requests]


def test_a_file_comes_once(served: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder" / "file.bin"
    assert fetch(served, target) == target
    assert target.read_bytes() == CONTENT
    fetch(served, target)
    assert len(served.requests) == 1
    assert {path.name for path in target.parent.iterdir()} == {"file.bin", ".file.bin.lock"}


def test_cut_connections_are_resumed(served: FileServer, tmp_path: Path) -> None:
    served.faults[PATH] = [Fault(cut_after=300_000), Fault(cut_after=300_000), Fault(status=503), Fault(cut_after=0)]
    assert fetch(served, tmp_path / "file.bin", attempts=4).read_bytes() == CONTENT
    first, second, *later = starts(served)
    assert first == 0
    assert 200_000 < second <= 300_000
    assert later == [later[0]] * 3
    assert 400_000 < later[0] <= 600_000


def test_a_server_without_ranges_starts_over(served: FileServer, tmp_path: Path) -> None:
    served.ranges = False
    served.faults[PATH] = [Fault(cut_after=300_000), Fault(cut_after=900_000)]
    assert fetch(served, tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(served.requests) == 3


def test_giving_up_when_nothing_more_comes(served: FileServer, tmp_path: Path) -> None:
    """A server without ranges that always cuts brings bytes each time, and yet gets nowhere."""
    served.ranges = False
    served.faults[PATH] = [Fault(cut_after=300_000)] * 20
    with pytest.raises(InputError, match=r"the connection failed \(.*\) \(3 attempts\); try again later, or get"):
        fetch(served, tmp_path / "file.bin", attempts=3)
    assert len(served.requests) == 3
    assert not (tmp_path / "file.bin").exists()


def test_a_part_from_another_place_than_asked_for_is_not_taken(served: FileServer, tmp_path: Path) -> None:
    served.faults[PATH] = [Fault(cut_after=300_000), Fault(part_from=1000)]
    assert fetch(served, tmp_path / "file.bin").read_bytes() == CONTENT
    assert starts(served)[2] == 0


def test_a_file_changed_in_between_is_not_mixed(served: FileServer, tmp_path: Path) -> None:
    """The checksum tells; the download starts again."""
    served.faults[PATH] = [Fault(cut_after=300_000)]
    with pytest.raises(InputError):
        fetch(served, tmp_path / "file.bin", attempts=1)
    served.files[PATH] = OTHER
    assert fetch(served, tmp_path / "file.bin", sha256=hashlib.sha256(OTHER).hexdigest()).read_bytes() == OTHER
    assert 0 < starts(served)[1] <= 300_000
    assert starts(served)[2:] == [0]


def test_a_stale_part_file_is_not_trusted(served: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(OTHER[:500_000])
    assert fetch(served, tmp_path / "file.bin").read_bytes() == CONTENT
    assert starts(served) == [500_000, 0]
    assert not list(tmp_path.glob("*.part*"))


def interrupted(server: FileServer, target: Path) -> Path:
    """Leave the beginning of the file; returns its path."""
    server.faults[PATH] = [Fault(cut_after=300_000)]
    with pytest.raises(InputError):
        fetch(server, target, attempts=1)
    return target.with_name("file.bin.part")


def test_a_part_file_that_is_whole_is_taken(served: FileServer, tmp_path: Path) -> None:
    """The process died between the last byte and the checksum."""
    interrupted(served, tmp_path / "file.bin").write_bytes(CONTENT)
    assert fetch(served, tmp_path / "file.bin").read_bytes() == CONTENT
    assert starts(served) == [0, len(CONTENT)]


def test_a_part_file_that_is_too_long_starts_over(served: FileServer, tmp_path: Path) -> None:
    interrupted(served, tmp_path / "file.bin").write_bytes(CONTENT + b"more")
    assert fetch(served, tmp_path / "file.bin").read_bytes() == CONTENT
    assert starts(served)[1:] == [len(CONTENT) + 4, 0]


def test_a_wrong_checksum_removes_the_part_file_and_says_what_came(served: FileServer, tmp_path: Path) -> None:
    served.faults[PATH] = [Fault(content=OTHER)]
    with pytest.raises(InputError) as caught:
        fetch(served, tmp_path / "file.bin")
    message = str(caught.value)
    for part in (served.url + PATH, SHA256, hashlib.sha256(OTHER).hexdigest(), "Try again", "check the address"):
        assert part in message
    assert [path.name for path in tmp_path.iterdir()] == [".file.bin.lock"]
    assert fetch(served, tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_server_that_does_not_tell_the_length(served: FileServer, tmp_path: Path) -> None:
    served.tells_length = False
    assert fetch(served, tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_file_there_is_used_if_it_is_the_right_one(served: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(CONTENT)
    fetch(served, target)
    target.write_bytes(OTHER)
    with pytest.raises(InputError, match=f"is another file than expected .* instead of {SHA256}\\); remove it"):
        fetch(served, target)
    assert target.read_bytes() == OTHER
    assert served.requests == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_errors_that_stay_are_not_repeated(served: FileServer, tmp_path: Path, status: int) -> None:
    served.faults[PATH] = [Fault(status=status)]
    target = tmp_path / "file.bin"
    with pytest.raises(InputError) as caught:
        fetch(served, target)
    assert f"{served.url}{PATH}: the server answers {status} " in str(caught.value)
    assert str(caught.value).endswith(f"or get the file by other means and put it at {target}")
    assert len(served.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_errors_that_pass_are_repeated(served: FileServer, tmp_path: Path, status: int) -> None:
    served.faults[PATH] = [Fault(status=status)] * 4
    assert fetch(served, tmp_path / "file.bin", attempts=5).read_bytes() == CONTENT
    (tmp_path / "file.bin").unlink()
    served.faults[PATH] = [Fault(status=status)] * 4
    with pytest.raises(InputError, match=rf"answers {status} .*\(4 attempts\); try again later, or get the file"):
        fetch(served, tmp_path / "file.bin", attempts=4)


def test_pauses_grow(served: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    served.faults[PATH] = [Fault(status=500)] * 8
    download([served.url + PATH], tmp_path / "file.bin", sha256=SHA256, progress=False, attempts=9, wait=1.5)
    assert pauses == [1.5, 3, 6, 12, 24, 48, 60, 60]


def test_a_silent_server(served: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailwise.data.download._SECONDS_OF_SILENCE", 0.2)
    served.faults[PATH] = [Fault(stall_after=300_000), Fault(stall_after=0)]
    assert fetch(served, tmp_path / "file.bin").read_bytes() == CONTENT
    assert 200_000 < starts(served)[2] <= 300_000


def test_too_little_room_is_said_before_anything_is_stored(
    served: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 999_999

    def usage(folder: Path) -> Any:
        return NamedTuple("Usage", [("free", int)])(free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(InputError, match=r"file.bin needs 0.001 GB and 0.001 GB are free; make room, or choose"):
        fetch(served, tmp_path / "file.bin")
    part = tmp_path / "file.bin.part"
    assert part.stat().st_size == 0
    free = 1_000_000
    interrupted(served, tmp_path / "file.bin")
    free = len(CONTENT) - part.stat().st_size
    assert fetch(served, tmp_path / "file.bin").read_bytes() == CONTENT
    with pytest.raises(InputError, match="pictures needs"):
        require_space(tmp_path, free + 1, "pictures")


class FullDisk:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, content: bytes) -> int:
        taken = content[: self.room]
        self.room -= self.file.write(taken)
        if len(taken) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()


def test_a_disk_that_fills_up_keeps_what_has_come(
    served: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(path: Path, *args: Any, **options: Any) -> Any:
        file = opened(path, *args, **options)
        return FullDisk(file, 300_000) if path.name.endswith(".part") else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(
            InputError, match=r"No space left on device.*kept in file.bin.part: the same command resumes"
        ):
            fetch(served, tmp_path / "file.bin")
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:300_000]
    assert fetch(served, tmp_path / "file.bin").read_bytes() == CONTENT
    assert starts(served) == [0, 300_000]


def test_folders_that_cannot_be_written(served: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot be written \((File exists|Not a directory)\)"):
        fetch(served, tmp_path / "file" / "file.bin")


PROGRAM = (
    "import sys; from tailwise.data.download import download; download([sys.argv[1]], sys.argv[2], sha256=sys.argv[3])"
)


def start(server: FileServer, target: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, server.url + PATH, str(target), SHA256]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.01)


def test_a_killed_process_loses_next_to_nothing(served: FileServer, tmp_path: Path) -> None:
    served.faults[PATH] = [Fault(stall_after=300_000)]
    target, part = tmp_path / "file.bin", tmp_path / "file.bin.part"
    with start(served, target) as process:
        wait_for(lambda: part.exists() and part.stat().st_size > 250_000, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not target.exists()
    length = part.stat().st_size
    assert part.read_bytes() == CONTENT[:length]
    # The lock went with the process.
    assert fetch(served, target).read_bytes() == CONTENT
    assert starts(served) == [0, length]


def test_two_processes_make_one_request(served: FileServer, tmp_path: Path) -> None:
    served.faults[PATH] = [Fault(stall_after=300_000)]
    target = tmp_path / "file.bin"
    with start(served, target) as process:
        wait_for(lambda: served.requests, process)
        waiting = threading.Thread(target=fetch, args=(served, target))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert len(served.requests) == 1
        served.released.set()
        waiting.join()
        assert process.wait() == 0, process.stderr.read() if process.stderr else ""
    assert target.read_bytes() == CONTENT
    assert len(served.requests) == 2
    assert starts(served)[1] > 0


def test_the_server_of_these_tests_serves_parts(served: FileServer) -> None:
    answer = requests.get(served.url + PATH, headers={"Range": "bytes=999990-"}, timeout=5)
    assert (answer.status_code, answer.content) == (206, CONTENT[-10:])


def test_a_mirror_is_asked_when_a_server_has_another_file(served: FileServer, tmp_path: Path) -> None:
    served.files["/other"] = OTHER
    urls = [f"{served.url}/gone", f"{served.url}/other", served.url + PATH]
    assert download(urls, tmp_path / "file.bin", sha256=SHA256, progress=False).read_bytes() == CONTENT
    assert [path for path, _ in served.requests] == ["/gone", "/other", PATH]
    assert {path.name for path in tmp_path.iterdir()} == {"file.bin", ".file.bin.lock"}


def test_a_file_is_as_readable_as_any_other(served: FileServer, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    assert fetch(served, tmp_path / "file.bin").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_progress_is_shown_on_a_terminal(
    served: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download([served.url + PATH], tmp_path / "file.bin", sha256=SHA256)
    assert "100%" in capsys.readouterr().err
    download([served.url + PATH], tmp_path / "quiet.bin", sha256=SHA256, progress=False)
    assert capsys.readouterr().err == ""


def test_folders_without_the_right_to_write(served: FileServer, as_nobody: Path) -> None:
    as_nobody.chmod(0o500)
    with pytest.raises(InputError, match=r"file.bin cannot be written \(Permission denied\); make room, or choose"):
        fetch(served, as_nobody / "file.bin")
    assert served.requests == []
