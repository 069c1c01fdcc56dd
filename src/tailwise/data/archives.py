"""Taking what is needed out of tar and zip archives, and nothing else."""

from __future__ import annotations

import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import Progress

from tailwise.data.cache_folder import alone, require_space
from tailwise.errors import InputError


@dataclass(frozen=True)
class _Member:
    """A file in an archive: its name, its length in bytes, whether it is a plain file, and how to open it."""

    name: str
    size: int
    is_plain: bool
    open: Callable[[], IO[bytes] | None]


def extract(
    archive: str | Path, wanted: Callable[[str], bool], folder: str | Path, *, progress: bool = True
) -> list[str]:
    """Take files out of a zip archive or a tar archive, compressed or not.

    Each file is written under a temporary name and then put in its place, so that an interrupted extraction leaves
    whole files only, and the next one goes on from there: a file that is there with the right length is left alone.
    Nothing but the content of plain files is taken: no links, owners or permissions.

    Args:
        archive: the archive.
        wanted: tells from the name of a file in the archive, with forward slashes, whether to take it.
        folder: where the names in the archive start; made if absent.
        progress: show a bar with the time left, if standard error is a terminal.

    Returns:
        The names of the files wanted, in the order of the archive; all of them are in ``folder`` now.

    Raises:
        InputError: it is no such archive, or a damaged one; something wanted is no plain file, or its name leads out
            of ``folder``; or there is no room.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / archive.name), _opened(archive) as members:
            chosen = [member for member in members if wanted(member.name)]
            for member in chosen:
                _require_harmless(archive, member)
            missing = [member for member in chosen if not _is_there(folder / member.name, member.size)]
            require_space(folder, sum(member.size for member in missing), f"what is needed of {archive.name}")
            _write(missing, folder, folder / f".{archive.name}.extracting", progress)
    # zipfile reports encryption and unknown methods as RuntimeError.
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        # tarfile lists on further lines how each kind of compression failed.
        reason = (str(error).splitlines() or ["unexpected end"])[0].rstrip(":")
        raise InputError(
            f"{archive} cannot be read ({reason}): it is no zip or tar archive, or a damaged one; remove it and get it "
            "again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{archive} cannot be extracted into {folder} ({error.strerror or error}); make room, or choose another "
            "folder. The same command goes on from there"
        ) from error
    return [member.name for member in chosen]


@contextmanager
def _opened(archive: Path) -> Iterator[list[_Member]]:
    """Everything in an archive but folders."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield [
                _Member(info.filename, info.file_size, _is_plain(info), partial(zipped.open, info))
                for info in zipped.infolist()
                if not info.is_dir()
            ]
    else:
        with tarfile.open(archive) as tarred:
            yield [
                _Member(info.name, info.size, info.isreg(), partial(tarred.extractfile, info))
                for info in tarred
                if not info.isdir()
            ]


def _is_plain(info: zipfile.ZipInfo) -> bool:
    # The upper half holds the mode where the archive was made on Unix, else nothing.
    mode = info.external_attr >> 16
    return stat.S_IFMT(mode) in (0, stat.S_IFREG)


def _require_harmless(archive: Path, member: _Member) -> None:
    parts = re.split(r"[/\\]", member.name)
    if ".." in parts or parts[0] == "" or ":" in parts[0] or "\0" in member.name:
        raise InputError(f"{archive}: refused, the name {member.name!r} leads out of the folder to extract into")
    if not member.is_plain:
        raise InputError(f"{archive}: refused, {member.name!r} is a link or a device where a plain file is expected")


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write(members: Sequence[_Member], folder: Path, temporary: Path, progress: bool) -> None:
    console = Console(stderr=True)
    try:
        with Progress(console=console, disable=not (progress and console.is_terminal)) as bar:
            for member in bar.track(members, description="extracting"):
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                content = member.open()
                assert content is not None, "a plain file has content"
                with content, temporary.open("wb") as file:
                    shutil.copyfileobj(content, file)
                if not _is_there(temporary, member.size):
                    raise EOFError(f"{member.name} ends before its {member.size} bytes")
                temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
