"""A comparison in a terminal, as files, and in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tailwise.errors import RunsFailedError
from tailwise.experiments.results import Comparison
from tailwise.files import replacing
from tailwise.report.rerun import train_command
from tailwise.report.results_page import PAGE_FILE, write_results_page
from tailwise.report.results_tables import left_out, summary_table
from tailwise.spelling import counted

if TYPE_CHECKING:
    import pandas as pd

TABLE_FILE = "table.md"


class ComparisonReport(Comparison):
    """A comparison that shows itself in a notebook and writes its page."""

    @classmethod
    def of(cls, comparison: Comparison) -> ComparisonReport:
        """The report of a comparison."""
        return cls(**{entry.name: getattr(comparison, entry.name) for entry in fields(comparison)})

    @property
    def table(self) -> pd.DataFrame:
        """A row per method, by name: mAP by group with deviations, and the other scores, in percent."""
        return self.to_frame()

    def save(self, path: str | Path) -> None:
        """Write the page of the comparison as one HTML file, which is replaced if it exists."""
        write_results_page(self, Path(path))

    def _repr_html_(self) -> str:
        sentences = (*_failures(self), *_left_out(self), str(self.recommendation))
        return summary_table(self).to_html() + "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)


def write_files(comparison: Comparison) -> None:
    """Write table.md and report.html into the folder of a comparison."""
    folder = comparison.folder
    assert folder is not None
    with replacing(folder / TABLE_FILE) as temporary:
        temporary.write_text(to_markdown(comparison), encoding="utf-8")
    write_results_page(comparison, folder / PAGE_FILE)


def show(comparison: Comparison, console: Console) -> None:
    """Print the table, failures, the recommendation, and where the files are.

    Raises:
        RunsFailedError: no method finished all of its runs.
    """
    if not console.is_terminal:
        console = Console(file=console.file, width=160)
    console.print(summary_table(comparison).to_rich())
    for sentence in _failures(comparison):
        console.print(sentence, style="red", highlight=False, markup=False)
    for sentence in (*_left_out(comparison), str(comparison.recommendation)):
        console.print(sentence, highlight=False, markup=False)
    best = comparison.method(comparison.best)
    lines = [f"results, table, page and all runs: {comparison.folder}"]
    if best is not None and best.config is not None:
        lines = [f"to train {best.name} as it was here:", f"    {train_command(best.config, best.name)}", *lines]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if all(method.failed for method in comparison.methods):
        reasons: dict[str, list[str]] = {}
        for method in comparison.methods:
            assert method.failed is not None
            reasons.setdefault(method.failed.reason, []).append(method.name)
        told = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
        raise RunsFailedError(f"no method finished all of its runs: {told}")


def to_markdown(comparison: Comparison) -> str:
    """The table, failures with their reasons, and the recommendation as a page of Markdown."""
    data, bootstrap = comparison.data, comparison.bootstrap
    assert bootstrap is not None
    sentences = (*_failures(comparison), *_left_out(comparison), *comparison.recommendation.text)
    return (
        f"# Comparison on {data.source}\n\n"
        f"mAP in percent on split {data.test_split!r} ({data.num_test} images), trained on "
        f"{data.train_split!r} ({data.num_train} images); mean ± standard deviation over "
        f"{counted(len(comparison.seeds), 'seed')}. Intervals hold {100 * bootstrap.level:g}% of "
        f"{bootstrap.replicates} bootstrap replicates over images and seeds.\n\n"
        + summary_table(comparison).to_markdown()
        + "".join(f"\n{sentence}\n" for sentence in sentences)
    )


def _failures(comparison: Comparison) -> Iterator[str]:
    for method in comparison.methods:
        if method.failed is not None:
            yield f"{method.name} failed ({method.failed.run}): {method.failed.reason}"


def _left_out(comparison: Comparison) -> Iterator[str]:
    sentence = left_out(comparison, f"split {comparison.data.test_split!r}")
    if sentence is not None:
        yield sentence
