"""Errors that mean "your input, not our code", and what to do about single bad images and rows."""

from importlib.util import find_spec
from typing import Literal, TypeAlias

Extra: TypeAlias = Literal["train", "demo", "figures", "hub", "tensorboard"]

# Modules of the libraries that each extra adds to a plain installation or, but for "hub", to "train".
_MODULES_OF: dict[Extra, tuple[str, ...]] = {
    "train": (
        *("filelock", "jinja2", "jsonargparse", "lightning", "numba", "pandas", "PIL", "plotly", "pooch", "pyarrow"),
        *("yaml", "requests", "rich", "safetensors", "scipy", "timm", "torchmetrics", "typing_extensions"),
    ),
    "demo": ("sklearn",),
    "figures": ("matplotlib",),
    "hub": ("datasets",),
    "tensorboard": ("tensorboard",),
}

OnError: TypeAlias = Literal["raise", "skip"]
"""Stop at the first bad row or image, or leave it out and list it."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message says what was given, what was expected and the way out.

    The command line prints it without a traceback.
    """


class RunsFailedError(RuntimeError):
    """Everything that was given could be used, and yet none of many runs came to its end; the message says why.

    The command line prints it without a traceback.
    """


class MissingExtraError(InputError, ModuleNotFoundError):
    """A part of tailwise needs a library of an extra that is not installed; the message says how to get it."""

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


def require_extra(part: str, extra: Extra = "train") -> None:
    """Check that the libraries of an extra are installed.

    Args:
        part: the part of tailwise that needs them, for the message.
        extra: name of the extra.

    Raises:
        MissingExtraError: one of them is missing.
    """
    for name in _MODULES_OF[extra]:
        if find_spec(name) is None:
            raise MissingExtraError(
                f"{part} needs {name}, which is not installed: pip install 'tailwise[{extra}]'", name=name
            )
