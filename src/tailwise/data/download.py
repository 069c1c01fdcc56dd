"""Files from the web: resumed after an interruption, verified, and there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tailwise.data.cache_folder import alone, require_space
from tailwise.data.http import (
    NOT_SATISFIABLE,
    PARTIAL,
    Client,
    InterruptedRequestError,
    UnavailableError,
    by_hand,
    get,
    persist,
    remaining_length,
)
from tailwise.errors import InputError
from tailwise.files import replacing

# What a broken connection loses at most.
_CHUNK = 1 << 16
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Wanted:
    """A file as the caller asked for it; see :func:`download`."""

    url: str
    path: Path
    sha256: str | None
    size: int | None

    def is_there(self) -> bool:
        if not self.path.exists():
            return False
        found = self.path.stat().st_size
        if self.size is not None and found != self.size:
            raise InputError(
                f"{self.path} has {found} bytes where {self.size} are expected; remove it to download it again"
            )
        if self.sha256 is not None and (digest := file_sha256(self.path)) != self.sha256:
            raise InputError(
                f"{self.path} is another file than expected (SHA-256 {digest} instead of {self.sha256}); remove it to "
                "download it again"
            )
        return True


@dataclass(frozen=True)
class _Version:
    """What a server tells about a file, to know it again."""

    url: str
    etag: str | None
    modified: str | None
    total: int | None

    @property
    def condition(self) -> str | None:
        """The value of the header If-Range; weak tags do not promise equal bytes."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


@dataclass(frozen=True)
class _Part:
    """The beginning of a file beside its later place, and a note of the version that it is the beginning of."""

    file: Path
    note: Path

    @classmethod
    def of(cls, path: Path) -> _Part:
        return cls(path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json"))

    @property
    def length(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def version(self, url: str) -> _Version | None:
        """The version on the server that there is a beginning of; None if there is nothing to go on from."""
        try:
            version = _Version(**json.loads(self.note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return version if version.url == url and self.length else None

    def begin(self, version: _Version) -> None:
        self.discard()
        with replacing(self.note) as temporary:
            temporary.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def discard(self) -> None:
        # The file first: bytes are never taken for the beginning of a version that they are not of.
        self.file.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None,
    size: int | None = None,
    progress: bool = True,
    attempts: int = 5,
    wait: float = 1.0,
) -> Path:
    """Get one file, unless it is there.

    What has come is kept in ``<path>.part`` until the file is whole, so that a later call, in this process or another,
    goes on from there, as long as the server says that its file is still the same one. The file takes its name only
    after its checksum has been verified. A file that is there is hashed, and nothing is requested. Processes that want
    the same file wait for each other.

    Args:
        url: its address.
        path: where to put it; folders are made.
        sha256: its SHA-256 in hexadecimal; None not to verify it.
        size: its length in bytes, if known.
        progress: show a bar with the time left, if standard error is a terminal.
        attempts: how often in a row a request may fail without getting any further.
        wait: seconds before the second attempt; doubled before each further one, up to a minute.

    Returns:
        ``path``.

    Raises:
        UnavailableError: the file cannot be had, or is another one. The message names the address and what to do.
        InputError: the file at ``path`` is another one, or cannot be written.
    """
    wanted = _Wanted(url, Path(path), sha256, size)
    part = _Part.of(wanted.path)
    try:
        if wanted.is_there():
            return wanted.path
        wanted.path.parent.mkdir(parents=True, exist_ok=True)
        with alone(wanted.path):
            # Another process may have got it while this one waited.
            if not wanted.is_there():
                _fetch(wanted, part, progress, attempts, wait)
                _finish(wanted, part)
    except OSError as error:
        raise InputError(
            f"{wanted.path} cannot be written ({error.strerror or error}); make room, or choose another folder. What "
            f"has come is kept in {part.file.name}: the same command goes on from there"
        ) from error
    return wanted.path


def download_each(
    urls: Sequence[str],
    paths: Sequence[Path],
    problem_with: Callable[[int, bytes], str | None],
    *,
    connections: int = 8,
    progress: bool = True,
    attempts: int = 5,
    wait: float = 1.0,
) -> None:
    """Get many small files over several connections. A file that has come stays; one cut short starts again.

    Args:
        urls: N addresses.
        paths: where to put each; folders are made.
        problem_with: tells from the index and the content of a file what is wrong with it, or None; called in the
            threads of the connections.
        connections: requests at a time.
        progress: show a bar with the time left, if standard error is a terminal.
        attempts: how often each file is tried.
        wait: seconds before the second attempt; doubled before each further one, up to a minute.

    Raises:
        InputError: a file cannot be had, something is wrong with it, or it cannot be written.
    """
    stop = threading.Event()
    with _bar(progress) as bar, ThreadPoolExecutor(connections, thread_name_prefix="download") as pool:
        task = bar.add_task("downloading", total=len(urls))

        def every_nth(first: int) -> None:
            with Client() as client:
                for index in range(first, len(urls), connections):
                    if stop.is_set():
                        return
                    url, path = urls[index], paths[index]
                    transfer = partial(_get_whole, client, url, path, partial(problem_with, index))
                    persist(transfer, url, path, attempts=attempts, wait=wait, pause=stop.wait)
                    bar.advance(task)

        try:
            for future in as_completed([pool.submit(every_nth, first) for first in range(connections)]):
                future.result()
        except OSError as error:
            raise InputError(
                f"{error.filename or paths[0].parent} cannot be written ({error.strerror or error}); make room, or "
                "choose another folder. The files that have come stay"
            ) from error
        finally:
            stop.set()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bar(progress: bool, *columns: Any) -> Progress:
    console = Console(stderr=True)
    shown = progress and console.is_terminal
    return Progress(*(columns or Progress.get_default_columns()), console=console, disable=not shown)


def _fetch(wanted: _Wanted, part: _Part, progress: bool, attempts: int, wait: float) -> None:
    _logger.info("downloading %s to %s", wanted.url, wanted.path)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Client() as client, _bar(progress, *columns, TimeRemainingColumn()) as bar:
        task = bar.add_task(wanted.path.name, total=wanted.size)
        transfer = partial(_transfer, client, wanted, part, partial(bar.update, task))
        persist(transfer, wanted.url, wanted.path, attempts=attempts, wait=wait, pause=time.sleep)


def _transfer(client: Client, wanted: _Wanted, part: _Part, report: Callable[..., object]) -> None:
    """Make one request, for what is missing of the part file or for all of it, and store what comes."""
    version = part.version(wanted.url)
    start = 0
    headers = {}
    # Without a condition, only the checksum can tell whether what comes belongs to what is there.
    if version is not None and (version.condition or wanted.sha256):
        start = part.length
        if start == version.total:
            return
        headers["Range"] = f"bytes={start}-"
        if version.condition:
            headers["If-Range"] = version.condition
    with get(client, wanted.url, wanted.path, headers) as response:
        resumed = response.status_code == PARTIAL
        if response.status_code == NOT_SATISFIABLE or (resumed and not _goes_on(response, start, version)):
            part.discard()
            raise InterruptedRequestError("the file on the server is no longer the one that was begun")
        start = start if resumed else 0
        rest = remaining_length(response)
        total = None if rest is None else start + rest
        if wanted.size is not None and total not in (None, wanted.size):
            raise UnavailableError(
                f"{wanted.url} has {total} bytes where {wanted.size} are expected: it is no longer this file; check "
                f"the address, {by_hand(wanted.path)}"
            )
        if not resumed:
            part.begin(_Version(wanted.url, response.headers.get("ETag"), response.headers.get("Last-Modified"), total))
        if rest is not None:
            require_space(part.file.parent, rest, wanted.path.name)
        report(completed=start, total=total)
        with part.file.open("ab") as file:
            for chunk in _chunks(response, start, total):
                file.write(chunk)
                report(advance=len(chunk))
            file.flush()
            os.fsync(file.fileno())


def _chunks(response: requests.Response, start: int, total: int | None) -> Iterator[bytes]:
    """The bytes of an answer; an interruption tells how far they went."""
    position = start
    try:
        for chunk in response.iter_content(_CHUNK):
            position += len(chunk)
            yield chunk
    except requests.RequestException as error:
        raise InterruptedRequestError(f"the connection was lost after {position} bytes", position) from error
    if total is not None and position != total:
        raise InterruptedRequestError(f"the answer ended after {position} of {total} bytes", position)


def _goes_on(response: requests.Response, start: int, version: _Version | None) -> bool:
    """Whether a partial answer begins where the part file ends, and is of the same version as far as can be told."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != start or version is None:
        return False
    for name, known in (("ETag", version.etag), ("Last-Modified", version.modified)):
        if known is not None and response.headers.get(name, known) != known:
            return False
    return match[2] == "*" or version.total in (None, int(match[2]))


def _finish(wanted: _Wanted, part: _Part) -> None:
    """Give the part file its name, if it is the file wanted."""
    if wanted.sha256 is not None and (digest := file_sha256(part.file)) != wanted.sha256:
        part.discard()
        raise UnavailableError(
            f"{wanted.url}: what came has the SHA-256 {digest} instead of {wanted.sha256}, and was removed. Either it "
            f"was damaged on the way: try again; or the file has changed: check the address, {by_hand(wanted.path)}"
        )
    part.file.replace(wanted.path)
    part.note.unlink(missing_ok=True)


def _get_whole(client: Client, url: str, path: Path, problem_with: Callable[[bytes], str | None]) -> None:
    with get(client, url, path) as response:
        content = response.content
        total = remaining_length(response)
    problem = f"{len(content)} bytes came of {total}" if total not in (None, len(content)) else problem_with(content)
    if problem is not None:
        raise InterruptedRequestError(problem)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
