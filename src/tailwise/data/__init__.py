"""Data sets: reading them in any format, dividing them, long-tailed subsets, and samplers. Parts load when used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailwise.data.dataset import Dataset as Dataset
    from tailwise.data.dataset import Features as Features
    from tailwise.data.dataset import Files as Files
    from tailwise.data.dataset import Pixels as Pixels
    from tailwise.data.long_tail import build_long_tail as build_long_tail
    from tailwise.data.long_tail import reference_counts as reference_counts
    from tailwise.data.reading import ReadOptions as ReadOptions
    from tailwise.data.reading import read as read
    from tailwise.data.samplers import ClassAwareSampler as ClassAwareSampler
    from tailwise.data.samplers import InverseFrequencySampler as InverseFrequencySampler
    from tailwise.data.samplers import RepeatFactorSampler as RepeatFactorSampler
    from tailwise.data.samplers import UniformSampler as UniformSampler
    from tailwise.data.splits import split_by_ratio as split_by_ratio

_HOMES = {
    "dataset": ("Dataset", "Features", "Files", "Pixels"),
    "long_tail": ("build_long_tail", "reference_counts"),
    "reading": ("ReadOptions", "read"),
    "samplers": ("ClassAwareSampler", "InverseFrequencySampler", "RepeatFactorSampler", "UniformSampler"),
    "splits": ("split_by_ratio",),
}
_HOME_OF = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "ClassAwareSampler",
    "Dataset",
    "Features",
    "Files",
    "InverseFrequencySampler",
    "Pixels",
    "ReadOptions",
    "RepeatFactorSampler",
    "UniformSampler",
    "build_long_tail",
    "read",
    "reference_counts",
    "split_by_ratio",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
