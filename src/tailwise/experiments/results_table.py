"""Measured mAP beside published mAP, as a table for the terminal, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from rich.table import Table
from rich.text import Text

from tailwise.experiments.methods import Row
from tailwise.files import replacing

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "κ": r"$\kappa$",
    "₀": "$_0$",
    "₁": "$_1$",
    "₂": "$_2$",
    "⁺": "$^+$",
    "⁻": "$^-$",
    "²": "$^2$",
    "≥": r"$\geq$",
}


@dataclass(frozen=True)
class ResultsRow:
    """A method with what its runs found, and what is published for it.

    Attributes:
        label: what the table calls it.
        runs: its runs.
        published: mAP in percent by group, None where it cannot be read; None altogether for data that nothing is
            published about.
    """

    label: str
    runs: Row
    published: Mapping[str, float | None] | None = None

    def mean(self, group: str) -> float | None:
        """Mean mAP over the runs, in percent."""
        values = self._values(group)
        return fmean(values) if values else None

    def deviation(self, group: str) -> float | None:
        """Standard deviation over the runs, if there are several."""
        values = self._values(group)
        return stdev(values) if len(values) > 1 else None

    def difference(self, group: str) -> float | None:
        """Measured minus published mAP."""
        mean = self.mean(group)
        published = None if self.published is None else self.published[group]
        return None if mean is None or published is None else mean - published

    def beside(self, group: str) -> str:
        """The published mAP, with the difference of ours to it."""
        published = None if self.published is None else self.published[group]
        difference = self.difference(group)
        if published is None:
            return "-"
        return f"{published:.2f}" if difference is None else f"{published:.2f} ({_signed(difference)})"

    def _values(self, group: str) -> list[float]:
        return [value for value in self.runs.scores[group] if value is not None]


@dataclass(frozen=True)
class ResultsTable:
    """A table of results.

    Attributes:
        title: what it shows, on which data.
        rows: its rows, all with published values or none.
        notes: what must be known to read it, one sentence each.
    """

    title: str
    rows: Sequence[ResultsRow]
    notes: Sequence[str]

    @property
    def groups(self) -> list[str]:
        """The columns."""
        return list(self.rows[0].runs.scores)

    @property
    def has_published(self) -> bool:
        """Whether published values stand beside ours."""
        return self.rows[0].published is not None

    def is_best(self, row: ResultsRow, group: str) -> bool:
        """Whether no row has a higher mean."""
        means = [mean for mean in (other.mean(group) for other in self.rows) if mean is not None]
        return bool(means) and row.mean(group) == max(means)


def for_terminal(table: ResultsTable) -> Table:
    """The rows for a terminal, published values and differences in a second line; without title and notes."""
    shown = Table()
    shown.add_column("method")
    for group in table.groups:
        shown.add_column(group, justify="right")
    for row in table.rows:
        cells = []
        for group in table.groups:
            cell = Text(row.runs.cell(group), style="bold" if table.is_best(row, group) else "")
            cells.append(Text.assemble(cell, "\n", (row.beside(group), "dim")) if table.has_published else cell)
        shown.add_row(Text(row.label), *cells)
    return shown


def write_table(table: ResultsTable, path: Path) -> list[Path]:
    """Write a table as Markdown, CSV and LaTeX.

    Args:
        table: the table.
        path: the files without their ending.

    Returns:
        The files.
    """
    files = []
    for suffix, write in ((".md", to_markdown), (".csv", to_csv), (".tex", to_latex)):
        file = path.with_suffix(suffix)
        with replacing(file) as temporary:
            temporary.write_text(write(table), encoding="utf-8")
        files.append(file)
    return files


def to_markdown(table: ResultsTable) -> str:
    """The table in Markdown, with title and notes; the best mean of each column in bold."""
    titles = [title for group in table.groups for title in _titles(table, group)]
    lines = [f"**{table.title}**", "", f"| method | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for row in table.rows:
        cells = []
        for group in table.groups:
            cells.append(f"**{row.runs.cell(group)}**" if table.is_best(row, group) else row.runs.cell(group))
            if table.has_published:
                cells.append(row.beside(group))
        label = row.label.replace("|", r"\|")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def to_csv(table: ResultsTable) -> str:
    """The table as CSV: a row per method, with runs, and for each group mean, std, published and difference.

    What has no value is empty. The notes stand in a column of their own, in the first row.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    kinds = ("mean", "std", "published", "difference")
    writer.writerow(["method", "runs", *(f"{group}_{kind}" for group in table.groups for kind in kinds), "notes"])
    for place, row in enumerate(table.rows):
        cells: list[float | None] = []
        for group in table.groups:
            published = None if row.published is None else row.published[group]
            cells += [row.mean(group), row.deviation(group), published, row.difference(group)]
        written = ["" if cell is None else f"{cell:.4f}" for cell in cells]
        notes = " ".join(table.notes) if place == 0 else ""
        writer.writerow([row.label, len(row.runs.seconds), *written, notes])
    return buffer.getvalue()


def to_latex(table: ResultsTable) -> str:
    """The table in LaTeX, for the package booktabs; title and notes are the caption."""
    width = 2 if table.has_published else 1
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(' '.join([f'{table.title}.', *table.notes]))}}}",
        rf"\begin{{tabular}}{{l{'r' * width * len(table.groups)}}}",
        r"\toprule",
        " & ".join(["method", *(title for group in table.groups for title in _titles(table, group))]) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = [escape_latex(row.label)]
        for group in table.groups:
            cell = escape_latex(row.runs.cell(group))
            cells.append(rf"\textbf{{{cell}}}" if table.is_best(row, group) else cell)
            if table.has_published:
                cells.append(escape_latex(row.beside(group)))
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is; Greek letters, signs and indices become mathematics."""
    written = "".join(_LATEX.get(character, character) for character in text)
    # Neighbours join, so that an index belongs to its letter; but a dollar that is printed stays.
    return re.sub(r"(?<!\\)\$\$", "", written)


def _titles(table: ResultsTable, group: str) -> tuple[str, ...]:
    return (group, "published") if table.has_published else (group,)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
