"""Pages of one file that load nothing: Jinja templates, with style, scripts and Plotly inside."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jinja2
from plotly.offline import get_plotlyjs

from tailwise import __version__
from tailwise.files import replacing

Kind: TypeAlias = Literal["text", "named", "group", "count", "decimal", "percent", "spread", "interval", "difference"]
Value: TypeAlias = str | int | float | Sequence[str | float | None] | None


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its title.
        kind: how its values are written and sorted. A percent is given as a share, a spread as mean and deviation, an
            interval and a difference as value, lower and upper end, what is named as name and detail; these are sorted
            by what stands first.
        series: the place of what the column is about among those that the reader can hide; None for all of them.
    """

    title: str
    kind: Kind
    series: int | None = None


@dataclass(frozen=True)
class PageTable:
    """A table that the page sorts and filters.

    Attributes:
        name: identifier, once in a page.
        caption: what the table shows.
        columns: the columns; the first names the row.
        rows: a value per column, None where there is none.
        note: what the reader must know, such as what is left out.
        filter_hint: what stands in the filter while it is empty.
        sort_by: the column that the table is sorted by at first; -1 keeps the order given.
        ascending: the direction of that.
        failed: why a row has no values, by its place in ``rows``.
        picks: what choosing a row does, for its button's name; "" where rows cannot be chosen.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    filter_hint: str = ""
    sort_by: int = -1
    ascending: bool = False
    failed: Mapping[int, str] = field(default_factory=dict)
    picks: str = ""


@dataclass(frozen=True)
class PagePlot:
    """A Plotly figure.

    Attributes:
        name: identifier, once in a page.
        title: what the figure shows, for people who do not see it.
        caption: how to read it.
        figure: Plotly's ``data`` and ``layout``; a colour "var(--name)" is one of the page's style. Text from outside
            goes through :func:`plot_text`.
        height: in pixels.
        min_width: in pixels; a narrower screen scrolls.
        log_range: if given, the reader can choose a logarithmic vertical axis, which then shows these powers of ten.
        starts_log: whether that is chosen at first.
    """

    name: str
    title: str
    caption: str
    figure: dict[str, Any]
    height: int = 360
    min_width: int = 0
    log_range: tuple[float, float] | None = None
    starts_log: bool = False


@dataclass(frozen=True)
class Fact:
    """A number with its name, and a line on it."""

    name: str
    value: str
    detail: str = ""


def plot_text(text: str) -> str:
    """Text that Plotly shows as it is: it would take tags and entities for formatting."""
    return html.escape(text, quote=False)


def finite(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Write a page, whole or not at all.

    Args:
        path: the HTML file.
        template: name of the template.
        values: what the template shows; strings are escaped.
    """
    text = _environment().get_template(template).render(**values)
    with replacing(path) as temporary:
        # Half of a surrogate pair, which JSON can smuggle into a class name, has no encoding.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tailwise.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # "tojson" escapes <, > and &, so that no text can end the script tag it stands in.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals.update(version=__version__, plotly=get_plotlyjs())
    return environment
