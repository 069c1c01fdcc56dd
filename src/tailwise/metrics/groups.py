"""Means of per-class values over all classes and over the groups head, medium and tail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.shapes import Float

TOTAL = "total"
"""The name of the group of all classes."""


def group_means(values: Tensor | NDArray[Any], groups: Mapping[str, Any]) -> dict[str, float]:
    """Mean of per-class values over all classes and over each group, ignoring NaN.

    With :func:`~tailwise.metrics.average_precision` these are the mAP of long-tailed benchmarks: a class without a
    positive or without a known negative in the test set has no average precision and counts neither as 0 nor as 1.
    Report their number (:func:`left_out`) with the mean.

    Args:
        values: (K,) one value per class, NaN where it is undefined.
        groups: class indices by group name, as :attr:`LabelStats.groups` gives them.

    Returns:
        The mean under ``"total"`` and under each group's name, NaN where no class of the group has a value.

    Raises:
        ValueError: ``values`` is not one-dimensional, an index is not one of its classes, or a group is named
            ``"total"``.

    Example:
        >>> group_means(torch.tensor([0.75, 0.25, torch.nan]), {"head": [0], "tail": [1, 2]})
        {'total': 0.5, 'head': 0.75, 'tail': 0.25}
    """
    return {name: float(members.nanmean()) for name, members in _groups(values, groups)}


def left_out(values: Tensor | NDArray[Any], groups: Mapping[str, Any]) -> dict[str, int]:
    """Number of classes that :func:`group_means` leaves out: those whose value is NaN.

    Args:
        values: as in :func:`group_means`.
        groups: as in :func:`group_means`.

    Returns:
        The number under ``"total"`` and under each group's name.

    Raises:
        ValueError: as :func:`group_means`.

    Example:
        >>> left_out(torch.tensor([0.75, 0.25, torch.nan]), {"head": [0], "tail": [1, 2]})
        {'total': 1, 'head': 0, 'tail': 1}
    """
    return {name: int(members.isnan().sum()) for name, members in _groups(values, groups)}


def _groups(values: Tensor | NDArray[Any], groups: Mapping[str, Any]) -> Iterator[tuple[str, Float[Tensor, " n"]]]:
    per_class = torch.as_tensor(values, dtype=torch.float64).cpu()
    if per_class.ndim != 1:
        raise ValueError(f"values must be (K,), one per class, got shape {tuple(per_class.shape)}")
    yield TOTAL, per_class
    for name, members in groups.items():
        if name == TOTAL:
            raise ValueError(f"a group may not be called {TOTAL!r}: this is the name of all classes together")
        index = torch.as_tensor(members, dtype=torch.int64).cpu()
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(per_class):
            raise ValueError(f"group {name!r} has an index outside the {len(per_class)} classes of the values")
        yield name, per_class[index]
