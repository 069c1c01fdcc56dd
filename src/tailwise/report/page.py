"""Pages of one file that load nothing: Jinja templates with style, scripts, Plotly and its figures inside."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jinja2
from plotly.offline import get_plotlyjs

from tailwise import __version__
from tailwise.files import replacing
from tailwise.spelling import shorten

GROUP_COLOURS = {"head": "var(--head)", "medium": "var(--medium)", "tail": "var(--tail)"}

TraceKind: TypeAlias = Literal["points", "line", "bars"]

_LONGEST_TICK = 22
_KINDS: Mapping[TraceKind, Mapping[str, str]] = {
    "points": {"type": "scatter", "mode": "markers"},
    "line": {"type": "scatter", "mode": "lines"},
    "bars": {"type": "bar"},
}


@dataclass(frozen=True)
class Fact:
    """A number with its name, and a line on it."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class PagePlot:
    """A Plotly figure.

    Attributes:
        name: identifier, once in a page.
        title: what the figure shows, for screen readers.
        caption: how to read it.
        traces: Plotly's traces; a colour "var(--name)" is one of the page's style. Text from outside goes through
            :func:`plot_text`.
        layout: Plotly's layout.
        height: in pixels.
        min_width: in pixels; a narrower screen scrolls.
        log_range: if given, the reader can choose a logarithmic vertical axis, which then shows these powers of ten.
        starts_log: whether that is chosen at first.
    """

    name: str
    title: str
    caption: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    height: int = 360
    min_width: int = 0
    log_range: tuple[float, float] | None = None
    starts_log: bool = False

    @property
    def figure(self) -> dict[str, Any]:
        """Plotly's figure."""
        return {"data": self.traces, "layout": self.layout}


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Write a page, whole or not at all.

    Args:
        path: the HTML file.
        template: name of the template.
        values: values of the template; strings are escaped.
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
    # "tojson" escapes <, > and &, so that no text can end the script element around it.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals.update(version=__version__, plotly=get_plotlyjs())
    return environment


def plot_text(text: str) -> str:
    """Text that Plotly shows as it is: it would take tags and entities for formatting."""
    return html.escape(text, quote=False)


def trace(kind: TraceKind, name: str, x: Sequence[Any], y: Sequence[Any], hover: str, **options: Any) -> dict[str, Any]:
    """A trace of a Plotly figure.

    Args:
        kind: what it draws.
        name: its name in the legend, as plain text.
        x: horizontal places.
        y: vertical places.
        hover: Plotly's template of the text at a point.
        **options: further options of the trace.
    """
    return {
        **_KINDS[kind],
        "name": plot_text(name),
        "x": x,
        "y": y,
        "hovertemplate": f"{hover}<extra></extra>",
        **options,
    }


def rule(level: float, **options: Any) -> dict[str, Any]:
    """A horizontal line across a figure, with further options of a Plotly shape."""
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level, **options}


def finite(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None


def name_ticks(names: Sequence[str], start: int = 0) -> dict[str, Any]:
    """Names at whole places of an axis: places rather than names on the axis, since names that are cut may be equal."""
    cut = [shorten(name, _LONGEST_TICK) for name in names]
    places = list(range(start, start + len(names)))
    return {"tickvals": places, "ticktext": [plot_text(name) for name in cut], "tickangle": -60}


def tick_length(names: Sequence[str]) -> int:
    """Characters of the longest tick label."""
    return min(_LONGEST_TICK, max(len(name) for name in names))
