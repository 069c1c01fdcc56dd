"""Tables: made once, and rendered for a terminal, Markdown, CSV, LaTeX, a notebook and a page."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from rich.table import Table as RichTable
from rich.text import Text

from tailwise.files import replacing
from tailwise.spelling import percent, shorten

Kind: TypeAlias = Literal[
    "text",
    "named",
    "group",
    "count",
    "range",
    "decimal",
    "factor",
    "percent",
    "spread",
    "interval",
    "difference",
    "published",
]
Value: TypeAlias = str | int | float | Sequence[str | float | None] | None

_PARTS: Mapping[Kind, tuple[str, ...]] = {
    "named": ("", "detail"),
    "spread": ("mean", "std"),
    "interval": ("", "low", "high"),
    "difference": ("difference", "low", "high"),
    "published": ("published", "difference"),
}
_WORDS = ("text", "named", "group")
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
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
class Column:
    """A column of a table.

    Attributes:
        title: its title.
        kind: how its values are written and sorted. A percent is given as a fraction; a spread as mean and standard
            deviation; an interval and a difference as value, lower and upper end; a published value with the difference
            to it; a name with a detail. These are sorted by their first part.
        series: on a page, the place of its subject among those that the reader can hide; None for all of them.
        digits: decimal places of text.
        key: its name in CSV; by default the title.
        only_csv: whether other forms leave it out.
        is_below: whether a terminal writes it below the column before it.
        short: its title where there is little space; by default the title.
    """

    title: str
    kind: Kind
    series: int | None = None
    digits: int = 2
    key: str = ""
    only_csv: bool = False
    is_below: bool = False
    short: str = ""

    def text(self, value: Value) -> str:
        """A value as text; "-" for None."""
        first, *others = _parts(value)
        if first is None or (self.kind == "difference" and None in others):
            return "-"
        if isinstance(first, str):
            return first
        given = [other for other in others if isinstance(other, int | float)]
        if self.kind == "difference":
            return "{:+.1f} ({:+.1f} to {:+.1f})".format(first, *given)
        if self.kind == "published":
            return f"{first:.{self.digits}f}" + "".join(f" ({gap:+.{self.digits}f})" for gap in given).replace("-", "−")
        if self.kind == "spread":
            return f"{first:.{self.digits}f}" + "".join(f" ± {deviation:.{self.digits}f}" for deviation in given)
        if self.kind == "interval":
            return f"{first:.1f}" + (" ({:.0f} to {:.0f})".format(*given) if len(given) == 2 else "")
        if self.kind == "range":
            return "{:,} to {:,}".format(first, *given)
        if self.kind == "percent":
            return percent(first)
        form = {"count": "{:,}", "factor": "{:.1f}×"}.get(self.kind, f"{{:.{self.digits}f}}")
        return form.format(first)

    @property
    def is_number(self) -> bool:
        """Whether it is aligned to the right."""
        return self.kind not in _WORDS

    def csv_titles(self) -> list[str]:
        """Titles of its columns in CSV, one for each part of a value."""
        key = self.key or self.title
        return [f"{key}_{part}" if part else key for part in _PARTS.get(self.kind, ("",))]

    def csv_cells(self, value: Value) -> list[str]:
        """A value as the cells of CSV; empty without one."""
        parts = _parts(value) + [None] * len(self.csv_titles())
        cells = parts[: len(self.csv_titles())]
        return ["" if part is None else f"{part:.4f}" if isinstance(part, float) else str(part) for part in cells]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: identifier, once in a page.
        caption: what it shows.
        columns: the columns; the first names the row.
        rows: a value per column, None where there is none.
        note: a remark for the reader, such as on omissions.
        filter_hint: on a page, the placeholder of the filter.
        sort_by: on a page, the column that it is sorted by at first; -1 keeps the order given.
        ascending: the direction of that.
        failed: why a row has no values, by its place in ``rows``.
        picks: on a page, the action of choosing a row, for the name of its button; "" where rows cannot be chosen.
        best: places (row, column shown) of cells in bold.
        best_row: place of the row that a terminal writes in bold.
        notes: notes one by one, where they are listed.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    filter_hint: str = ""
    sort_by: int = -1
    ascending: bool = False
    failed: Mapping[int, str] = field(default_factory=dict)
    picks: str = ""
    best: frozenset[tuple[int, int]] = frozenset()
    best_row: int | None = None
    notes: Sequence[str] = ()

    @property
    def shown(self) -> list[Column]:
        """The columns outside CSV."""
        return [column for column in self.columns if not column.only_csv]

    def cells(self, row: int) -> list[str]:
        """Texts of a row in the columns shown."""
        pairs = zip(self.columns, self.rows[row], strict=True)
        texts = [column.text(value) for column, value in pairs if not column.only_csv]
        return [texts[0], "failed", *texts[2:]] if row in self.failed else texts

    def select(self, *titles: str) -> Table:
        """The table with those columns alone that have these titles, in this order; others are passed over."""
        place_of = {column.title: place for place, column in enumerate(self.columns)}
        places = [place_of[title] for title in titles if title in place_of]
        rows = [[row[place] for place in places] for row in self.rows]
        return replace(self, columns=[self.columns[place] for place in places], rows=rows)

    def without(self, title: str) -> Table:
        """The table without a column."""
        return self.select(*(column.title for column in self.columns if column.title != title))

    def to_plain(self, widest: int) -> RichTable:
        """For a terminal, without frames, by the short titles; words have at most ``widest`` characters."""
        table = RichTable(
            title=self.caption,
            title_justify="left",
            title_style="bold",
            header_style="cyan",
            box=None,
            padding=(0, 2, 0, 0),
            show_header=any(column.title for column in self.columns),
        )
        for column in self.columns:
            if column.is_number:
                table.add_column(column.short or column.title, justify="right", no_wrap=True)
            else:
                table.add_column(column.short or column.title, no_wrap=True, max_width=widest)
        for row in self.rows:
            texts = []
            for column, value in zip(self.columns, row, strict=True):
                text = "–" if value is None else column.text(value)
                texts.append(Text(printable(text if column.is_number else shorten(text, widest))))
            table.add_row(*texts)
        return table

    def to_rich(self, *, title: bool = True) -> RichTable:
        """For a terminal: failed rows in red, the best in bold."""
        table = RichTable(title=self.caption if title else None)
        for column in self.shown:
            if not column.is_below:
                table.add_column(column.title, justify="right" if column.is_number else "left", no_wrap=True)
        for row in range(len(self.rows)):
            texts: list[Text] = []
            for place, (column, text) in enumerate(zip(self.shown, self.cells(row), strict=True)):
                if column.is_below:
                    texts[-1] = Text.assemble(texts[-1], "\n", (text, "dim"))
                else:
                    texts.append(Text(text, style="bold" if (row, place) in self.best else ""))
            table.add_row(*texts, style="red" if row in self.failed else "bold" if row == self.best_row else "")
        return table

    def to_markdown(self) -> str:
        """Header and rows in Markdown, without caption and notes; the best cells in bold."""
        titles, *rows = self._grid(lambda text: text.replace("|", r"\|"), "**{}**")
        rules = "|".join("---:" if column.is_number else "---" for column in self.shown)
        return "\n".join([_line(titles), f"|{rules}|", *map(_line, rows), ""])

    def to_csv(self) -> str:
        """CSV with a column for each part of a value, and the notes in the first row; empty cells without a value."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([*(title for column in self.columns for title in column.csv_titles()), "notes"])
        for place, row in enumerate(self.rows):
            cells = [cell for column, value in zip(self.columns, row, strict=True) for cell in column.csv_cells(value)]
            writer.writerow([*cells, "" if place else " ".join(self.notes)])
        return buffer.getvalue()

    def to_latex(self) -> str:
        """LaTeX for the package booktabs; caption and notes make its caption."""
        titles, *rows = (" & ".join(cells) + r" \\" for cells in self._grid(escape_latex, r"\textbf{{{}}}"))
        align = "".join("r" if column.is_number else "l" for column in self.shown)
        caption = escape_latex(" ".join([f"{self.caption}.", *self.notes]))
        head = (r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{align}}}")
        foot = (r"\bottomrule", r"\end{tabular}", r"\end{table}", "")
        return "\n".join([*head, r"\toprule", titles, r"\midrule", *rows, *foot])

    def to_html(self) -> str:
        """A plain HTML table with caption and notes, as a notebook shows it."""
        titles, *rows = self._grid(html.escape, "<b>{}</b>")
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in (self.note, *self.notes) if note)
        return (
            f"<table><caption>{html.escape(self.caption)}</caption><thead>{_html_row(titles, 'th')}</thead>"
            f"<tbody>{''.join(_html_row(cells, 'td') for cells in rows)}</tbody></table>{notes}"
        )

    def _repr_html_(self) -> str:
        return self.to_html()

    def _grid(self, escape: Callable[[str], str], bold: str) -> list[list[str]]:
        """Titles and rows as escaped text, the best cells in bold."""
        rows = [
            [
                bold.format(escape(text)) if (row, place) in self.best else escape(text)
                for place, text in enumerate(cells)
            ]
            for row, cells in enumerate(map(self.cells, range(len(self.rows))))
        ]
        return [[escape(column.title) for column in self.shown], *rows]


def write_table(table: Table, path: Path) -> list[Path]:
    """Write a table as Markdown, CSV and LaTeX.

    Args:
        table: the table.
        path: the files without their suffix.

    Returns:
        The files.
    """
    notes = "".join(f"- {note}\n" for note in table.notes)
    contents = {
        ".md": f"**{table.caption}**\n\n{table.to_markdown()}\n{notes}",
        ".csv": table.to_csv(),
        ".tex": table.to_latex(),
    }
    files = []
    for suffix, content in contents.items():
        file = path.with_suffix(suffix)
        with replacing(file) as temporary:
            temporary.write_text(content, encoding="utf-8")
        files.append(file)
    return files


def best_cells(columns: Sequence[Column], rows: Sequence[Sequence[Value]]) -> frozenset[tuple[int, int]]:
    """Places (row, column shown) of the highest means in each column of spreads, several where they are tied."""
    found = set()
    for place, column in enumerate(columns):
        if column.kind == "spread":
            means = {row: _parts(values[place])[0] for row, values in enumerate(rows)}
            known = {row: mean for row, mean in means.items() if isinstance(mean, float)}
            shown = place - sum(other.only_csv for other in columns[:place])
            found |= {(row, shown) for row, mean in known.items() if mean == max(known.values())}
    return frozenset(found)


def printable(text: str) -> str:
    """Text for a terminal: characters that would control it are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is; Greek letters, signs and indices become mathematics."""
    written = "".join(_LATEX.get(character, character) for character in text)
    # Adjacent formulas join, so that an index belongs to its letter; but a dollar that is printed stays.
    return re.sub(r"(?<!\\)\$\$", "", written)


def _parts(value: Value) -> list[str | float | None]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"
