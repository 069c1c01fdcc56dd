"""Calling a compiled loop in several threads: it runs without Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import torch

_SHARES = 4


def share(loop: Callable[..., None], parts: int, *arguments: Any) -> None:
    """Call ``loop(*arguments, start, step)`` in several threads, this one among them, until every part is seen to.

    There are as many threads as parts, but no more than torch uses. Each takes a share of the parts, and another when
    it is done: torch's own threads keep a core busy for a while after their work, so that some get less of theirs.
    """
    threads = min(torch.get_num_threads(), parts)
    if threads < 2:
        loop(*arguments, 0, 1)
        return
    shares = min(parts, _SHARES * threads)
    starts = iter(range(shares))  # its next value is given out once, whoever asks

    def work() -> None:
        for start in starts:
            loop(*arguments, start, shares)

    others = [_pool(threads - 1).submit(work) for _ in range(1, threads)]
    try:
        work()
    finally:
        wait(others)
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "tailwise")


# The threads do not come along into a forked process: it makes its own.
os.register_at_fork(after_in_child=_pool.cache_clear)
