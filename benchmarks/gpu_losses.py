"""Losses on a CUDA GPU against what its memory allows: ``python -m benchmarks.gpu_losses``.

A loss with its gradient must at least read every logit and label and write every derivative: 5 bytes for bfloat16
logits and uint8 labels. Those bytes by the time it takes are compared with what a plain copy reaches in the same run.
All programs take turns, with the second-level cache emptied before each, and the median of the repeats counts.
"""

from __future__ import annotations

import platform
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tailwise import LabelStats
from tailwise.losses import create

LOSSES = ("bce", "focal", "asl", "db-focal", "pg")
IMPLEMENTATIONS = ("eager", "triton")
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
COPIED_BYTES, FLUSHED_BYTES = 1 << 30, 1 << 28
WARM_UPS = 3

Program = Callable[[], object]


def compare(
    rows: int = 4096,
    classes: int = 32_768,
    precision: Literal["bf16", "fp16", "fp32"] = "bf16",
    positives: float = 0.01,
    repeats: int = 20,
) -> None:
    """Print the table.

    Args:
        rows: samples of the batch.
        classes: labels of each sample.
        precision: type of the logits; labels are uint8.
        positives: share of labels that are 1.
        repeats: timed calls of each program.
    """
    if not torch.cuda.is_available():
        print("there is no CUDA GPU on this machine, so there is nothing to measure", file=sys.stderr)
        raise SystemExit(2)
    import triton  # comes with torch for CUDA

    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)
    dtype = PRECISIONS[precision]
    logits = torch.randn(rows, classes, device=device, dtype=dtype, generator=generator).sub_(3).requires_grad_()
    targets = torch.empty(rows, classes, device=device, dtype=torch.uint8).bernoulli_(positives, generator=generator)
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device)
    programs = {("copy", "torch"): partial(torch.empty_like(source).copy_, source)}
    programs |= loss_programs(logits, targets)
    memory = {key: peak_memory(program) for key, program in programs.items()}
    times = interleaved_times(programs, repeats)

    copied = 2 * COPIED_BYTES / times["copy", "torch"]
    moved = logits.numel() * (2 * logits.element_size() + targets.element_size())
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, Python "
        f"{platform.python_version()}; {rows} x {classes} {precision} logits, uint8 labels, {positives:.2%} positive; "
        f"medians of {repeats}; a copy moves {copied / 1e9:.0f} GB/s\n"
    )
    print("| loss and gradient | by | ms | GB/s of the least bytes | share of a copy | more memory at its peak, MiB |")
    print("|---|---|---|---|---|---|")
    for (name, impl), seconds in times.items():
        if name != "copy":
            speed = moved / seconds
            print(
                f"| {name} | {impl} | {1e3 * seconds:.3f} | {speed / 1e9:.0f} | {speed / copied:.0%} "
                f"| {memory[name, impl] / 2**20:.0f} |"
            )


def loss_programs(logits: Tensor, targets: Tensor) -> dict[tuple[str, str], Program]:
    """Value and gradient of every loss by every implementation, and of torch's own BCE."""
    counts = torch.logspace(4, 0, logits.shape[1], dtype=torch.float64).long().clamp(min=1)
    stats = LabelStats(counts.tolist(), 20_000)
    # What torch's function takes: labels of the type of the logits, made outside of what is timed.
    likewise = targets.to(logits.dtype)
    programs: dict[tuple[str, str], Program] = {
        ("bce", "torch.nn.functional"): partial(differentiate, binary_cross_entropy_with_logits, logits, likewise)
    }
    for name in LOSSES:
        for impl in IMPLEMENTATIONS:
            loss = create(name, stats, impl=impl, validate=False).to(logits.device)
            programs[name, impl] = partial(differentiate, loss, logits, targets)
    return programs


def differentiate(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor) -> Tensor:
    """The gradient of a loss by the logits."""
    (gradient,) = torch.autograd.grad(loss(logits, targets), logits)
    return gradient


def peak_memory(program: Program) -> int:
    """Warm a program up, and return the bytes that it allocates at its peak."""
    for _ in range(WARM_UPS):
        program()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    program()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def interleaved_times(programs: dict[tuple[str, str], Program], repeats: int) -> dict[tuple[str, str], float]:
    """Median seconds of each program, which take turns."""
    cache = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device="cuda")
    events: dict[tuple[str, str], list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {key: [] for key in programs}
    for _ in range(repeats):
        for key, program in programs.items():
            cache.zero_()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            program()
            end.record()
            events[key].append((start, end))
    torch.cuda.synchronize()
    return {key: statistics.median(s.elapsed_time(e) for s, e in pairs) / 1e3 for key, pairs in events.items()}


if __name__ == "__main__":
    auto_cli(compare)
