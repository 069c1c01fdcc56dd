"""Words of messages: suggestions for misspelt names, counted nouns, percentages, shortened names."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping


def near(name: str, known: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """A question with the known name that is most similar to an unknown one; empty where none is similar.

    Args:
        name: the unknown name.
        known: all known names.
        shown: other spellings of the known names, for the question.
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    if not close:
        return ""
    found = by_folded[close[0]]
    return f" (did you mean {shown[found] if shown else found!r}?)"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Write a number with its noun: "1 class", "1,200 classes"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def percent(share: float) -> str:
    """Write a share in percent, a small one with the digits it needs; "–" for NaN."""
    if math.isnan(share):
        return "–"
    if 0 < share < 0.01:
        return f"{100 * share:.2g}%" if share >= 1e-4 else "<0.01%"
    return f"{100 * share:.0f}%" if share in (0, 1) else f"{min(100 * share, 99.9):.1f}%"


def shorten(name: str, length: int) -> str:
    """Leave out the middle of a long name: names often begin alike."""
    if len(name) <= length:
        return name
    return f"{name[: length // 2]}…{name[-((length - 1) // 2) :]}"
