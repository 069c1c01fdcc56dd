"""``tailwise demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tailwise.commands.output import require_counts


@dataclass(frozen=True)
class Options:
    """Options of the demo."""

    output: str = "demo-run"
    """Folder of the runs, the table and the report page."""
    seeds: int = 2
    """Number of runs of each loss."""
    workers: int = 2
    """Runs at a time."""


def run(options: Options) -> None:
    """Compare BCE, DB-Focal and PG on embedded data."""
    from rich.console import Console

    from tailwise.experiments.compare import compare
    from tailwise.experiments.demo import plan
    from tailwise.report.summary import publish

    require_counts(seeds=options.seeds, workers=options.workers)
    publish(compare(plan(Path(options.output), options.seeds), workers=options.workers), Console())
