"""What every metric accepts: scores and targets as tensors or arrays, checked once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.matrix import UNKNOWN
from tailwise.shapes import Int, Num


def scores_and_targets(
    scores: Tensor | NDArray[Any], targets: Tensor | NDArray[Any], first_class: int = 0
) -> tuple[Num[Tensor, "N K"], Int[Tensor, "N K"]]:
    """Bring scores and targets to one form, on the device of the scores.

    Args:
        scores: (N, K) real numbers, higher means more likely; half precision becomes float32, which changes no value.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point).
        first_class: the class of column 0, which errors count from.

    Returns:
        The scores in a dtype that can be compared everywhere, and the targets as int8 with -1 for unknown.

    Raises:
        ValueError: the shapes disagree, a score is NaN or complex, or a target is none of 1, 0 and unknown.
    """
    s, t = as_tensor(scores), as_tensor(targets)
    if s.ndim != 2 or s.shape != t.shape:
        raise ValueError(f"scores and targets must both be (N, K), got {tuple(s.shape)} and {tuple(t.shape)}")
    if s.is_complex():
        raise ValueError(f"scores must be real numbers, got {s.dtype}")
    if s.dtype in (torch.float16, torch.bfloat16):
        s = s.float()
    elif s.dtype == torch.bool:
        s = s.to(torch.uint8)
    if s.is_floating_point():
        missing = s.isnan()
        if missing.any():
            row, column = missing.nonzero()[0].tolist()
            raise unusable_score(row, first_class + column)
    return s, _hard_labels(t, first_class).to(s.device)


def unusable_score(row: int, column: int) -> ValueError:
    """The error of a score that is NaN."""
    return ValueError(f"the score of class {column} in row {row} is NaN; scores must be numbers to be ranked")


def unusable_target(row: int, column: int, value: object) -> ValueError:
    """The error of a target that is no label."""
    return ValueError(
        f"the target of class {column} in row {row} is {value}; targets must be 1, 0 or unknown (-1 or NaN)"
    )


def as_tensor(values: Tensor | NDArray[Any]) -> Tensor:
    """Values as a tensor without a history, where they are; a read-only array is copied."""
    if isinstance(values, Tensor):
        tensor = values.detach()
        # Metrics count in float64, which Apple's GPUs do not have.
        return tensor.cpu() if tensor.device.type == "mps" else tensor
    array = np.ascontiguousarray(values)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _hard_labels(targets: Tensor, first_class: int) -> Int[Tensor, "N K"]:
    if targets.is_floating_point():
        targets = targets.nan_to_num(nan=UNKNOWN)
    wrong = (targets != 1) & (targets != 0)
    if targets.dtype.is_signed:
        wrong &= targets != UNKNOWN  # unsigned numbers would be equal to it modulo 256
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        raise unusable_target(row, first_class + column, targets[row, column].item())
    return targets.to(torch.int8)
