"""Loops that Numba compiles, and their threads.

All that a compiled function calls becomes part of it. Otherwise the process that compiles holds a called function
twice, by itself and as part of its caller, the second time optimised once more, and runs the first of them; a process
that reads compiled code from a file has the second alone. With sums in any order the two need not agree in the last
bit, and neither would a run and its repetition.
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
"""Sums may be taken in any order, and products fused with them; NaN must stay NaN."""

_SHARES = 4
_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PROCESS = os.getpid()


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function that Python calls: compiled at its first call, it runs without Python's lock.

    Args:
        options: further ones of :func:`numba.njit`.
    """
    import numba

    compile_it = partial(numba.njit, nogil=True, error_model="numpy", **options)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            result: Callable[..., Any] = compile_it(cache=True)(function)
        except RuntimeError:  # there is no folder to write compiled code to: each process compiles
            return compile_it()(function)
        # Numba checks the function's own file alone, and would reuse what another file has put into its loops.
        with suppress(AttributeError):
            result._cache._cache_file._source_stamp = _sources(  # type: ignore[attr-defined]
                Path(function.__code__.co_filename).parent
            )
        return result

    return decorate


def inlined(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function that compiled ones call: it becomes part of each of them.

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
    """Digest of this file and of the files of a folder, from which its loops are compiled."""
    files = [Path(__file__), *sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def share(loop: Callable[..., None], parts: int, *arguments: Any) -> None:
    """Call ``loop(*arguments, start, step)`` in several threads, this one among them, until every part is done.

    There are as many threads as torch uses. Each takes a share of the parts, and another when it is done, so that a
    thread that loses its core for a while costs little.

    Raises:
        Exception: what the loop raised, in whichever thread.
    """
    threads = torch.get_num_threads()
    if min(threads, parts) < 2:
        loop(*arguments, 0, 1)
        return
    shares = min(parts, _SHARES * threads)
    starts = iter(range(shares))  # its next value is given out once, whichever thread asks
    errors: list[BaseException] = []

    def work(_: Any = None) -> None:
        try:
            for start in starts:
                loop(*arguments, start, shares)
        except BaseException as error:
            errors.append(error)

    # A forked process has none of OpenMP's threads, and OpenMP does not start them again there.
    start_openmp = _openmp() if os.getpid() == _PROCESS else None
    if start_openmp is None:
        _in_pool(work, min(threads, parts))
    else:
        # All of them: those that a smaller team leaves out would end, and torch's next operation would start them anew.
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
    # A forked process has none of the pool's threads either; it makes a new pool.
    os.register_at_fork(after_in_child=_pool.cache_clear)
