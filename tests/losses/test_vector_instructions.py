"""The text of compiled loops: a call, branch or gather that is left in one makes it up to four times as slow."""

from __future__ import annotations

import re

import pytest
import torch

numba = pytest.importorskip("numba", reason="the loops are Numba's")

from tailwise.data.pixels.augment import augment  # noqa: E402
from tailwise.data.pixels.augmentation_loops import vary  # noqa: E402
from tailwise.labels import LabelStats  # noqa: E402
from tailwise.losses import create  # noqa: E402
from tailwise.losses.backends import numba_loops, numba_sum_loops  # noqa: E402
from tailwise.losses.backends.numba_loops import evaluate  # noqa: E402
from tailwise.losses.backends.numba_sum_loops import probability_sums, row_sums  # noqa: E402

FLOATS, FLOAT, INTEGER = numba.float32[::1], numba.float32, numba.int64
ON_A_PIECE = (FLOATS, INTEGER)
OF_A_SIDE = (*ON_A_PIECE, INTEGER, FLOAT)
TABLES = ("SELECTIONS", "POSITIVE_SHARES", "NEGATIVE_SHARES")
LOOPS = {
    "_add_probabilities": ON_A_PIECE,
    "_leave_out_unknown": ON_A_PIECE,
    "_unlike": ON_A_PIECE,
    "_finish": (*ON_A_PIECE, FLOAT),
    "_row_sum": (numba.int8[::1], FLOATS),
    "_masked_row_sum": (numba.int8[::1], numba.boolean[::1], FLOATS),
}
ARITHMETIC = re.compile(r"= f(?:add|sub|mul|div|cmp)\b[^\n]*<(?:vscale x )?\d+ x float>")


def compiled_text(function, signature) -> str:
    """The text of a function that is compiled anew: of what was kept there is none."""
    options = {key: function.targetoptions[key] for key in ("error_model", "fastmath")}
    (text,) = numba.njit(signature, **options)(function.py_func).inspect_llvm().values()
    return text


def assert_vectors(function, signature):
    text = compiled_text(function, signature)
    assert ARITHMETIC.search(text), f"{function} computes one class at a time"
    assert "masked.gather" not in text, f"{function} reads one class at a time"


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_becomes_vector_instructions(name):
    assert_vectors(getattr(numba_loops, name, None) or getattr(numba_sum_loops, name), LOOPS[name])


@pytest.mark.parametrize(("table", "kind"), [(table, kind) for table in TABLES for kind in getattr(numba_loops, table)])
def test_the_loop_of_a_kind_of_side_becomes_vector_instructions(table, kind):
    assert_vectors(getattr(numba_loops, table)[kind], OF_A_SIDE)


@pytest.mark.parametrize("entry", [evaluate, probability_sums, row_sums, vary])
def test_what_a_compiled_function_calls_is_part_of_it(entry):
    targets = torch.eye(4, 10)
    create("pg", LabelStats(targets.sum(0).int().clamp(1).numpy(), 100), impl="numba")(torch.zeros(4, 10), targets)
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    augment(images, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), seed=0, epoch=0, positions=torch.arange(1))
    text = compiled_text(entry, entry.signatures[0])
    names = re.findall(r"^define [^@\n]*@(\S*tailwise\S*)", text, re.MULTILINE)
    assert any(entry.__name__ in name for name in names)
    assert [name for name in names if entry.__name__ not in name] == []
