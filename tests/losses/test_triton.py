"""Triton's kernels: the checks in ``triton_checks.py``, on a GPU or in the interpreter, and that they compile for GPUs.

Whether kernels are interpreted is decided when Triton is imported, so each way has a process of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tailwise import LabelStats
from tailwise.losses import create

pytest.importorskip("triton", reason="Triton is not installed on this machine")

CHECKS = Path(__file__).with_name("triton_checks.py")
ROOT = Path(__file__).parents[2]


def run_checks(**environment):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(CHECKS)]
    checked = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout[-6000:] + checked.stderr[-2000:]
    assert re.search(r"\d+ passed", checked.stdout)


def test_kernels_in_the_interpreter():
    run_checks(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU on this machine")
def test_kernels_on_a_gpu():
    run_checks(TRITON_INTERPRET="0")


class Compiled:
    """Stands in for a kernel: compiles what is launched, for a GPU that need not be there, and keeps the programs."""

    def __init__(self, kernel, programs):
        self.kernel, self.programs = kernel, programs

    def __getitem__(self, grid):
        return lambda *arguments, **constants: self.programs.append(
            self.kernel.warmup(*arguments, grid=grid, **constants)
        )


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("name", "dtype", "labels"),
    [
        ("db-focal", torch.bfloat16, "uint8"),
        ("pg", torch.float16, "int8"),
        ("cb-focal", torch.float32, "soft"),
        ("asl", torch.bfloat16, "masked"),
        ("rw", torch.float32, "sparse"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
def test_kernels_compile_for_gpus(name, dtype, labels, capability, monkeypatch, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    from tailwise.losses.backends import triton_kernels
    from tailwise.losses.backends.triton import Triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    gpu = SimpleNamespace(
        get_current_device=lambda: f"not here, {capability}",
        get_current_stream=lambda _: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
    )
    monkeypatch.setattr(driver, "_active", gpu)
    programs = []
    for kernel in ("evaluate", "probability_sums", "row_sums", "scatter", "scale"):
        monkeypatch.setattr(triton_kernels, kernel, Compiled(getattr(triton_kernels, kernel), programs))
    monkeypatch.setattr("tailwise.losses.loss.choose", lambda *_: Triton())
    targets = torch.zeros(64, 300, dtype=torch.int8 if labels == "int8" else torch.uint8)
    targets = targets.float() if labels == "soft" else targets.to_sparse_csr() if labels == "sparse" else targets
    mask = torch.ones(64, 300, dtype=torch.bool) if labels == "masked" else None
    logits = torch.zeros(64, 300, dtype=dtype, requires_grad=True)
    create(name, LabelStats([5] * 300, 800, thresholds=(1, 2)), validate=False)(logits, targets, mask).backward()
    assert len(programs) >= 2  # evaluation and scaling
    assert all(f".target sm_{capability}" in program.asm["ptx"] and program.asm["cubin"] for program in programs)
