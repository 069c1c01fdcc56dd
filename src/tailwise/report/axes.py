"""What figures of classes share: colours of groups, and names along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tailwise.report.page import plot_text
from tailwise.spelling import shorten

GROUP_COLOURS = {"head": "var(--head)", "medium": "var(--medium)", "tail": "var(--tail)"}

_LONGEST_TICK = 22


def name_ticks(names: Sequence[str], start: int = 0) -> dict[str, Any]:
    """Names at whole places of an axis: places rather than names on the axis, since names that are cut may be equal."""
    cut = [shorten(name, _LONGEST_TICK) for name in names]
    places = list(range(start, start + len(names)))
    return {"tickvals": places, "ticktext": [plot_text(name) for name in cut], "tickangle": -60}


def tick_length(names: Sequence[str]) -> int:
    """Characters of the longest tick label."""
    return min(_LONGEST_TICK, max(len(name) for name in names))
