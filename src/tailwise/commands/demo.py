"""``tailwise demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tailwise.commands.output import MOST_RUNS
from tailwise.options import Role, check_fields, option


@dataclass(frozen=True)
class Options:
    """Options of the demo."""

    output: str = option(Role.DISPLAY, "demo-run")
    """Folder of the runs, the table and the report page."""
    seeds: int = option(Role.PROTOCOL, 2, at_least=1, at_most=MOST_RUNS)
    """Number of runs of each loss."""
    workers: int = option(Role.MACHINE, 2, at_least=1, at_most=MOST_RUNS)
    """Runs at a time."""

    def __post_init__(self) -> None:
        check_fields(self)


def run(options: Options) -> None:
    """Compare BCE, DB-Focal and PG on embedded data."""
    from rich.console import Console

    from tailwise.experiments.compare import compare
    from tailwise.experiments.demo import plan
    from tailwise.report.summary import show, write_files

    comparison = compare(plan(Path(options.output), options.seeds), workers=options.workers)
    write_files(comparison)
    show(comparison, Console())
