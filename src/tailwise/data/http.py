"""Requests over HTTP that are repeated while their failure may pass, and errors that say what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests

from tailwise.errors import InputError

NOT_SATISFIABLE = 416
PARTIAL = 206
# What a server may answer for a while; its other errors stay.
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
# Lengths and ranges count the bytes of the file only where the server does not compress on the way.
_HEADERS = {"Accept-Encoding": "identity"}
_SECONDS_TO_CONNECT = 10.0
_SECONDS_OF_SILENCE = 30.0
_LONGEST_PAUSE = 60.0
_logger = logging.getLogger(__name__)


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
def get(
    session: requests.Session, url: str, path: Path, headers: Mapping[str, str] = {}
) -> Iterator[requests.Response]:
    """Request a file, to be read within the block.

    Yields:
        The answer: the file, a part of it, or that there is no such part (status 416).

    Raises:
        InterruptedRequestError: it failed for a reason that may pass, now or while the answer is read.
        UnavailableError: it failed for good; the message says what to do instead, and names ``path`` as its place.
    """
    try:
        timeouts = (_SECONDS_TO_CONNECT, _SECONDS_OF_SILENCE)
        with session.get(url, headers={**_HEADERS, **headers}, stream=True, timeout=timeouts) as response:
            if not response.ok and response.status_code != NOT_SATISFIABLE:
                answer = f"the server answers {response.status_code} {response.reason}"
                if response.status_code in _PASSING_STATUS:
                    raise InterruptedRequestError(answer)
                raise UnavailableError(f"{url}: {answer}; check the address, {by_hand(path)}")
            yield response
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise InterruptedRequestError(_reason(error)) from error
    except requests.RequestException as error:
        raise UnavailableError(f"{url} cannot be requested ({error}); check the address, {by_hand(path)}") from error


def remaining_length(response: requests.Response) -> int | None:
    """Bytes in an answer, where the server tells."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def by_hand(path: Path) -> str:
    """The way out that every message about a download ends with."""
    return f"or get the file by other means and put it at {path}"


def _reason(error: requests.RequestException) -> str:
    """The innermost cause: requests wraps "no such host" into four layers of object names."""
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {_SECONDS_TO_CONNECT:.0f} s"
    if isinstance(error, requests.Timeout):
        return f"no answer within {_SECONDS_OF_SILENCE:.0f} s"
    inner: BaseException = error
    while (deeper := inner.__cause__ or inner.__context__) is not None:
        inner = deeper
    return f"the connection failed ({getattr(inner, 'strerror', None) or inner})"
