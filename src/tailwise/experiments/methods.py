"""Methods side by side: each a training configuration, run over seeds, with mean and standard deviation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from tailwise.config import TrainConfig
from tailwise.training.outputs import METRICS_FILE
from tailwise.training.run import train


@dataclass(frozen=True)
class Method:
    """A name for options of :class:`~tailwise.config.TrainConfig` that differ from those all methods share.

    Attributes:
        name: how tables call it, and its folder.
        options: values by option; a mapping for a nested configuration such as ``optim`` changes only what it names.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def configure(self, shared: TrainConfig, seed: int) -> TrainConfig:
        """The configuration of one run, in a folder of its own below the shared output."""
        changes = {
            option: replace(getattr(shared, option), **value) if option in ("optim", "model", "augment") else value
            for option, value in self.options.items()
        }
        return replace(shared, **changes, seed=seed, output=str(Path(shared.output) / self.name / f"seed{seed}"))


@dataclass(frozen=True)
class Row:
    """What the runs of one method found.

    Attributes:
        method: its name.
        scores: mAP in percent of each run, by group; None where the group has no class with test positives.
        seconds: wall time of each run.
    """

    method: str
    scores: Mapping[str, Sequence[float | None]]
    seconds: Sequence[float]

    def cell(self, group: str) -> str:
        """Mean ± standard deviation over the runs; the mean alone of one run, "-" without a value."""
        values = [value for value in self.scores[group] if value is not None]
        if not values:
            return "-"
        spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
        return f"{fmean(values):.2f}{spread}"


def run_methods(
    shared: TrainConfig, methods: Sequence[Method], seeds: Sequence[int], *, workers: int = 1
) -> Iterator[Row]:
    """Run every method with every seed, and yield a row as soon as the seeds of a method are through.

    Finished runs in the shared output folder are taken as they are, unfinished ones go on, if they had the same
    options; so a table that was interrupted can be taken up again.

    Args:
        shared: the configuration that the methods change; its output folder holds all runs.
        methods: what to run.
        seeds: seeds of each method.
        workers: runs at a time, which share the processor's cores; 1 runs in this process.

    Raises:
        InputError: as :func:`tailwise.training.run.train`, also when a folder holds a run with other options.
    """
    configurations = [[method.configure(shared, seed) for seed in seeds] for method in methods]
    if workers == 1:
        found: Iterator[list[dict[str, Any]]] = ([_run(config) for config in group] for group in configurations)
        yield from (_row(method, runs) for method, runs in zip(methods, found, strict=True))
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        pending = [[pool.submit(_run, config) for config in group] for group in configurations]
        for method, futures in zip(methods, pending, strict=True):
            yield _row(method, [future.result() for future in futures])


def markdown_table(rows: Sequence[Row], *, seconds: bool = False) -> str:
    """The rows as a Markdown table of mAP in percent, the best mean of each column in bold."""
    groups = list(rows[0].scores)
    best = {group: max((_mean(row, group) for row in rows), default=0.0) for group in groups}
    lines = ["| method | " + " | ".join(groups) + (" | s per run |" if seconds else " |")]
    lines.append("|---|" + "---|" * (len(groups) + seconds))
    for row in rows:
        cells = [f"**{row.cell(g)}**" if _mean(row, g) == best[g] else row.cell(g) for g in groups]
        time = f" | {fmean(row.seconds):.1f} |" if seconds else " |"
        lines.append(f"| {row.method} | " + " | ".join(cells) + time)
    return "\n".join(lines)


def _row(method: Method, runs: Sequence[dict[str, Any]]) -> Row:
    scores = {group: [metrics["mAP"][group] for metrics in runs] for group in runs[0]["mAP"]}
    return Row(method.name, scores, [metrics["seconds"] for metrics in runs])


def _run(config: TrainConfig) -> dict[str, Any]:
    resume = (Path(config.output) / METRICS_FILE).parent.exists()
    result = train(replace(config, resume=resume))
    if result is not None:
        return result.metrics
    metrics: dict[str, Any] = json.loads((Path(config.output) / METRICS_FILE).read_text(encoding="utf-8"))
    return metrics


def _mean(row: Row, group: str) -> float:
    return fmean([value for value in row.scores[group] if value is not None] or [float("-inf")])
