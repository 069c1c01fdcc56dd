"""tailwise: train multi-label classifiers when most labels are rare.

Importing it is cheap: what needs more than NumPy is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tailwise.labels import LabelStats

if TYPE_CHECKING:
    from tailwise import data, losses, metrics
    from tailwise.api import compare, inspect, load, read, train
    from tailwise.data.dataset import Dataset
    from tailwise.model import Model

__version__ = "0.2.0"
__all__ = [
    "Dataset",
    "LabelStats",
    "Model",
    "__version__",
    "compare",
    "data",
    "inspect",
    "load",
    "losses",
    "metrics",
    "read",
    "train",
]

_HOMES = {
    "Dataset": "tailwise.data.dataset",
    "Model": "tailwise.model",
    **dict.fromkeys(("compare", "inspect", "load", "read", "train"), "tailwise.api"),
}
_PARTS = ("data", "losses", "metrics")


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"tailwise.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name != "Dataset":
        from tailwise.errors import require_extra

        require_extra(f"tailwise.{name}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
