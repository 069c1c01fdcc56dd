"""What every metric takes as scores and targets, and how it names what it does not take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from tailwise.metrics import average_precision, calibration_error, f1_by_class, fit_decisions, tune_thresholds
from tailwise.metrics.score_matrix import as_tensor, scores_and_targets

SCORES = [[0.5, -1.0], [2.0, 0.0], [1.0, 4.0]]
LABELS = [[1, 0], [-1, 1], [0, 0]]
KNOWN = [[1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (np.array(LABELS, dtype=np.int8), LABELS),
        (torch.tensor(LABELS), LABELS),
        (np.array(LABELS, dtype=np.float64), LABELS),
        (np.where(np.array(LABELS) < 0, np.nan, LABELS), LABELS),
        (torch.tensor(KNOWN, dtype=torch.bool), KNOWN),
        (np.array(KNOWN, dtype=np.uint8), KNOWN),
        (torch.tensor(LABELS, dtype=torch.bfloat16), LABELS),
    ],
)
def test_targets_of_every_type_become_the_same(targets: Any, expected: list[list[int]]) -> None:
    for scores in (np.array(SCORES), torch.tensor(SCORES, requires_grad=True), np.asfortranarray(SCORES)):
        s, t = scores_and_targets(scores, targets)
        assert t.dtype == torch.int8
        assert t.tolist() == expected
        assert s.tolist() == SCORES
        assert not s.requires_grad


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *((dtype, torch.float32) for dtype in (torch.float16, torch.bfloat16, torch.float32)),
        *((torch.float64, torch.float64), (torch.int32, torch.int32), (torch.bool, torch.uint8)),
    ],
)
def test_scores_keep_their_type_where_it_can_be_compared(given: torch.dtype, kept: torch.dtype) -> None:
    scores = torch.tensor([[0, 1], [1, 0]]).to(given)
    s, _ = scores_and_targets(scores, torch.zeros(2, 2, dtype=torch.int8))
    assert s.dtype == kept
    assert s.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    "convert",
    [
        pd.DataFrame,
        lambda a: pd.DataFrame(np.where(a < 0, np.nan, a)).astype("Int64"),
        np.ndarray.tolist,
        sparse.csr_array,
        sparse.coo_matrix,
        lambda a: torch.tensor(a).to_sparse_csr(),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_every_metric_takes_labels_of_every_form(convert: Any) -> None:
    scores, labels = np.array(SCORES), np.array(LABELS)
    given = convert(labels)
    for metric in (average_precision, f1_by_class, tune_thresholds):
        torch.testing.assert_close(metric(scores, given), metric(scores, labels), rtol=0, atol=0, equal_nan=True)
    error = calibration_error(1 / (1 + np.exp(-scores)), given)
    torch.testing.assert_close(error, calibration_error(1 / (1 + np.exp(-scores)), labels), equal_nan=True)
    thresholds = fit_decisions(scores, given, ("cat", "dog")).thresholds
    np.testing.assert_array_equal(thresholds, fit_decisions(scores, labels, ("cat", "dog")).thresholds)


def test_read_only_arrays_are_copied_and_others_shared() -> None:
    array = np.array(SCORES)
    assert as_tensor(array).data_ptr() == array.ctypes.data
    array.flags.writeable = False
    assert as_tensor(array).data_ptr() != array.ctypes.data
    assert as_tensor(array).tolist() == SCORES


def changed(dtype: Any, row: int, column: int, value: Any) -> Any:
    array = np.zeros((3, 2), dtype=dtype)
    array[row, column] = value
    return array


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (changed(float, 2, 1, math.nan), changed(int, 0, 0, 0), "the score of class 1 in row 2 is NaN"),
        (changed(float, 0, 0, 0), changed(int, 1, 0, 2), "the target of class 0 in row 1 is 2; targets must be 1, 0"),
        (changed(float, 0, 0, 0), changed(int, 1, 1, -2), "the target of class 1 in row 1 is -2"),
        (changed(float, 0, 0, 0), changed(float, 0, 1, 0.5), r"the target of class 1 in row 0 is 0\.5"),
        (changed(float, 0, 0, 0), changed(np.uint8, 2, 0, 255), "the target of class 0 in row 2 is 255"),
        (changed(complex, 0, 0, 0), changed(int, 0, 0, 0), "scores must be real numbers, got torch.complex128"),
        (np.zeros((3, 1)), np.zeros((3, 2)), r"must both be \(N, K\), got \(3, 1\) and \(3, 2\)"),
        (np.zeros(3), np.zeros(3), r"must both be \(N, K\), got \(3,\) and \(3,\)"),
        (np.zeros((3, 2, 1)), np.zeros((3, 2, 1)), r"must both be \(N, K\), got \(3, 2, 1\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_ranked_is_named(scores: Any, targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scores_and_targets(scores, targets)


def test_classes_are_counted_from_the_first_of_a_part() -> None:
    with pytest.raises(ValueError, match="the target of class 41 in row 2 is 3"):
        scores_and_targets(np.zeros((3, 2)), changed(int, 2, 1, 3), first_class=40)
    with pytest.raises(ValueError, match="the score of class 40 in row 1 is NaN"):
        scores_and_targets(changed(float, 1, 0, math.nan), np.zeros((3, 2)), first_class=40)
