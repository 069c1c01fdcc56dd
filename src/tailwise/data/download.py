"""Downloads with pooch: resumed after an interruption, verified, and never half-written under their final name."""

from __future__ import annotations

import logging
import re
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, TypeVar

import pooch
import requests
from rich.console import Console
from rich.progress import track
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from tailwise.data.cache_folder import alone, require_space
from tailwise.errors import InputError
from tailwise.files import replacing

# A broken connection loses at most this much.
_CHUNK = 1 << 16
_SECONDS_TO_CONNECT = 5.0
_SECONDS_OF_SILENCE = 30.0
_SECONDS_TO_ANSWER = 5.0
_LONGEST_PAUSE = 60.0
_NOT_SATISFIABLE = 416
# Statuses that may pass; other errors of a server stay.
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
# Lengths and ranges count the bytes of the file only where the server does not compress.
_HEADERS = {"Accept-Encoding": "identity"}
T = TypeVar("T")
_logger = logging.getLogger(__name__)


class UnavailableError(InputError):
    """A file is not available at an address, or another file is there; a mirror may have it."""


def download(
    urls: Sequence[str],
    path: str | Path,
    *,
    sha256: str,
    progress: bool = True,
    attempts: int = 5,
    wait: float = 1.0,
) -> Path:
    """Get one file from the first mirror that has it, unless it is there already.

    Received bytes stay in ``<path>.part`` until the file is complete, so that a later call resumes, in this process or
    another. The file gets its name only after its checksum has been verified; a file that exists is verified and
    nothing is requested. Processes that want the same file wait for each other.

    Args:
        urls: addresses of the same file, in the order in which to try them.
        path: where to put it; missing folders are made.
        sha256: its SHA-256 in hexadecimal.
        progress: show a progress bar, if standard error is a terminal.
        attempts: consecutive requests that may fail without receiving anything new.
        wait: seconds before the second attempt; doubled before each further one, up to a minute.

    Returns:
        ``path``.

    Raises:
        UnavailableError: no mirror has the file; the message names the address, the reason and what to do.
        InputError: another file exists at ``path``, or it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        if _exists(path, sha256):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path):
            for place, url in enumerate(urls, 1):
                downloader = _Resuming(path, part, _Requester(attempts, wait, time.sleep), progress)
                try:
                    # Another process may have downloaded it in the meantime.
                    if not _exists(path, sha256):
                        _retrieve(url, sha256, downloader)
                    break
                except UnavailableError as error:
                    if place == len(urls):
                        raise
                    _logger.warning("%s", error)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); make room, or choose another folder. Received "
            f"bytes are kept in {part.name}: the same command resumes there"
        ) from error
    return path


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
    """Get many small files over several connections. Completed files stay; an incomplete one starts again.

    Args:
        urls: N addresses.
        paths: where to put each; missing folders are made.
        problem_with: what is wrong with a file, from its index and its content, or None; called in worker threads.
        connections: requests at a time.
        progress: show a progress bar, if standard error is a terminal.
        attempts: how often each file is tried.
        wait: seconds before the second attempt; doubled before each further one, up to a minute.

    Raises:
        InputError: a file is not available, is wrong, or cannot be written.
    """
    stop = threading.Event()
    requester = _Requester(attempts, wait, stop.wait)

    def get(index: int) -> None:
        with session.get(urls[index], timeout=_timeouts()) as response:
            response.raise_for_status()
        if problem := problem_with(index, response.content):
            raise _RetryError(problem)
        paths[index].parent.mkdir(parents=True, exist_ok=True)
        with replacing(paths[index]) as temporary:
            temporary.write_bytes(response.content)

    def persist(index: int) -> None:
        if stop.is_set():
            return
        try:
            requester.persist(partial(get, index), urls[index], paths[index])
        except BaseException:
            stop.set()
            raise

    with requests.Session() as session, ThreadPoolExecutor(connections, thread_name_prefix="download") as pool:
        session.headers.update(_HEADERS)
        session.hooks["response"].append(requester.note_answer)
        try:
            downloads = pool.map(persist, range(len(urls)))
            for _ in shown(downloads, "downloading", len(urls), progress):
                pass
        except OSError as error:
            raise InputError(
                f"{error.filename or paths[0].parent} cannot be written ({error.strerror or error}); make room, or "
                "choose another folder. Completed files stay"
            ) from error
        finally:
            stop.set()


def shown(steps: Iterable[T], description: str, total: int, progress: bool) -> Iterable[T]:
    """Steps with a progress bar on standard error, if it is a terminal and ``progress`` is set."""
    console = Console(stderr=True)
    return track(steps, description, total, console=console, disable=not (progress and console.is_terminal))


def why_unreachable(url: str) -> str | None:
    """Ask an address once, for a few seconds, before a library asks that repeats its requests for minutes.

    Returns:
        Why nothing answers there; None if anything does.
    """
    found: SimpleQueue[str | None] = SimpleQueue()
    silence = f"no answer within {_SECONDS_TO_ANSWER:.0f} s"

    def ask() -> None:
        try:
            requests.head(url, timeout=_SECONDS_TO_ANSWER).close()
            reason = None
        except requests.Timeout:
            reason = silence
        except requests.RequestException as error:
            # A refused certificate is an answer; the library may trust others.
            is_refused = isinstance(error, requests.exceptions.SSLError)
            reason = _reason(error) if isinstance(error, requests.ConnectionError) and not is_refused else None
        found.put(reason)

    # In a thread, because no timeout bounds a name lookup.
    threading.Thread(target=ask, daemon=True, name="ask").start()
    try:
        return found.get(timeout=_SECONDS_TO_ANSWER + 1)
    except Empty:
        return silence


class _RetryError(requests.RequestException):
    """An answer that is not usable, though the next one may be."""


@dataclass
class _Requester:
    """Requests repeated while their failure may pass.

    Until a server has answered, a failed connection is not repeated: there may be no network at all.
    """

    attempts: int
    wait: float
    pause: Callable[[float], object]
    is_answered: bool = False

    def note_answer(self, *_: Any, **__: Any) -> None:
        self.is_answered = True

    def persist(self, action: Callable[[], None], url: str, path: Path, received: Callable[[], int] = int) -> None:
        """Repeat a request until it succeeds, or has failed ``attempts`` times in a row without new bytes.

        Raises:
            UnavailableError: it failed; the message names ``path`` as the place for a file got by other means.
        """
        failures, furthest = 0, 0
        while True:
            try:
                return action()
            except requests.RequestException as error:
                reason, by_hand = _reason(error), _by_hand(path)
                if not self._may_pass(error):
                    check = "network" if isinstance(error, requests.ConnectionError | requests.Timeout) else "address"
                    raise UnavailableError(f"{url}: {reason}; check the {check}, {by_hand}") from error
                failures = 1 if received() > furthest else failures + 1
                furthest = max(furthest, received())
                if failures >= self.attempts:
                    message = f"{url}: {reason} ({self.attempts} attempts); try again later, {by_hand}"
                    raise UnavailableError(message) from error
                seconds = min(_LONGEST_PAUSE, self.wait * 2 ** (failures - 1))
                _logger.info("%s: %s; trying again in %.0f s", url, reason, seconds)
                self.pause(seconds)

    def _may_pass(self, error: requests.RequestException) -> bool:
        causes = list(_causes(error))
        if isinstance(error, requests.HTTPError):
            return error.response.status_code in _PASSING_STATUS
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            return False
        if any(isinstance(cause, NewConnectionError | ConnectTimeoutError | requests.Timeout) for cause in causes):
            return self.is_answered
        passing = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, _RetryError)
        return isinstance(error, passing)


class _Resuming(pooch.HTTPDownloader):  # type: ignore[misc]
    """pooch's HTTP download, appended to the bytes received before."""

    file: IO[bytes]

    def __init__(self, path: Path, part: Path, requester: _Requester, progress: bool) -> None:
        super().__init__(progress and sys.stderr.isatty(), _CHUNK, timeout=_timeouts(), hooks={"response": self._begin})
        self.path, self.part, self.requester = path, part, requester

    def received(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def __call__(self, url: str, output_file: Any, *_: Any) -> None:
        self.requester.persist(partial(self._append, url), url, self.path, self.received)
        self.part.replace(output_file)

    def _append(self, url: str) -> None:
        with self.part.open("ab") as self.file:
            position = self.file.tell()
            self.kwargs["headers"] = _HEADERS | ({"Range": f"bytes={position}-"} if position else {})
            try:
                super().__call__(url, self.file, pooch=None)
            except requests.HTTPError as error:
                # Nothing is missing, or the file on the server is shorter: the checksum decides.
                if error.response.status_code != _NOT_SATISFIABLE:
                    raise

    def _begin(self, response: requests.Response, **_: Any) -> None:
        """Look at an answer before its content is appended to the part file."""
        self.requester.note_answer()
        if not response.ok:
            response.close()
        elif response.status_code == requests.codes.partial:
            start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if start is None or int(start[1]) != self.file.tell():
                response.close()
                self.file.truncate(0)
                raise _RetryError("the answer is another part of the file than requested")
        elif not response.is_redirect:
            self.file.truncate(0)
        length = response.headers.get("Content-Length", "0")
        require_space(self.part.parent, int(length) if response.ok else 0, self.path.name)


def _retrieve(url: str, sha256: str, downloader: _Resuming) -> None:
    path = downloader.path
    pooch.get_logger().setLevel(logging.WARNING)
    _logger.info("downloading %s to %s", url, path)
    while True:
        is_resumed = downloader.received() > 0
        try:
            pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent, downloader=downloader)
            return
        except InputError:
            raise
        except ValueError as error:  # pooch's, for a wrong checksum; it has removed the download
            if not is_resumed:
                raise UnavailableError(f"{url}: {error} Try again, check the address, {_by_hand(path)}") from error
            _logger.info("%s: the bytes received before belong to another file; starting again", url)


def _exists(path: Path, sha256: str) -> bool:
    if not path.exists():
        return False
    if (found := pooch.file_hash(str(path))) != sha256:
        raise InputError(
            f"{path} is another file than expected (SHA-256 {found} instead of {sha256}); remove it to download it "
            "again"
        )
    return True


def _by_hand(path: Path) -> str:
    return f"or get the file by other means and put it at {path}"


def _timeouts() -> tuple[float, float]:
    return _SECONDS_TO_CONNECT, _SECONDS_OF_SILENCE


def _reason(error: requests.RequestException) -> str:
    """The innermost cause: requests wraps "no such host" into four layers of object names."""
    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {_SECONDS_TO_CONNECT:.0f} s"
    if isinstance(error, requests.Timeout):
        return f"no answer within {_SECONDS_OF_SILENCE:.0f} s"
    if not isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return f"cannot be requested ({error})" if isinstance(error, ValueError) else str(error)
    *_, inner = _causes(error)
    return f"the connection failed ({getattr(inner, 'strerror', None) or inner})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
