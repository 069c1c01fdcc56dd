"""Speed and memory of a head with its loss in chunks of classes against the plain way: ``python -m benchmarks.linear``.

Each way runs in a process of its own, since what counts is the peak of its resident memory; processes take turns.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import timm.loss
import torch
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn import functional

from benchmarks.timing import machine
from tailwise import LabelStats
from tailwise.losses import ChunkedSGD, create, linear_loss

SAMPLES, WIDTH, POSITIVES = 512, 256, 20
Way = Literal["timm DB", "plain", "chunks", "chunks with steps"]


def compare(
    labels: tuple[int, ...] = (10_000, 131_072, 1_000_000),
    plain_up_to: int = 131_072,
    loss: str = "db-focal",
    rounds: int = 3,
    steps: int = 3,
) -> None:
    """Print the table.

    Args:
        labels: numbers of classes.
        plain_up_to: most classes of the ways that make all logits.
        loss: name of the loss; timm's has one.
        rounds: processes of each way.
        steps: steps of each process; the first is left out.
    """
    print(
        f"{machine()}; {SAMPLES} samples of {WIDTH} features, {POSITIVES} positives each in CSR, {loss}, "
        f"medians of {rounds} processes of {steps - 1} steps\n\n"
        "| labels | precision | way | s per step | µs per label | peak memory, MiB | without libraries "
        "| time / chunks | memory / chunks |\n|---|---|---|---|---|---|---|---|---|"
    )
    for classes in labels:
        for precision in ("fp32", "bf16"):
            ways: list[Way] = ["chunks", "chunks with steps"]
            if classes <= plain_up_to:
                ways += ["plain", "timm DB"]
            results: dict[Way, list[tuple[float, float, float]]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way in ways:
                    results[way].append(in_a_process(way, classes, precision, loss, steps))
            medians = {way: tuple(map(statistics.median, zip(*pairs, strict=True))) for way, pairs in results.items()}
            for way, (seconds, peak, own) in medians.items():
                base_seconds, _, base = medians["chunks"]
                print(
                    f"| {classes:,} | {precision} | {way} | {seconds:.2f} | {1e6 * seconds / classes:.2f} "
                    f"| {peak:,.0f} | {own:,.0f} | {seconds / base_seconds:.2f} | {own / base:.2f} |",
                    flush=True,
                )


def in_a_process(way: Way, classes: int, precision: str, loss: str, steps: int) -> tuple[float, float, float]:
    """Seconds per step, peak memory in MiB, and how much of it the libraries did not take."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.linear",
        "one",
        json.dumps([way, classes, precision, loss, steps]),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak, before = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak, peak - before


def one(way: Way, classes: int, precision: str, loss_name: str, steps: int) -> None:
    """Run some steps and print what they took."""
    before = _peak()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(SAMPLES, WIDTH, generator=generator).requires_grad_()
    weight = (0.02 * torch.randn(classes, WIDTH, generator=generator)).requires_grad_()
    bias = torch.zeros(classes, requires_grad=True)
    apart = classes // POSITIVES
    columns = torch.randint(apart, (SAMPLES, POSITIVES), generator=generator) + apart * torch.arange(POSITIVES)
    entries = torch.ones(SAMPLES * POSITIVES, dtype=torch.uint8)
    bounds = torch.arange(0, len(entries) + 1, POSITIVES)
    targets = torch.sparse_csr_tensor(bounds, columns.flatten(), entries, (SAMPLES, classes))
    counts = np.random.default_rng(0).zipf(1.5, classes).clip(1, 5000)
    call = step_of(way, create(loss_name, LabelStats(counts, 100_000)), counts, features, weight, bias, targets)
    seconds = []
    for _ in range(steps):
        features.grad = weight.grad = bias.grad = None
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            value = call()
        value.backward()
        seconds.append(time.perf_counter() - started)
    print(json.dumps([statistics.median(seconds[1:]), _peak(), before]))


def step_of(
    way: Way, loss: Any, counts: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor
) -> Callable[[], Tensor]:
    """The loss of a step, done in some way."""
    if way == "chunks":
        return lambda: linear_loss(features, weight, bias, targets, loss)
    if way == "chunks with steps":
        sgd = ChunkedSGD(0.1)
        return lambda: linear_loss(features, weight, bias, targets, loss, sgd=sgd)
    dense = targets.to_dense()
    if way == "plain":
        return lambda: loss(functional.linear(features, weight, bias), dense)
    balanced = timm.loss.DistributionBalancedLoss(torch.from_numpy(counts).float(), num_samples=100_000)
    floats = dense.float()
    return lambda: balanced(functional.linear(features, weight, bias), floats)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["one"]:
        one(*json.loads(sys.argv[2]))
    else:
        auto_cli(compare)
