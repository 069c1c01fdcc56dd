"""Errors of input, missing extras and failed runs, and the ways to handle a bad image or row."""

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
"""Stop at the first bad row or image, or skip and list it."""


class InputError(ValueError):
    """Input that cannot be used; the message says what was given, what was expected, and what to do.

    The command line prints it without a traceback.
    """


class RunsFailedError(RuntimeError):
    """All of several runs failed, though their input could be used; the message says why.

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
