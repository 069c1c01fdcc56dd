"""The text of compiled loops: a call, branch or gather that is left in one makes it up to four times as slow."""

from __future__ import annotations

import re

import pytest
import torch

numba = pytest.importorskip("numba", reason="the loops are Numba's")

from tailwise.data.pixels.augment import augment  # noqa: E402
from tailwise.kernels import augmentation, sums, term  # noqa: E402
from tailwise.labels import LabelStats  # noqa: E402
from tailwise.losses import create  # noqa: E402

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


def compiled_text(function, signature) -> str:
    """The text of a function that is compiled anew: of what was kept there is none."""
    options = {key: function.targetoptions[key] for key in ("error_model", "fastmath")}
    (text,) = numba.njit(signature, **options)(function.py_func).inspect_llvm().values()
    return text


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_becomes_vector_instructions(name):
    text = compiled_text(getattr(term, name, None) or getattr(sums, name), LOOPS[name])
    assert ARITHMETIC.search(text), f"{name} computes one class at a time"
    assert "masked.gather" not in text, f"{name} reads one class at a time"


@pytest.mark.parametrize("entry", [term.evaluate, sums.probability_sums, sums.row_sums, augmentation.vary])
def test_what_a_compiled_function_calls_is_part_of_it(entry):
    targets = torch.eye(4, 10)
    create("pg", LabelStats(targets.sum(0).int().clamp(1).numpy(), 100), impl="numba")(torch.zeros(4, 10), targets)
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    augment(images, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), seed=0, epoch=0, positions=torch.arange(1))
    text = compiled_text(entry, entry.signatures[0])
    names = re.findall(r"^define [^@\n]*@(\S*tailwise\S*)", text, re.MULTILINE)
    assert any(entry.__name__ in name for name in names)
    assert [name for name in names if entry.__name__ not in name] == []
