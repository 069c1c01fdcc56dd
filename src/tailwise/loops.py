"""Decorators for loops compiled by Numba, and their distribution over threads.

Functions that a compiled function calls are inlined. Otherwise the process that compiles has two versions of a called
function, a separate one and one optimised again within its caller, and runs the first; a process that loads compiled
code from the cache has the second alone. With reordered sums the two can differ in the last bit, and so could a run and
its repetition.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be reordered and fused with products; NaN is preserved."""

_SHARES = 4
_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PROCESS = os.getpid()


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function that Python calls: compiled at its first call, it runs without the global interpreter lock.

    Args:
        options: further ones of :func:`numba.njit`.
    """
    import numba

    compile_it = partial(numba.njit, nogil=True, error_model="numpy", **options)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            result: Callable[..., Any] = compile_it(cache=True)(function)
        except RuntimeError:  # no folder for compiled code is writable: each process compiles
            return compile_it()(function)
        # Numba checks the function's own file alone, not those of inlined functions.
        with suppress(AttributeError):
            result._cache._cache_file._source_stamp = _sources(  # type: ignore[attr-defined]
                Path(function.__code__.co_filename).parent
            )
        return result

    return decorate


def inlined(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function that compiled ones call: it is inlined into each.

    Args:
        options: further ones of :func:`numba.njit`.
    """
    import numba

    decorate: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(
        error_model="numpy", forceinline=True, **options
    )
    return decorate


@cache
def _sources(folder: Path) -> str:
    """Digest of this file and of the files of a folder, the sources of its loops."""
    files = [Path(__file__), *sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def share(loop: Callable[..., None], parts: int, *arguments: Any) -> None:
    """Call ``loop(*arguments, start, step)`` in several threads, including this one, until every part is done.

    There are as many threads as torch uses. Each takes a share of the parts, and another when it is done, so that a
    thread that loses its core for a while costs little.

    Raises:
        Exception: the first exception of the loop in any thread.
    """
    threads = torch.get_num_threads()
    if min(threads, parts) < 2:
        loop(*arguments, 0, 1)
        return
    shares = min(parts, _SHARES * threads)
    starts = iter(range(shares))  # shared by the threads: each value is taken once
    errors: list[BaseException] = []

    def work(_: Any = None) -> None:
        try:
            for start in starts:
                loop(*arguments, start, shares)
        except BaseException as error:
            errors.append(error)

    # A forked process has none of OpenMP's threads, and OpenMP does not restart them there.
    start_openmp = _openmp() if os.getpid() == _PROCESS else None
    if start_openmp is None:
        _in_pool(work, min(threads, parts))
    else:
        # The whole team: threads outside a smaller one would end, and torch's next operation would restart them.
        start_openmp(work, threads)
    if errors:
        raise errors[0]


@cache
def _openmp() -> Callable[[Callable[[Any], None], int], None] | None:
    """A caller of functions in torch's own threads, if these are OpenMP's; otherwise None.

    They spin for milliseconds after each operation of torch, waiting for the next: other threads would have to wait for
    their cores.
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
    # A forked process has none of the pool's threads either, and needs a new pool.
    os.register_at_fork(after_in_child=_pool.cache_clear)
