"""Methods side by side: each a training configuration, run over seeds, with mean and standard deviation."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tailwise.config import NO_SPLIT, SamplerName, TrainConfig
from tailwise.errors import InputError
from tailwise.experiments.runs import Run, execute, unfinished
from tailwise.spelling import near
from tailwise.training.outputs import METRICS_FILE
from tailwise.training.run import train

NESTED = ("optim", "model", "augment")
"""Options of a run that are configurations themselves."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Method:
    """A name for options of :class:`~tailwise.config.TrainConfig` that differ from those all methods share.

    Attributes:
        name: how tables call it, and its folder.
        options: values by option; a mapping for a nested configuration such as ``optim`` changes only what it names.
        title: what it is, for readers; the name when empty.
        search: further options to try, each laid over ``options``.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    search: tuple[Mapping[str, Any], ...] = ()

    def configure(self, shared: TrainConfig, seed: int) -> TrainConfig:
        """The configuration of one run, in a folder of its own below the shared output.

        Raises:
            InputError: there is no such option, or a value is out of its range.
        """
        changes: dict[str, Any] = {}
        for option, value in self.options.items():
            nested = getattr(shared, option) if option in NESTED else None
            _require_options(
                "a run" if nested is None else option,
                shared if nested is None else nested,
                [option] if nested is None else value,
            )
            changes[option] = value if nested is None else replace(nested, **value)
        return replace(shared, **changes, seed=seed, output=str(Path(shared.output) / self.name / f"seed{seed}"))

    def run(self, shared: TrainConfig, seed: int) -> Run:
        """One run, in a folder of its own below the shared output."""
        name = f"{self.name}/seed{seed}"
        return Run(name, Path(shared.output) / name, partial(self.configure, shared, seed))

    def tried(self, candidate: Mapping[str, Any]) -> Method:
        """This method with options of its search laid over its own."""
        merged = dict(self.options)
        for option, value in candidate.items():
            own = merged.get(option)
            merged[option] = {**own, **value} if isinstance(own, Mapping) and isinstance(value, Mapping) else value
        return replace(self, options=merged)

    def sampled(self, sampler: SamplerName) -> Method:
        """This method with another sampler, called ``NAME@SAMPLER``."""
        return replace(
            self,
            name=f"{self.name}@{sampler}",
            options={**self.options, "sampler": sampler},
            title=f"{self.title or self.name}, {sampler} sampling",
        )


@dataclass(frozen=True)
class Row:
    """What the runs of one method found.

    Attributes:
        method: its name.
        scores: mAP in percent of each run, by group; None where the group has no class that can be scored.
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
        InputError: a run failed, a folder holds a run with other options, or there is no test split.
    """
    require_test(shared)
    shared = replace(shared, keep_backbone=False)  # a hundred runs need not keep the same one each
    planned = [[method.run(shared, seed) for seed in seeds] for method in methods]
    if workers == 1:
        for method, runs in zip(methods, planned, strict=True):
            for run in runs:
                config = run.configure()
                train(replace(config, resume=run.folder.exists()))
            yield _row(method, runs)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    missing = unfinished(run for runs in planned for run in runs)
    open_names = {run.name for run in missing}
    waiting = list(zip(methods, planned, strict=True))
    with closing(execute(missing, workers=workers, threads=threads)) as outcomes:
        while waiting:
            method, runs = waiting[0]
            if open_names.isdisjoint(run.name for run in runs):
                yield _row(*waiting.pop(0))
                continue
            run, outcome = next(outcomes)
            for message in outcome.messages:
                _logger.warning("%s: %s", run.name, message)
            if outcome.failure is not None:
                raise InputError(f"{run.name}: {outcome.failure.reason}")
            open_names.remove(run.name)


def require_test(shared: TrainConfig) -> None:
    """Refuse runs that would be tested on nothing, of which there would be nothing to report.

    Raises:
        InputError: they would.
    """
    if shared.test_split == NO_SPLIT:
        raise InputError(
            f"--test_split {NO_SPLIT}: methods are compared by what they score on a test split; give its name "
            "(tailwise train alone can do without)"
        )


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


def _require_options(owner: str, options: Any, names: Iterable[str]) -> None:
    known = [entry.name for entry in fields(options)]
    for name in names:
        if name not in known:
            raise InputError(f"{owner} has no option {name!r}{near(name, known)}")


def _row(method: Method, runs: Sequence[Run]) -> Row:
    found = [json.loads((run.folder / METRICS_FILE).read_text(encoding="utf-8")) for run in runs]
    scores = {group: [metrics["mAP"][group] for metrics in found] for group in found[0]["mAP"]}
    return Row(method.name, scores, [metrics["seconds"] for metrics in found])


def _mean(row: Row, group: str) -> float:
    return fmean([value for value in row.scores[group] if value is not None] or [float("-inf")])
