"""Cells of classes, 1, 0, -1 or blank: what they mean, and the choice to make where a file does not say it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

from tailwise.errors import InputError
from tailwise.labels import UNKNOWN

Negative: TypeAlias = Literal["0", "-1"]
"""The number that says that an image does not have a class."""
Blank: TypeAlias = Literal["negative", "unknown"]
"""What a cell without anything in it says of a class."""

ONE, ZERO, MINUS_ONE, BLANK, OMITTED = 1, 2, 4, 8, 16
"""Codes of what stands in a cell, the last for a class that a row leaves out, which says that it is absent. Those of a
whole column, added up bit by bit, say what it holds."""

_LISTED = 3


class Cells:
    """The meaning of cells.

    1 is a positive label and 0 a negative one. -1 and blanks are unknown unless they are said to be negative: both are
    also what files have that know present and absent only. No image would be known to lack such a class, and whatever a
    model says of it would be right; so :meth:`check` asks for the choice.

    Args:
        negative: "-1" where -1 means absent, "0" where it means unknown; None where neither is said.
        blank: "negative" where a blank means absent, "unknown" where nobody has judged; None where neither is said.

    Attributes:
        labels: (9,) int8 label of each code of a cell.

    Raises:
        InputError: one of them is something else.
    """

    def __init__(self, negative: Negative | None = None, blank: Blank | None = None) -> None:
        for name, value, allowed in (("negative", negative, Negative), ("blank", blank, Blank)):
            if value is not None and value not in get_args(allowed):
                raise InputError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")
        self.negative, self.blank = negative, blank
        self.labels = np.zeros(BLANK + 1, dtype=np.int8)
        self.labels[ONE] = 1
        self.labels[MINUS_ONE] = 0 if negative == "-1" else UNKNOWN
        self.labels[BLANK] = 0 if blank == "negative" else UNKNOWN

    def check(
        self, source: str | Path, held: Mapping[str, int], *, column: str = "column", blanks: str = "blanks"
    ) -> None:
        """See that what a whole source holds has one meaning.

        Args:
            source: what was read, for messages.
            held: for each class, the codes of all its cells, added up bit by bit.
            column: what the cells of a class are called together.
            blanks: what blanks are called.

        Raises:
            InputError: a class with positives has -1 or blanks, no negative, and no choice was made; or 0 and -1 stand
                beside each other though -1 was said to be the negative.
        """

        def named(*conditions: int, without: int = 0) -> list[str]:
            """Classes that have each of these codes, and none of the others."""
            wanted = sum(conditions)
            return [name for name, codes in held.items() if codes & wanted == wanted and not codes & without]

        if self.negative == "-1" and (mixed := named(ZERO, MINUS_ONE)):
            raise InputError(
                f"{source}: {_subject(mixed, column)} 0 and -1, so that it is not known what 0 means where -1 means "
                "absent: write -1 for absent and nothing for unknown; or leave out --negative -1, which reads 0 as "
                "absent and -1 as unknown"
            )
        absent = ZERO | OMITTED | (BLANK if self.blank == "negative" else 0)
        if self.negative is None and (open_ := named(ONE, MINUS_ONE, without=absent)):
            also = ""
            if any(held[name] & BLANK for name in open_) and self.blank is None:
                also = f"; or, if it is {blanks} that mean absent, --blank negative"
            raise InputError(
                f"{source}: {_subject(open_, column)} 1 and -1 and never 0, so that no image is known to be without "
                f"the class; say what -1 means: --negative -1 for absent, --negative 0 for unknown{also}"
            )
        absent = ZERO | OMITTED | (MINUS_ONE if self.negative == "-1" else 0)
        if self.blank is None and (open_ := named(ONE, BLANK, without=absent)):
            unknown = ", -1 (unknown)" if any(held[name] & MINUS_ONE for name in open_) else ""
            raise InputError(
                f"{source}: {_subject(open_, column)} 1{unknown} and {blanks} only, so that no image is known to be "
                f"without the class; say what {blanks} mean: --blank negative for absent, --blank unknown for not "
                "judged"
            )


def _subject(names: list[str], column: str) -> str:
    """The first names, how many there are, and a verb."""
    listed = ", ".join(repr(name) for name in names[:_LISTED])
    if len(names) == 1:
        return f"{column} {listed} holds"
    plural = "classes" if column == "class" else f"{column}s"
    return f"{len(names)} {plural} ({listed}{', ...' if len(names) > _LISTED else ''}) hold"
