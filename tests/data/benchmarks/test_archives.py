"""Extraction of files from archives: complete files only, and none outside the folder."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tailwise.data.benchmarks.store import extract
from tailwise.errors import InputError

FILES = {
    "set/images/1.jpg": b"first" * 1000,
    "set/images/2.jpg": b"second",
    "set/images/empty": b"",
    "set/list.txt": b"1\n2\n",
    "set/images/Ünïcode ' name": b"x",
}


def tar(path: Path, members: dict[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        archive.addfile(folder_info("set"))
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o4777
            archive.addfile(info, io.BytesIO(content))
    return path


def folder_info(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("set")
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def archives(folder: Path, members: dict[str, bytes]) -> list[Path]:
    return [
        tar(folder / "a.tar", members),
        tar(folder / "a.tar.gz", members, "w:gz"),
        zipped(folder / "a.zip", members),
    ]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_what_is_wanted_is_taken_and_nothing_else(tmp_path: Path) -> None:
    names = [name for name in FILES if name != "set/list.txt"]
    for archive in archives(tmp_path, FILES):
        target = tmp_path / f"{archive.name} content"
        extract(archive, [*names, names[0]], target, progress=False)
        assert tree(target) == {name: FILES[name] for name in names}
        extract(archive, [], target, progress=False)
        assert {path.name for path in target.iterdir()} == {"set", f".{archive.name}.lock"}
        mode = (target / "set/images/1.jpg").stat().st_mode
        assert not mode & (stat.S_ISUID | stat.S_IXUSR | stat.S_IWOTH)


def test_files_that_are_there_are_left_alone(tmp_path: Path) -> None:
    for archive in archives(tmp_path, FILES):
        target = tmp_path / f"{archive.name} content"
        extract(archive, FILES, target, progress=False)
        (target / "set/images/1.jpg").write_bytes(b"short")
        (target / "set/images/2.jpg").write_bytes(b"SECOND")
        extract(archive, FILES, target, progress=False)
        assert tree(target) == FILES | {"set/images/2.jpg": b"SECOND"}


def test_links_that_the_user_made_are_followed(tmp_path: Path) -> None:
    elsewhere, target = tmp_path / "elsewhere", tmp_path / "target"
    elsewhere.mkdir()
    target.mkdir()
    (target / "set").symlink_to(elsewhere)
    extract(tar(tmp_path / "a.tar", FILES), FILES, target, progress=False)
    assert (elsewhere / "list.txt").read_bytes() == FILES["set/list.txt"]


@pytest.mark.parametrize(
    "name", ["../out", "set/../../out", "/tmp/out", "set/..", "..\\out", "\\out", "C:\\out", "C:out", "//host/out"]
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    target = tmp_path / "inner" / "target"
    for archive in archives(tmp_path, {**FILES, name: b"evil"}):
        with pytest.raises(InputError, match=r"refused, the name .* leads out of the folder|does not hold //host/out"):
            extract(archive, [*FILES, name], target, progress=False)
        assert tree(tmp_path / "inner") == {}


def test_unsafe_names_that_are_not_wanted_do_not_matter(tmp_path: Path) -> None:
    for archive in archives(tmp_path, {**FILES, "../out": b"evil"}):
        extract(archive, ["set/list.txt"], tmp_path / "target", progress=False)
        assert tree(tmp_path / "target") == {"set/list.txt": FILES["set/list.txt"]}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("set/images/1.jpg")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(info)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zip_archive:
        link = zipfile.ZipInfo("set/images/1.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        zip_archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match=r"'set/images/1.jpg' is a (link to an absolute path|special file)"):
        extract(tmp_path / "a.tar", ["set/images/1.jpg"], tmp_path / "target", progress=False)
    assert tree(tmp_path / "target") == {}
    # zipfile makes no links.
    extract(tmp_path / "a.zip", ["set/images/1.jpg"], tmp_path / "target", progress=False)
    assert not (tmp_path / "target/set/images/1.jpg").is_symlink()
    assert tree(tmp_path / "target") == {"set/images/1.jpg": b"/etc/passwd"}


def test_a_file_through_a_link_of_the_archive_stays_inside(tmp_path: Path) -> None:
    """A link that is not wanted is not made, so that nothing can be written through it."""
    link = tarfile.TarInfo("set")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(link)
        info = tarfile.TarInfo("set/list.txt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"evil"))
    extract(tmp_path / "a.tar", ["set/list.txt"], tmp_path / "target", progress=False)
    assert tree(tmp_path / "outside") == {}
    assert tree(tmp_path / "target") == {"set/list.txt": b"evil"}


def test_damaged_archives(tmp_path: Path) -> None:
    # Incompressible, so that cutting the archive cuts the content.
    noise = {f"set/{index}": np.random.default_rng(index).bytes(30_000) for index in range(3)}
    for archive in archives(tmp_path, noise):
        whole = archive.read_bytes()
        archive.write_bytes(whole[:40_000])
        with pytest.raises(
            InputError, match=r"cannot be read .*: it is no zip or tar archive, or a damaged one; remove"
        ):
            extract(archive, noise, tmp_path / "target", progress=False)
        assert not list((tmp_path / "target").glob("*.extracting"))
        archive.write_bytes(whole)
        extract(archive, noise, tmp_path / "target", progress=False)
        assert tree(tmp_path / "target") == noise
        shutil.rmtree(tmp_path / "target")
    flipped = bytearray((tmp_path / "a.zip").read_bytes())
    flipped[20_000] ^= 1
    (tmp_path / "a.zip").write_bytes(flipped)
    with pytest.raises(InputError, match=r"Bad CRC-32|invalid"):
        extract(tmp_path / "a.zip", noise, tmp_path / "target", progress=False)
    assert tree(tmp_path / "target") == {}


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\0" * 100])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(InputError, match=r"a.tar cannot be read"):
        extract(tmp_path / "a.tar", FILES, tmp_path / "target", progress=False)


def test_archives_that_need_a_password(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", FILES)
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(signature)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(signature, place + 1)
    archive.write_bytes(content)
    with pytest.raises(InputError, match="encrypted"):
        extract(archive, FILES, tmp_path / "target", progress=False)


def test_missing_archives(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing.tar cannot be extracted .*No such file"):
        extract(tmp_path / "nothing.tar", FILES, tmp_path / "target", progress=False)


def test_room_is_checked_for_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 5000
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: NamedTuple("Usage", [("free", int)])(free))
    for archive in archives(tmp_path, FILES):
        with pytest.raises(InputError, match=r"the needed part of .* needs"):
            extract(archive, FILES, tmp_path / "target", progress=False)
        assert tree(tmp_path / "target") == {}
        extract(archive, ["set/images/2.jpg"], tmp_path / "target", progress=False)
        shutil.rmtree(tmp_path / "target")


def test_a_full_disk_leaves_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tarfile.copyfileobj

    def full(source: Any, target: Any, length: int, *options: Any) -> None:
        if length == len(FILES["set/images/2.jpg"]):
            target.write(b"sec")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(source, target, length, *options)

    archive = tar(tmp_path / "a.tar", FILES)
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "copyfileobj", full)
        with pytest.raises(InputError, match=r"No space left on device.*The same command resumes there"):
            extract(archive, FILES, tmp_path / "target", progress=False)
    assert tree(tmp_path / "target") == {"set/images/1.jpg": FILES["set/images/1.jpg"]}
    extract(archive, FILES, tmp_path / "target", progress=False)
    assert tree(tmp_path / "target") == FILES
