"""Wall time of calls that are compared with each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def interleaved(one: Callable[[], Any], other: Callable[[], Any], repeats: int) -> tuple[float, float, float]:
    """Median seconds of both, and the median over pairs of how many times faster the other is."""
    pairs = []
    for repeat in range(repeats + 1):
        times = [seconds(one), seconds(other)]
        if repeat:
            pairs.append(times)
    first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
    return first, second, statistics.median(a / b for a, b in pairs)


def seconds(function: Callable[[], Any]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
