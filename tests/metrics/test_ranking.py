"""The score of log ranks, against a loop over pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tailwise.metrics import log_rank_score


def naive(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    positives = [score for score, label in zip(scores, labels, strict=True) if label == 1]
    negatives = [score for score, label in zip(scores, labels, strict=True) if label == 0]
    if not positives or not negatives:
        return math.nan
    logs = [math.log(1 + sum((n > p) + (n == p) / 2 for n in negatives)) for p in positives]
    return 1 - sum(logs) / len(logs) / math.log(len(negatives) + 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1, 0, -1])), min_size=1, max_size=30))
def test_is_the_mean_over_pairs(pairs: list[tuple[int, int]]) -> None:
    scores, labels = np.array(pairs).T
    found = float(log_rank_score(scores[:, None].astype(np.float32), labels[:, None]))
    assert found == pytest.approx(naive(scores, labels), nan_ok=True)
    assert math.isnan(found) or -1e-9 <= found <= 1 + 1e-9


def test_ends_are_the_perfect_and_the_reversed_ranking() -> None:
    labels = np.array([[1], [1], [0], [0], [0], [-1]])
    scores = np.array([[6.0], [5.0], [4.0], [3.0], [2.0], [9.0]])
    assert float(log_rank_score(scores, labels)) == 1
    assert float(log_rank_score(-scores, labels)) == pytest.approx(0)
