"""Group means leave undefined classes out and say how many there are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tailwise import LabelStats
from tailwise.metrics import group_means, left_out

GROUPS = {"head": np.array([0, 1]), "medium": np.array([2]), "tail": np.array([3, 4])}


def test_means_leave_nan_out() -> None:
    values = torch.tensor([1.0, 0.5, math.nan, 0.25, math.nan], dtype=torch.float64)
    means = group_means(values, GROUPS)
    assert list(means) == ["total", "head", "medium", "tail"]
    assert means["total"] == pytest.approx(1.75 / 3, abs=1e-15)
    assert means["head"] == 0.75
    assert math.isnan(means["medium"])
    assert means["tail"] == 0.25
    assert left_out(values, GROUPS) == {"total": 2, "head": 0, "medium": 1, "tail": 1}


def test_groups_of_label_stats_and_empty_groups() -> None:
    stats = LabelStats([500, 50, 30, 60], 1000)
    means = group_means(np.array([0.8, 0.1, 0.2, 0.3], dtype=np.float32), stats.groups)
    assert means["head"] == pytest.approx(0.8)
    assert means["medium"] == pytest.approx(0.2)
    assert math.isnan(means["tail"])
    assert left_out(np.ones(4), stats.groups)["tail"] == 0


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        (np.ones(3), {"tail": [0, 3]}, "'tail' has an index outside the 3 classes"),
        (np.ones(3), {"tail": [-1]}, "'tail' has an index outside the 3 classes"),
        (np.ones(3), {"total": [0]}, "may not be called 'total'"),
        (np.ones((3, 1)), {}, r"must be \(K,\)"),
    ],
)
def test_groups_that_do_not_fit_are_refused(values: np.ndarray, groups: dict, message: str) -> None:
    for function in (group_means, left_out):
        with pytest.raises(ValueError, match=message):
            function(values, groups)
