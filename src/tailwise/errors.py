"""Errors that mean "your input, not our code", and what to do about single bad images and rows."""

from importlib.util import find_spec
from typing import Literal, TypeAlias

# Modules of the libraries that the extra "train" brings.
_OF_TRAIN = (
    *("filelock", "jinja2", "jsonargparse", "lightning", "matplotlib", "numba", "pandas", "PIL", "plotly"),
    *("pyarrow", "yaml", "requests", "rich", "safetensors", "sklearn", "scipy", "tensorboard", "timm", "torchmetrics"),
    "typing_extensions",
)

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


class MissingExtraError(ModuleNotFoundError):
    """A part of tailwise needs libraries that a plain installation does not have; the message says how to get them."""


def require_extra(part: str) -> None:
    """Check that the libraries of the extra ``train`` are installed.

    Args:
        part: the part of tailwise that needs them, for the message.

    Raises:
        MissingExtraError: one is not.
    """
    for name in _OF_TRAIN:
        if find_spec(name) is None:
            raise MissingExtraError(
                f"{part} needs {name}, which is not installed: pip install 'tailwise[train]'", name=name
            )
