"""Compiled code is kept, computes the same bits when read again, and is not used once its sources have changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="the loops are Numba's")

import tailwise
from tests.losses.conftest import SUMS

SUM = """
import numpy as np
from tailwise.losses.backends.numba_sum_loops import row_sums

none = np.empty(0, np.int64)
labels, values, result = np.ones((1, 3), np.int8), np.ones((1, 3), np.float32), np.empty((1, 1), np.float32)
row_sums(labels, none, none, labels[0], np.empty((0, 0), np.bool_), values, result, 0, 1)
print(result[0, 0], sum(row_sums.stats.cache_hits.values()))
"""
DIGESTS = """
import hashlib

import torch
from tailwise.data.pixels.augment import augment
from tailwise.data.pixels.augmentation_loops import vary
from tailwise.labels import LabelStats
from tailwise.losses import FormulaLoss, available, create
from tailwise.losses.backends.numba_loops import evaluate
from tailwise.losses.backends.numba_sum_loops import probability_sums, row_sums

generator = torch.Generator().manual_seed(0)
hard = (torch.rand(64, 83, generator=generator) < 0.2).to(torch.int8)
hard[:2] = torch.tensor([[0], [1]])
soft = hard * 0.9 + 0.05
stats = LabelStats.from_targets(hard)
for name in available():
    if name == "formula" or not isinstance(create(name, stats), FormulaLoss):
        continue
    for dtype in (torch.float32, torch.bfloat16):
        for targets in (hard, soft):
            logits = torch.randn(64, 83, generator=torch.Generator().manual_seed(1)).mul(3).to(dtype).requires_grad_()
            loss = create(name, stats, impl="numba")(logits, targets)
            loss.backward()
            digest = hashlib.sha256(logits.grad.view(torch.uint8).numpy().tobytes()).hexdigest()
            print(name, dtype, targets.dtype, loss.item().hex(), digest)
images = torch.randint(0, 256, (8, 3, 40, 40), dtype=torch.uint8, generator=generator)
varied = augment(images, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), seed=0, epoch=1, positions=torch.arange(8))
print(hashlib.sha256(varied.numpy().tobytes()).hexdigest())
entries = (evaluate, probability_sums, row_sums, vary)
for count in (lambda entry: sum(entry.stats.cache_hits.values()), lambda entry: len(entry.signatures)):
    print(*map(count, entries))
"""


def output_of(program: str, kept: Path, *path: Path) -> list[str]:
    """What a program prints that keeps compiled code in a folder of its own."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(kept)}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_change_in_another_file_counts(tmp_path):
    package = tmp_path / "tailwise"
    source, backends = Path(tailwise.__path__[0]), package / "losses" / "backends"
    backends.mkdir(parents=True)
    for folder in (package, package / "losses", backends):
        (folder / "__init__.py").touch()
    shutil.copy(source / "loops.py", package)
    for name in ("numba_loops.py", "numba_sum_loops.py"):
        shutil.copy(source / "losses" / "backends" / name, backends)
    kept = tmp_path / "kept"
    assert output_of(SUM, kept, tmp_path) == ["3.0 0"]
    assert output_of(SUM, kept, tmp_path) == ["3.0 1"]  # what was kept
    with (backends / "numba_loops.py").open("a") as file:
        file.write("# another file than that of the function\n")
    assert output_of(SUM, kept, tmp_path) == ["3.0 0"]


def test_what_was_kept_computes_the_same_bits(tmp_path):
    *compiled, read, needed = output_of(DIGESTS, tmp_path)
    assert len(compiled) == 4 * (len(SUMS) - 1) + 1
    assert read == "0 0 0 0"
    assert output_of(DIGESTS, tmp_path) == [*compiled, needed, needed]
