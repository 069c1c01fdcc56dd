"""Progress of long work: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_COUNTS = 20.0

_logger = logging.getLogger(__name__)


@contextmanager
def bar(description: str, total: int, *, show: bool) -> Iterator[Callable[[int, str], None]]:
    """Yield ``advance(steps, description)`` for a bar of ``total`` steps on standard error.

    Args:
        description: text of the bar.
        total: number of steps.
        show: whether a bar is wanted; without a terminal on standard error there is none.
    """
    console = Console(stderr=True)
    if not (show and console.is_terminal):
        yield lambda _steps, _description: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda steps, text: progress.update(task, advance=steps, description=text)


@contextmanager
def countdown(description: str, total: int, *, show: bool) -> Iterator[Callable[[int, str], None]]:
    """A :func:`bar` for long steps; without a terminal, log lines with the time left, every few seconds at most.

    Args:
        description: text of the bar.
        total: number of steps.
        show: whether a bar is wanted.
    """
    if is_shown(show):
        with bar(description, total, show=show) as advance:
            yield advance
        return
    started = last_line = time.monotonic()
    done = 0

    def log(steps: int, text: str) -> None:
        nonlocal done, last_line
        now = time.monotonic()
        done += steps
        if done < total and now - last_line >= _SECONDS_BETWEEN_COUNTS:
            last_line = now
            minutes = (now - started) / done * (total - done) / 60
            _logger.info("%s: %d of %d, about %d min left", text, done, total, math.ceil(minutes))

    yield log


def is_shown(show: bool) -> bool:
    """Whether a bar that is wanted is shown: standard error is a terminal."""
    return show and Console(stderr=True).is_terminal
