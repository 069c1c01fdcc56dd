"""Average precision of every class beside scikit-learn and torchmetrics: ``python -m benchmarks.average_precision``.

All get the same matrix of normally distributed scores, those of positives higher by 2 on average, and compute all
classes in one process, interleaved. scikit-learn is called class by class, which is faster than its ``average=None``;
torchmetrics takes the exact way (``thresholds=None``). Prints Markdown tables of medians.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numba
import numpy as np
import sklearn
import torch
import torchmetrics
from jsonargparse import auto_cli
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import multilabel_average_precision

from benchmarks.timing import machine, seconds
from tailwise.metrics import average_precision


def compare(
    samples: int = 20_000,
    classes: int = 2_000,
    rates: Sequence[float] = (0.02, 0.002),
    repeats: int = 5,
    peer_repeats: int = 1,
) -> None:
    """Print a table for each rate of positives.

    Args:
        samples: rows of the matrix.
        classes: columns of the matrix.
        rates: shares of labels that are positive.
        repeats: interleaved repeats, after one round of ours that compiles.
        peer_repeats: in so many of them, scikit-learn and torchmetrics take part, which take twenty times as long.
    """
    print(f"{machine(np, numba, sklearn, torchmetrics)}; medians of {repeats} calls, of {peer_repeats} for the peers\n")
    for rate in rates:
        targets = labels(samples, classes, rate)
        scores = np.random.default_rng(1).standard_normal((samples, classes), dtype=np.float32)
        scores += 2 * targets.astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            mapped = [on_disk(values, Path(folder) / name) for name, values in (("s", scores), ("t", targets))]
            title = f"{samples:,} × {classes:,}, {100 * rate:g} % positive"
            print_times(title, contestants(scores, targets, mapped), repeats, peer_repeats)
            print_memory(functools.partial(average_precision, *mapped))


def labels(samples: int, classes: int, rate: float) -> NDArray[np.int8]:
    """Independent labels, with a positive in every class, without which scikit-learn warns."""
    targets = (np.random.default_rng(0).random((samples, classes), dtype=np.float32) < rate).astype(np.int8)
    targets[np.arange(classes) % samples, np.arange(classes)] = 1
    return targets


def on_disk(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """The same matrix, mapped read-only from a file that the system has at hand."""
    values.tofile(path)
    return np.memmap(path, values.dtype, "r", shape=values.shape)


def contestants(
    scores: NDArray[np.float32], targets: NDArray[np.int8], mapped: list[NDArray[Any]]
) -> dict[str, Callable[[], NDArray[np.float64]]]:
    """By name, what computes the (K,) average precision of every class. scikit-learn is the first, ours the last."""
    classes = scores.shape[1]
    score_tensor, target_tensor = torch.from_numpy(scores), torch.from_numpy(targets).long()

    def by_scikit_learn() -> NDArray[np.float64]:
        return np.array([average_precision_score(targets[:, k], scores[:, k]) for k in range(classes)])

    def by_torchmetrics() -> NDArray[np.float64]:
        result = multilabel_average_precision(score_tensor, target_tensor, classes, average=None, thresholds=None)
        return result.numpy()

    def without_numba() -> NDArray[np.float64]:
        module = sys.modules[average_precision.__module__]
        with mock.patch.object(module, "_fastest_count", return_value=vars(module)["_count_by_sorting"]):
            return average_precision(scores, targets).numpy()

    found = {"scikit-learn": by_scikit_learn, "torchmetrics": by_torchmetrics}
    if torch.cuda.is_available():
        on_gpu = score_tensor.cuda(), target_tensor.cuda()
        found[f"ours, {torch.cuda.get_device_name()}"] = lambda: average_precision(*on_gpu).cpu().numpy()
    return found | {
        "ours, without Numba": without_numba,
        "ours, mapped files": lambda: average_precision(*mapped).numpy(),
        "ours": lambda: average_precision(scores, targets).numpy(),
    }


def print_times(
    title: str, functions: dict[str, Callable[[], NDArray[np.float64]]], repeats: int, peer_repeats: int
) -> None:
    """Print how long each takes, and by how much its result differs from the first one's."""
    results: dict[str, NDArray[np.float64]] = {"ours": functions["ours"]()}  # compiles

    def call(name: str) -> None:
        results[name] = functions[name]()

    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats):
        for name in functions:
            if name.startswith("ours") or repeat < peer_repeats:
                times[name].append(seconds(functools.partial(call, name)))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    reference = results[next(iter(functions))]
    print(f"| {title} | s | it / ours | largest difference from scikit-learn |\n|---|---|---|---|")
    for name, median in medians.items():
        difference = np.abs(results[name] - reference).max()
        print(f"| {name} | {median:.3f} | {median / medians['ours']:.2f} | {difference:.0e} |", flush=True)


def print_memory(function: Callable[[], Any]) -> None:
    """Print the memory that a call allocates at most."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"\nAllocated at most at one time, from mapped files: {peak / 2**20:.1f} MiB\n")


if __name__ == "__main__":
    auto_cli(compare, as_positional=True)
