"""Room on a disk, and files that one process at a time writes."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from tailwise.errors import InputError

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
_logger = logging.getLogger(__name__)


def require_space(folder: Path, needed: int, what: str, way_out: str = "make room, or choose another folder") -> None:
    """Check that a folder has room for ``needed`` bytes.

    Args:
        folder: the folder.
        needed: bytes to be written.
        what: what would be written, for the message.
        way_out: what to do if there is too little room.

    Raises:
        InputError: there is.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"{folder}: {what} needs {needed / 1e9:.3f} GB and {free / 1e9:.3f} GB are free; {way_out}")


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Keep other processes out of a block of code that writes ``path``; waits for them.

    Yields:
        Whether they are kept out: not in a folder whose files cannot be locked, as a warning then says.
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
    """The lock of those who write ``path``, an empty file that stays.

    The system drops the lock of a process that ends, however it ends.
    """
    return FileLock(path.with_name(f".{path.name}.lock"))
