"""Command ``tailwise guide``: advice on the factors of PG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from tailwise.report.advice import GroupCourse


@dataclass(frozen=True)
class Options:
    """Options of the advice."""

    run: str
    """Folder of a finished run."""


def run(options: Options) -> None:
    """Advise, from the probability curves of a run, which factors of PG to change, and print options to paste."""
    from pathlib import Path

    from rich.console import Console

    from tailwise.errors import InputError
    from tailwise.labels import LabelStats
    from tailwise.metrics import ProbabilityCurves
    from tailwise.report.advice import advise, courses, options_to_paste
    from tailwise.training.config import load
    from tailwise.training.folder import CONFIG_FILE, CURVES_FILE, STATS_FILE

    folder = Path(options.run)
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(f"{folder} is not the folder of a run: there is no {CONFIG_FILE} in it")
    if load(folder / CONFIG_FILE).is_solved:
        raise InputError(
            f"the head of {folder} was solved, not trained by steps, so that there are no probability curves: train "
            "with --head.solver sgd"
        )
    if not (folder / CURVES_FILE).is_file():
        raise InputError(f"{folder} has no {CURVES_FILE}: the run is not finished; finish it with --resume")
    try:
        groups = courses(ProbabilityCurves.load(folder / CURVES_FILE))
        stats = LabelStats.load(folder / STATS_FILE)
    except (ValueError, OSError) as error:
        raise InputError(f"{folder} cannot be read: {error}") from error
    console = Console()
    console.print(course_table(groups))
    advice = advise(groups)
    for item in advice:
        console.print(f"- {item.finding}: {item.direction} {item.factor} ({item.effect})", soft_wrap=True)
    if not advice:
        console.print("no group stands out: no factor needs a change")
        return
    config = load(folder / CONFIG_FILE)
    paste = options_to_paste(config, stats, advice)
    if paste is None:
        console.print(f"loss {config.loss} has no factors to set: start from pr, pg or formula", soft_wrap=True)
        return
    console.print("\nto try it, train with")
    console.print(f"    {paste}", soft_wrap=True, highlight=False, markup=False)


def course_table(groups: Sequence[GroupCourse]) -> Table:
    """Mean probabilities of each group at the start, in the middle and at the end, with the final gap."""
    from rich.table import Table

    table = Table(title="mean probabilities in training: start, middle, end")
    table.add_column("group")
    for heading in ("size", "positives", "negatives", "gap", "predicted"):
        table.add_column(heading, justify="right", no_wrap=True)
    for course in groups:
        parts = (course.start, course.middle, course.end)
        table.add_row(
            course.group,
            str(course.num_classes),
            " ".join(f"{part.positive:.3f}" for part in parts),
            " ".join(f"{part.negative:.3f}" for part in parts),
            f"{course.end.gap:.1f}",
            f"{course.end.predicted:.1f}",
        )
    table.caption = (
        "gap: odds of positives over odds of negatives at the end; predicted: predicted positives per actual positive"
    )
    return table
