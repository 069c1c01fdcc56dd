"""Calling a compiled loop in several threads: it runs without Python's lock."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import torch

_SHARES = 4
_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PROCESS = os.getpid()


def share(loop: Callable[..., None], parts: int, *arguments: Any) -> None:
    """Call ``loop(*arguments, start, step)`` in several threads, this one among them, until every part is seen to.

    There are as many threads as torch uses. Each takes a share of the parts, and another when it is done, so that a
    thread that is kept from its core costs little.

    Raises:
        Exception: what the loop raised, in whichever thread.
    """
    threads = torch.get_num_threads()
    if min(threads, parts) < 2:
        loop(*arguments, 0, 1)
        return
    shares = min(parts, _SHARES * threads)
    starts = iter(range(shares))  # its next value is given out once, whoever asks
    errors: list[BaseException] = []

    def work(_: Any = None) -> None:
        try:
            for start in starts:
                loop(*arguments, start, shares)
        except BaseException as error:
            errors.append(error)

    # OpenMP's threads do not come along into a forked process, and are not made anew there.
    start_openmp = _openmp() if os.getpid() == _PROCESS else None
    if start_openmp is None:
        _in_pool(work, min(threads, parts))
    else:
        # All of them: those that a smaller team leaves out would end, and be made anew by torch's next operation.
        start_openmp(work, threads)
    if errors:
        raise errors[0]


@cache
def _openmp() -> Callable[[Callable[[Any], None], int], None] | None:
    """Return what calls a function in torch's own threads, where they are OpenMP's.

    They keep their cores busy for milliseconds after each operation of torch, waiting for the next: other threads would
    have to wait for them.
    """
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # another system, or another library
        return None
    parallel.argtypes, parallel.restype = (_Work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return lambda work, threads: parallel(_Work(work), None, threads, 0)


def _in_pool(work: Callable[[], None], threads: int) -> None:
    others = [_pool(threads - 1).submit(work) for _ in range(1, threads)]
    work()
    wait(others)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "tailwise")


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    # The pool's threads do not come along either; but these are made anew.
    os.register_at_fork(after_in_child=_pool.cache_clear)
