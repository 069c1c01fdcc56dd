"""Atomic writing of files, and locks on files in use."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows, where an open file cannot be removed anyway
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which is renamed to ``path`` if the block succeeds, else removed.

    The leftovers of a writer that was killed are overwritten.

    Args:
        path: the file to write; its folder must exist. An existing file is replaced only by a complete one.
    """
    target = Path(path)
    handle, temporary = _own_temporary(target)
    try:
        yield temporary
        # Temporary files are private; the result has the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    except BaseException:
        # Not after the replacement: the name may be another writer's by then.
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def hold(path: Path) -> int | None:
    """Keep a file from being removed by :func:`unused` as long as the descriptor returned is open.

    The system closes it when the process ends, however it ends.

    Returns:
        The descriptor; None where files cannot be locked.

    Raises:
        OSError: there is no such file, or it may not be read.
    """
    if fcntl is None:
        return None
    while True:
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            os.close(handle)
            raise
        except OSError:
            os.close(handle)
            return None
        os.close(handle)  # another file has taken the name in between


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Prevent other processes from holding a file within the block, and yield whether none holds it now.

    Where files cannot be locked, the answer is no; on Windows it is yes, because open files cannot be removed there.

    Raises:
        OSError: there is no such file, or it may not be read.
    """
    if fcntl is None:
        yield True
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_unused = True
        except OSError:
            is_unused = False
        yield is_unused
    finally:
        os.close(handle)


def _own_temporary(target: Path) -> tuple[int, Path]:
    """An empty file in the folder of a target that no other process writes, and its open descriptor.

    Its name is always the same, so that the file of a killed writer is reused. If another writer holds its lock, or it
    cannot be opened, the file has a unique name.
    """
    name = target.with_name(f".{target.name}.writing{target.suffix}")
    while fcntl is not None:
        try:
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:
            break
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), name.stat()):
                os.ftruncate(handle, 0)
                return handle, name
        except FileNotFoundError:
            pass  # it has just become what it was written for
        except BlockingIOError:
            os.close(handle)
            break
        except OSError:  # files cannot be locked here
            name.unlink(missing_ok=True)
            os.close(handle)
            break
        os.close(handle)
    handle, own = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
    return handle, Path(own)
