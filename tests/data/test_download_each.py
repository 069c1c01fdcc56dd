"""Many small files over several connections, of which some break."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from tailwise.data.download import download_each
from tailwise.errors import InputError
from tests.data.file_server import Fault, FileServer


def small_files(server: FileServer, number: int = 20) -> dict[str, bytes]:
    content = {f"/images/{index}": random.Random(index).randbytes(2000) for index in range(number)}
    server.files |= content
    return content


def test_many_files(server: FileServer, tmp_path: Path) -> None:
    content = small_files(server)
    server.faults = {
        "/images/3": [Fault(cut_after=900), Fault(status=500)],
        "/images/7": [Fault(content=b"another")],
        "/images/11": [Fault(cut_after=0)],
    }
    seen: list[int] = []

    def problem(index: int, received: bytes) -> str | None:
        seen.append(index)
        return None if len(received) == 2000 else f"only {len(received)} bytes"

    paths = [tmp_path / path.strip("/") for path in content]
    urls = [server.url + path for path in content]
    download_each(urls, paths, problem, connections=3, progress=False, wait=0)
    assert [path.read_bytes() for path in paths] == list(content.values())
    assert sorted(seen) == sorted([*range(20), 7])
    assert len(server.requests) == 20 + 4
    assert len(list((tmp_path / "images").iterdir())) == 20


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(status=404), "answers 404 Not Found; check the address"),
        (Fault(status=500), r"answers 500 .* \(2 attempts\)"),
        (Fault(content=b"<html>log in</html>"), r"/images/4: not what was wanted \(2 attempts\)"),
    ],
)
def test_one_bad_file_of_many_stops_the_others(server: FileServer, tmp_path: Path, fault: Fault, message: str) -> None:
    content = small_files(server, 200)
    server.faults["/images/4"] = [fault] * 2
    with pytest.raises(InputError, match=message) as caught:
        download_each(
            [server.url + path for path in content],
            [tmp_path / path.strip("/") for path in content],
            lambda _, received: None if len(received) == 2000 else "not what was wanted",
            connections=2,
            progress=False,
            attempts=2,
            wait=0,
        )
    assert f"put it at {tmp_path / 'images/4'}" in str(caught.value)
    assert len(server.requests) < 100
    assert all(path.stat().st_size == 2000 for path in (tmp_path / "images").iterdir())


def test_a_full_disk_among_many_files(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = small_files(server)
    written = Path.write_bytes

    def full(path: Path, received: bytes) -> int:
        if received == content["/images/5"]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return written(path, received)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); make room"):
        download_each(
            [server.url + path for path in content],
            [tmp_path / path.strip("/") for path in content],
            lambda *_: None,
            connections=1,
            progress=False,
        )
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == list("01234")
