"""Compiling loops with Numba, and keeping what was compiled.

All that a compiled function calls becomes part of it. Otherwise the process that compiles holds a called function
twice, by itself and as part of its caller, the second time optimised once more, and runs the first of them; a process
that reads what was kept has the second alone. With sums in any order the two need not agree in the last bit, and
neither would a run and its repetition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numba

_SOURCES = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function that Python calls: compiled at its first call, it runs without Python's lock.

    Args:
        options: further ones of :func:`numba.njit`.
    """
    compile_it = partial(numba.njit, nogil=True, error_model="numpy", **options)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            result: Callable[..., Any] = compile_it(cache=True)(function)
        except RuntimeError:  # nowhere to keep compiled code: each process compiles
            return compile_it()(function)
        # Numba looks at the file of a function alone, and would keep what another file has put into its loops.
        with suppress(AttributeError):
            result._cache._cache_file._source_stamp = _SOURCES  # type: ignore[attr-defined]
        return result

    return decorate


def inlined(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function that compiled ones call: it becomes part of each of them.

    Args:
        options: further ones of :func:`numba.njit`.
    """
    decorate: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(
        error_model="numpy", forceinline=True, **options
    )
    return decorate
