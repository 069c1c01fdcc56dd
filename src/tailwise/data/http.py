"""Requests over HTTP that are repeated while their failure may pass, and errors that say what to do."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import requests
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from tailwise.errors import InputError

NOT_SATISFIABLE = 416
PARTIAL = 206
# What a server may answer for a while; its other errors stay.
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
# Lengths and ranges count the bytes of the file only where the server does not compress on the way.
_HEADERS = {"Accept-Encoding": "identity"}
_SECONDS_TO_CONNECT = 5.0
_SECONDS_OF_SILENCE = 30.0
_SECONDS_TO_ANSWER = 5.0
_LONGEST_PAUSE = 60.0
_logger = logging.getLogger(__name__)


class Client(requests.Session):
    """A session that knows whether a server has answered it yet: until then, there may be no network at all."""

    has_been_answered = False


class InterruptedRequestError(Exception):
    """A request that failed for a reason that may pass; ``reached`` is how many bytes of the file there are now."""

    def __init__(self, reason: str, reached: int = 0) -> None:
        super().__init__(reason)
        self.reached = reached


class UnavailableError(InputError):
    """A file cannot be had from an address, or is another one there; another address may have it."""


def persist(
    action: Callable[[], None],
    url: str,
    path: Path,
    *,
    attempts: int,
    wait: float,
    pause: Callable[[float], object],
) -> None:
    """Repeat a request until it succeeds or has failed ``attempts`` times in a row without getting any further.

    Args:
        action: makes the request; raises :class:`InterruptedRequestError` if it should be repeated.
        url: what is requested, for messages.
        path: where it should be put.
        attempts: how often to try without getting further.
        wait: seconds before the second attempt; doubled before each further one, up to a minute.
        pause: waits for that long.

    Raises:
        UnavailableError: the attempts are used up.
    """
    failures, furthest = 0, 0
    while True:
        try:
            return action()
        except InterruptedRequestError as error:
            failures = 1 if error.reached > furthest else failures + 1
            furthest = max(furthest, error.reached)
            if failures >= attempts:
                raise UnavailableError(
                    f"{url}: {error} ({attempts} attempts); try again later, {by_hand(path)}"
                ) from error
            seconds = min(_LONGEST_PAUSE, wait * 2 ** (failures - 1))
            _logger.info("%s: %s; trying again in %.0f s", url, error, seconds)
            pause(seconds)


@contextmanager
def get(client: Client, url: str, path: Path, headers: Mapping[str, str] = {}) -> Iterator[requests.Response]:
    """Request a file, to be read within the block.

    Yields:
        The answer: the file, a part of it, or that there is no such part (status 416).

    Raises:
        InterruptedRequestError: it failed for a reason that may pass, now or while the answer is read.
        UnavailableError: it failed for good; the message says what to do instead, and names ``path`` as its place.
    """
    try:
        timeouts = (_SECONDS_TO_CONNECT, _SECONDS_OF_SILENCE)
        with client.get(url, headers={**_HEADERS, **headers}, stream=True, timeout=timeouts) as response:
            client.has_been_answered = True
            if not response.ok and response.status_code != NOT_SATISFIABLE:
                answer = f"the server answers {response.status_code} {response.reason}"
                if response.status_code in _PASSING_STATUS:
                    raise InterruptedRequestError(answer)
                raise UnavailableError(f"{url}: {answer}; check the address, {by_hand(path)}")
            yield response
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        if _lasts(error, client):
            raise UnavailableError(f"{url}: {_reason(error)}; check the network, {by_hand(path)}") from error
        raise InterruptedRequestError(_reason(error)) from error
    except requests.RequestException as error:
        raise UnavailableError(f"{url} cannot be requested ({error}); check the address, {by_hand(path)}") from error


def why_unreachable(url: str) -> str | None:
    """Ask an address, for some seconds and once, before a library does that repeats its requests for minutes.

    Returns:
        Why nothing answers there; None where something does, whatever it says.
    """
    found: SimpleQueue[str | None] = SimpleQueue()
    silence = f"no answer within {_SECONDS_TO_ANSWER:.0f} s"

    def ask() -> None:
        try:
            requests.head(url, timeout=_SECONDS_TO_ANSWER).close()
        except requests.exceptions.SSLError:
            found.put(None)  # there is something, and the library may trust other certificates
        except requests.Timeout:
            found.put(silence)
        except requests.ConnectionError as error:
            found.put(_reason(error))
        except requests.RequestException:
            found.put(None)
        else:
            found.put(None)

    # In a thread, because no timeout bounds the look-up of a name.
    Thread(target=ask, daemon=True, name="ask").start()
    try:
        return found.get(timeout=_SECONDS_TO_ANSWER + 1)
    except Empty:
        return silence


def remaining_length(response: requests.Response) -> int | None:
    """Bytes in an answer, where the server tells."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def by_hand(path: Path) -> str:
    """The way out that every message about a download ends with."""
    return f"or get the file by other means and put it at {path}"


def _lasts(error: requests.RequestException, client: Client) -> bool:
    """Whether it is no use to repeat a request: no connection has ever been made, or the server is another one."""
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return True
    unconnected = (NewConnectionError, ConnectTimeoutError, requests.Timeout)
    return not client.has_been_answered and any(isinstance(cause, unconnected) for cause in causes)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _reason(error: requests.RequestException) -> str:
    """The innermost cause: requests wraps "no such host" into four layers of object names."""
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {_SECONDS_TO_CONNECT:.0f} s"
    if isinstance(error, requests.Timeout):
        return f"no answer within {_SECONDS_OF_SILENCE:.0f} s"
    *_, inner = _causes(error)
    return f"the connection failed ({getattr(inner, 'strerror', None) or inner})"
