"""Errors that mean "your input, not our code", and what to do about single bad images and rows."""

from typing import Literal, TypeAlias

OnError: TypeAlias = Literal["raise", "skip"]
"""Stop at the first bad row or image, or leave it out and list it."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message says what was given, what was expected and the way out.

    The command line prints it without a traceback.
    """
