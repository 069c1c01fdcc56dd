"""The cache folder: its entries with their size and age, locks of their writers, and removal of unused entries.

A cache folder has a folder for each kind of entry: ``images`` (decoded pixels), ``features`` (of a frozen backbone) and
``hub`` (the images of Hugging Face data sets as files). An entry is named by 64 hexadecimal digits, and was made under
a lock, whose file is kept: nothing without such a file counts as an entry.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from tailwise.errors import InputError
from tailwise.files import unused

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
_logger = logging.getLogger(__name__)


def require_space(folder: Path, needed: int, what: str, way_out: str = "make room, or choose another folder") -> None:
    """Check that a folder has room for ``needed`` bytes.

    Args:
        folder: the folder.
        needed: bytes to be written.
        what: its name in the message.
        way_out: advice for the message.

    Raises:
        InputError: there is too little.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"{folder}: {what} needs {needed / 1e9:.3f} GB and {free / 1e9:.3f} GB are free; {way_out}")


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Keep other processes out of a block of code that writes ``path``; waits for them.

    Yields:
        Whether they are kept out; False, with a warning, where files cannot be locked.
    """
    lock = lock_of(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _logger.info("waiting for another process that is writing %s", path)
        lock.acquire(poll_interval=0.2)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        _logger.warning(
            "files in %s cannot be locked: do not start several processes at once that write the same there",
            path.parent,
        )
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def lock_of(path: Path) -> BaseFileLock:
    """The lock of the writers of ``path``, an empty file that is kept.

    The system releases the lock when its process ends, even if it is killed.
    """
    return FileLock(path.with_name(f".{path.name}.lock"))


LIMIT = "TAILWISE_CACHE_LIMIT"
"""The environment variable of the limit, in GB."""
DEFAULT_LIMIT_GB = 50.0
INDEX_FILE = "images.json"
"""The file that makes a folder of images a data set."""
NOTE_FILE = "about.json"
"""The description of a folder of images; other kinds of entries have a JSON file of their name."""

_KINDS = {"images": ".bin", "features": ".npy", "hub": ""}
_KEY = re.compile(r"[0-9a-f]{64}")
_LEFTOVER = re.compile(r"\.([0-9a-f]{64})\.(?:bin|npy|json)\..+")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """Something in a cache folder.

    Attributes:
        kind: "images", "features" or "hub".
        path: the file, or the folder of files.
        size: bytes.
        used: when it was last used, in seconds of the system's clock.
    """

    kind: str
    path: Path
    size: int
    used: float

    @property
    def key(self) -> str:
        """Its name."""
        return self.path.name.partition(".")[0]

    @property
    def note(self) -> Path:
        """The JSON file with its description."""
        return self.path / NOTE_FILE if self.kind == "hub" else self.path.with_suffix(".json")

    def describe(self) -> str:
        """Its contents in words; "" where they were not recorded."""
        try:
            return str(json.loads(self.note.read_text(encoding="utf-8"))["of"])
        except (OSError, ValueError, LookupError, TypeError):
            return ""


def cache_folder(named: str | None = None) -> Path:
    """The cache folder: as named, or $TAILWISE_CACHE, or the user's."""
    chosen = named or os.environ.get("TAILWISE_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tailwise"


def cache_limit() -> float:
    """The limit of a cache folder in bytes, from $TAILWISE_CACHE_LIMIT; infinite for "inf".

    Raises:
        InputError: the variable is not a number of GB.
    """
    given = os.environ.get(LIMIT) or str(DEFAULT_LIMIT_GB)
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = math.nan
    if not gigabytes >= 0:
        raise InputError(f"{LIMIT} must be a number of GB, 0 or more, or inf for no limit, got {given!r}")
    return gigabytes * 1e9


def find_entries(folder: Path) -> list[Entry]:
    """The entries of a cache folder, those first that were not used for the longest time."""
    found = [
        entry
        for kind, suffix in _KINDS.items()
        for key in sorted(_keys(folder / kind))
        if (entry := _entry(kind, folder / kind / f"{key}{suffix}")) is not None
    ]
    return sorted(found, key=lambda entry: entry.used)


def touch(path: Path) -> None:
    """Record that an entry is used now, where permissions allow; its modification time is unchanged."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def remove(entry: Entry) -> bool:
    """Remove an entry unless a process is making or using it. What an interrupted removal leaves is still an entry.

    Returns:
        Whether it is gone.
    """
    try:
        with _left_alone(entry) as is_alone:
            if is_alone and entry.kind == "hub":
                (entry.path / INDEX_FILE).unlink(missing_ok=True)  # without it, the rest is no data set
                shutil.rmtree(entry.path)
            elif is_alone:
                entry.note.unlink(missing_ok=True)
                entry.path.unlink(missing_ok=True)
    except OSError:  # no permission, or a file of a system that does not let go of it
        return False
    return is_alone


def remove_leftovers(folder: Path, own: str = "") -> None:
    """Remove the temporary files of processes that were killed.

    Args:
        folder: where entries of one kind lie.
        own: the entry whose lock this process has.
    """
    with suppress(OSError):
        leftovers = [(Path(item), match[1]) for item in os.scandir(folder) if (match := _LEFTOVER.fullmatch(item.name))]
        for path, key in leftovers:
            with suppress(OSError, Timeout), unused(path) as is_unused:
                if is_unused and key == own:
                    path.unlink()
                elif is_unused:
                    with lock_of(folder / key).acquire(blocking=False):
                        path.unlink()


def make_room(folder: Path, keep: Path) -> None:
    """Remove the entries that were not used for the longest time until the cache folder is within its limit.

    Args:
        folder: the cache folder.
        keep: the entry that has just been made or used, which is kept.
    """
    limit = cache_limit()
    entries = find_entries(folder)
    total = sum(entry.size for entry in entries)
    removed = []
    for entry in entries:
        if total <= limit:
            break
        if entry.path != keep and remove(entry):
            total -= entry.size
            removed.append(entry)
    if removed:
        _logger.info(
            "removed %d entries of %.2f GB from the cache %s, which may have %g GB (%s)",
            *(len(removed), sum(entry.size for entry in removed) / 1e9, folder, limit / 1e9, LIMIT),
        )


def _keys(folder: Path) -> set[str]:
    try:
        names = {item.name for item in os.scandir(folder)}
    except OSError:
        return set()
    keys = {key for name in names if _KEY.fullmatch(key := name.partition(".")[0])}
    return {key for key in keys if f".{key}.lock" in names}


def _entry(kind: str, path: Path) -> Entry | None:
    """The entry at a path; None if it was removed meanwhile."""
    measured = path / INDEX_FILE if kind == "hub" and (path / INDEX_FILE).exists() else path
    note = Entry(kind, path, 0, 0.0).note
    # Writers of many files record their total size, so that not every file need be examined.
    noted = _noted_bytes(note) if kind == "hub" and measured != path else None
    files = list(_files(path)) if kind == "hub" and noted is None else [measured, note]
    size, used = noted or 0, 0.0
    for file in files:
        with suppress(OSError):
            status = file.stat()
            size += status.st_size
            used = max(used, status.st_mtime, status.st_atime if file == measured else 0.0)
    return Entry(kind, path, size, used) if path.exists() or note.exists() else None


def _noted_bytes(note: Path) -> int | None:
    with suppress(OSError, ValueError, LookupError, TypeError):
        return int(json.loads(note.read_text(encoding="utf-8"))["bytes"])
    return None


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


@contextmanager
def _left_alone(entry: Entry) -> Iterator[bool]:
    """Keep other processes from making or using an entry, and yield whether none does now."""
    try:
        lock = lock_of(entry.path.with_name(entry.key)).acquire(blocking=False)
    except (Timeout, NotImplementedError, OSError):
        yield False
        return
    held = entry.path / INDEX_FILE if entry.kind == "hub" else entry.path
    with lock, ExitStack() as stack:
        try:
            is_unused = stack.enter_context(unused(held))
        except FileNotFoundError:  # an entry that was begun or half removed is not in use
            is_unused = True
        yield is_unused
