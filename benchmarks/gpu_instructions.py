"""Machine instructions that the GPU kernels spend on a logit: ``python -m benchmarks.gpu_instructions``.

It needs no GPU: the kernels are compiled for one as they are launched for bfloat16 logits with uint8 labels, and the
instructions of one pass of their loops are counted.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from jsonargparse import auto_cli
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tailwise import LabelStats
from tailwise.losses import create
from tailwise.losses.backends import triton_kernels
from tailwise.losses.backends.triton import Triton

LOSSES = ("bce", "focal", "db-focal", "pg", "asl")
KERNELS = ("row_sums", "probability_sums", "evaluate")
THREADS, CLASSES = 128, 32_768
NVDISASM = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"


def count(capability: int = 90) -> None:
    """Print the table.

    Args:
        capability: compute capability of the GPU, times 10.
    """
    print(f"triton {triton.__version__}, compute capability {capability / 10}\n")
    print("| loss | kernel | instructions per logit | of those special |")
    print("|---|---|---|---|")
    for loss in LOSSES:
        for kernel, (all_of_them, special) in counts(loss, capability).items():
            print(f"| {loss} | {kernel} | {all_of_them:.1f} | {special:.1f} |")


def counts(loss: str, capability: int) -> dict[str, tuple[float, float]]:
    """Instructions per logit of each kernel that a loss launches, and how many the special function unit does."""
    found: dict[str, tuple[float, float]] = {}

    def stand_in(name: str, kernel: Any) -> Any:
        def launch(*arguments: Any, **constants: Any) -> None:
            program = kernel.warmup(*arguments, grid=(1,), **constants)
            loop = longest_loop(instructions(program.asm["cubin"]))
            pairs = constants["ROWS"] * constants["COLUMNS"] / THREADS
            found[name] = len(loop) / pairs, sum(line.startswith("MUFU") for line in loop) / pairs

        return mock.MagicMock(__getitem__=lambda *_: launch)

    gpu = SimpleNamespace(
        get_current_device=lambda: f"not here, {capability}",
        get_current_stream=lambda _: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
    )
    stand_ins = {name: stand_in(name, getattr(triton_kernels, name)) for name in KERNELS}
    with (
        mock.patch.object(driver, "_active", gpu),
        mock.patch.multiple(triton_kernels, **stand_ins),
        mock.patch("tailwise.losses.loss.choose", return_value=Triton()),
    ):
        logits = torch.zeros(64, CLASSES, dtype=torch.bfloat16, requires_grad=True)
        create(loss, LabelStats([5] * CLASSES, 800), validate=False)(logits, torch.zeros(64, CLASSES).byte())
    return found


def instructions(cubin: bytes) -> list[str]:
    """The instructions and labels of a program."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([NVDISASM, "-c", file.name], capture_output=True, text=True, check=True).stdout
    lines = (re.sub(r"/\*.*?\*/", "", line).strip().rstrip(" ;") for line in text.splitlines())
    return [re.sub(r"^@!?U?P\w+\s+", "", line) for line in lines if line and not re.match(r"\.(?!L_)|//", line)]


def longest_loop(lines: list[str]) -> list[str]:
    """The instructions from a label to the last branch back to it."""
    starts = {line.rstrip(":"): index for index, line in enumerate(lines) if line.startswith(".L_")}
    loops = [
        lines[starts[target[0]] + 1 : index + 1]
        for index, line in enumerate(lines)
        if line.startswith("BRA") and (target := re.findall(r"\.L_\w+", line)) and starts.get(target[0], index) < index
    ]
    return [line for line in max(loops, key=len) if not line.startswith(".L_")]


if __name__ == "__main__":
    auto_cli(count)
