"""The meaning of the cells of label files: positive, negative, unknown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from tailwise.errors import InputError
from tailwise.matrix import UNKNOWN

if TYPE_CHECKING:
    from tailwise.data.reading import ReadOptions

Negative: TypeAlias = Literal["0", "-1"]
"""The number that means that an image does not have a class."""
Blank: TypeAlias = Literal["negative", "unknown"]
"""The meaning of an empty cell for a class."""

ONE, ZERO, MINUS_ONE, BLANK, OMITTED = 1, 2, 4, 8, 16
"""Codes of the contents of a cell; the last is for a class that a row omits, which means that it is absent. The bitwise
or of the codes of a whole column describes its contents."""

_LISTED = 3


class Cells:
    """The meaning of cells.

    1 is a positive label and 0 a negative one. -1 and blanks are unknown unless they are declared negative: files that
    only distinguish present from absent use them for absent. Read as unknown there, they would leave a class without
    any negative, and every prediction of it would be correct; so :meth:`check` asks for the choice.

    Attributes:
        labels: (9,) int8 label of each code of a cell.
    """

    def __init__(self, options: ReadOptions) -> None:
        self.negative, self.blank = options.negative, options.blank
        self.labels = np.zeros(BLANK + 1, dtype=np.int8)
        self.labels[ONE] = 1
        self.labels[MINUS_ONE] = 0 if self.negative == "-1" else UNKNOWN
        self.labels[BLANK] = 0 if self.blank == "negative" else UNKNOWN

    def check(
        self, source: str | Path, held: Mapping[str, int], *, column: str = "column", blanks: str = "blanks"
    ) -> None:
        """Check that the cells of a whole source are unambiguous.

        Args:
            source: what was read, for messages.
            held: for each class, the codes of all its cells, combined bit by bit.
            column: what the cells of a class are called together.
            blanks: what blanks are called.

        Raises:
            InputError: a class with positives has -1 or blanks, no negative, and no choice was made; or 0 and -1 are
                both used though -1 was declared negative.
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
