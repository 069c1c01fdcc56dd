"""Compiling a loop with Numba, and keeping what was compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function to be compiled at its first call, and to run without Python's lock.

    Args:
        options: further ones of :func:`numba.njit`.
    """
    compile_it = partial(numba.njit, nogil=True, error_model="numpy", **options)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            result: Callable[..., Any] = compile_it(cache=True)(function)
        except RuntimeError:  # nowhere to keep compiled code: each process compiles
            result = compile_it()(function)
        return result

    return decorate
