"""Timing side by side: interleaved repeats, medians, ratios of pairs, and peaks of memory."""

from __future__ import annotations

import itertools
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile


class Timing(NamedTuple):
    """What a function took beside the others of its round."""

    seconds: float
    """Median."""
    ratio: float
    """Median over the rounds of its time to that of the round's first function."""


def side_by_side(functions: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 2) -> dict[str, Timing]:
    """Time functions in turn, round after round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(warmup + repeats):
        for name, function in functions.items():
            taken = seconds(function)
            if repeat >= warmup:
                times[name].append(taken)
    first = next(iter(times.values()))
    return {
        name: Timing(statistics.median(own), statistics.median(a / b for a, b in zip(own, first, strict=True)))
        for name, own in times.items()
    }


def peak_memory(function: Callable[[], Any]) -> int:
    """Bytes of tensors that exist at most beside those from before, while a function runs on a CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    changes = [event.nbytes() for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(0, *itertools.accumulate(changes))


def copy_bandwidth(elements: int = 1 << 26) -> float:
    """Bytes that a copy of a large float32 tensor reads and writes per second."""
    source, target = torch.ones(elements), torch.empty(elements)
    timing = side_by_side({"copy": lambda: target.copy_(source)}, repeats=7)["copy"]
    return 8 * elements / timing.seconds


def machine(*libraries: ModuleType) -> str:
    """Processor, threads and versions, those of torch and of further libraries, for the head of a table."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    versions = [f"{library.__name__} {library.__version__}" for library in (torch, *libraries)]
    return (
        f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def seconds(function: Callable[[], Any]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
