"""Speed of losses, forward and backward, against their peers on a CPU: ``python -m benchmarks.losses``.

Every row of a table is timed in turn with the others, round after round; ratios are medians over rounds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import timm
import timm.loss
import torch
import torchvision
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from benchmarks.timing import copy_bandwidth, machine, peak_memory, side_by_side
from tailwise import LabelStats
from tailwise.losses import create

SHAPES = ((32, 80), (512, 2000), (256, 100_000))
OURS = ("bce", "focal", "asl", "db-focal", "pg")
PAIRS_PER_REPEAT = 20_000_000
"""So many logits are gone through by each row before a table ends, in at least seven rounds."""


def compare(implementations: tuple[str, ...] = ("auto", "eager"), positives: float = 0.02) -> None:
    """Print a table for each shape and type of logits.

    Args:
        implementations: of our losses.
        positives: share of positive labels.
    """
    bandwidth = copy_bandwidth()
    print(f"{machine(timm, torchvision)}; a copy moves {bandwidth / 1e9:.1f} GB/s")
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            table(shape, dtype, implementations, positives, bandwidth)


def table(
    shape: tuple[int, int], dtype: torch.dtype, implementations: tuple[str, ...], positives: float, bandwidth: float
) -> None:
    """Time all losses on one batch."""
    samples, classes = shape
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    hard = torch.rand(shape, generator=generator) < positives
    labels, floats = hard.to(torch.uint8), hard.to(dtype)
    rows: dict[str, tuple[int, Callable[[], Tensor]]] = {
        # What a perfect program moves per logit: logits and labels read once, gradients written once.
        name: (2 * dtype.itemsize + floats.element_size(), call)
        for name, call in peers(logits, floats, hard).items()
    }
    stats = LabelStats(hard.sum(0).clamp(1, samples - 1).numpy() * 10, samples * 10)
    for name in OURS:
        for impl in implementations:
            loss = create(name, stats, impl=impl)
            rows[f"{name}, impl={impl}"] = (2 * dtype.itemsize + 1, lambda loss=loss: loss(logits, labels))

    def steps(call: Callable[[], Tensor]) -> Callable[[], None]:
        def step() -> None:
            logits.grad = None
            call().backward()

        return step

    repeats = max(7, min(301, PAIRS_PER_REPEAT // (samples * classes)))
    timings = side_by_side({name: steps(call) for name, (_, call) in rows.items()}, repeats)
    db = timings["timm DB"].seconds
    print(
        f"\n{samples} × {classes:,}, {str(dtype).removeprefix('torch.')}, {repeats} rounds\n\n"
        "| forward and backward | ms | / torch BCE | timm DB / it | limit, ms | peak memory / gradient |\n"
        "|---|---|---|---|---|---|"
    )
    for name, (limit, call) in rows.items():
        seconds, ratio = timings[name]
        logits.grad = None
        share = peak_memory(steps(call)) / (logits.numel() * logits.element_size())
        memory = f"{share:.2f}" if logits.numel() > 1 << 20 else ""
        print(
            f"| {name} | {1e3 * seconds:.3f} | {ratio:.2f} | {db / seconds:.1f} "
            f"| {1e3 * limit * logits.numel() / bandwidth:.3f} | {memory} |",
            flush=True,
        )


def peers(logits: Tensor, floats: Tensor, hard: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The peers' losses; the first is what ratios refer to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = hard.sum(0).clamp(min=1).float() * 10
        balanced = timm.loss.DistributionBalancedLoss(counts, num_samples=len(hard) * 10)
    asymmetric = timm.loss.AsymmetricLossMultiLabel()
    return {
        "torch BCE": lambda: functional.binary_cross_entropy_with_logits(logits, floats),
        "torchvision focal": lambda: sigmoid_focal_loss(logits, floats, reduction="mean"),
        "timm ASL": lambda: asymmetric(logits, floats),
        "timm DB": lambda: balanced(logits, floats),
    }


if __name__ == "__main__":
    auto_cli(compare)
