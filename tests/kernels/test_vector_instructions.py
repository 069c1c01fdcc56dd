"""Loops over a piece become vector instructions: a call or branch that is left in one makes it four times as slow."""

from __future__ import annotations

import re

import pytest

numba = pytest.importorskip("numba", reason="the loops are Numba's")

from tailwise.kernels import sums, term  # noqa: E402 - they need Numba

FLOATS, FLOAT, INTEGER = numba.float32[::1], numba.float32, numba.int64
ON_A_PIECE = (FLOATS, INTEGER)
LOOPS = {
    "_select_side": ON_A_PIECE,
    "_select_focal_side": ON_A_PIECE,
    "_select_squared_side": ON_A_PIECE,
    "_select_plain_side": ON_A_PIECE,
    "_positive_share": ON_A_PIECE,
    "_positive_focal_share": ON_A_PIECE,
    "_positive_plain_share": ON_A_PIECE,
    "_add_negative_share": (*ON_A_PIECE, FLOAT),
    "_add_negative_focal_share": (*ON_A_PIECE, FLOAT),
    "_add_negative_plain_share": (*ON_A_PIECE, FLOAT),
    "_add_margin_share": (*ON_A_PIECE, FLOAT),
    "_add_probabilities": ON_A_PIECE,
    "_leave_out_unknown": ON_A_PIECE,
    "_unlike": ON_A_PIECE,
    "_finish": (*ON_A_PIECE, FLOAT),
    "_row_sum": (numba.int8[::1], FLOATS),
    "_masked_row_sum": (numba.int8[::1], numba.boolean[::1], FLOATS),
}
ARITHMETIC = re.compile(r"= f(?:add|sub|mul|div|cmp)\b[^\n]*<(?:vscale x )?\d+ x float>")


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_becomes_vector_instructions(name):
    loop = getattr(term, name, None) or getattr(sums, name)
    options = {key: loop.targetoptions[key] for key in ("error_model", "fastmath")}
    anew = numba.njit(LOOPS[name], **options)(loop.py_func)
    (text,) = anew.inspect_llvm().values()
    assert ARITHMETIC.search(text), f"{name} computes one class at a time"
    assert "masked.gather" not in text, f"{name} reads one class at a time"
