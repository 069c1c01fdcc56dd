"""CF1 and OF1 against scikit-learn's precision, recall and micro F1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_recall_fscore_support

from tailwise.metrics import f1_by_class, f1_scores
from tailwise.metrics.f1 import f1_of_counts


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.random((30, 5)) < 0.3
    targets[0, :4] = True  # every class but the last has a positive
    logits, thresholds = rng.normal(size=(30, 5)), rng.normal(size=5)
    predicted = logits >= thresholds
    precision, recall, _, support = precision_recall_fscore_support(targets, predicted, average=None, zero_division=0)
    cp, cr = precision[support > 0].mean(), recall[support > 0].mean()
    scores = f1_scores(logits, targets, thresholds)
    assert scores.cf1 == pytest.approx(2 * cp * cr / (cp + cr) if cp else 0.0, abs=1e-12)
    assert scores.of1 == pytest.approx(f1_score(targets, predicted, average="micro", zero_division=0), abs=1e-12)


def test_cf1_is_the_harmonic_mean_of_mean_precision_and_mean_recall() -> None:
    """Precision (1, 1/2), recall (1/2, 1): CP = CR = 3/4, while both classes' F1 is 2/3."""
    targets = torch.tensor([[1, 1], [1, 0], [0, -1]])
    logits = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]])
    assert f1_scores(logits, targets).cf1 == 0.75


def test_unknown_labels_are_not_counted() -> None:
    logits = np.array([[1.0], [1.0], [-1.0]])
    assert f1_scores(logits, np.array([[1], [-1], [0]])) == (1.0, 1.0)
    assert f1_scores(logits, np.array([[1.0], [0.0], [np.nan]])).of1 == pytest.approx(2 / 3)


def test_a_logit_at_the_threshold_is_predicted() -> None:
    logits, targets = np.array([[0.0], [-1.0]]), np.array([[1], [0]])
    assert f1_scores(logits, targets) == (1.0, 1.0)
    assert f1_scores(logits, targets, 0.1) == (0.0, 0.0)


def test_without_positives_f1_is_undefined() -> None:
    scores = f1_scores(np.array([[1.0], [-1.0]]), np.zeros((2, 1)))
    assert math.isnan(scores.cf1)
    assert scores.of1 == 0.0
    assert math.isnan(f1_scores(np.array([[-1.0]]), np.zeros((1, 1))).of1)


def test_a_class_of_which_no_prediction_could_be_wrong_counts_nowhere() -> None:
    rng = np.random.default_rng(0)
    targets, logits = rng.integers(0, 2, (30, 4)), rng.normal(size=(30, 4))
    targets[:, 1] = rng.integers(0, 2, 30) * 2 - 1  # positives and unknown labels
    targets[:, 2] = 0
    judged = [0, 2, 3]
    assert f1_scores(logits, targets) == f1_scores(logits[:, judged], targets[:, judged])
    of1 = f1_score(targets[:, judged], logits[:, judged] >= 0, average="micro")
    assert f1_scores(logits, targets).of1 == pytest.approx(of1, abs=1e-12)
    by_class = f1_by_class(logits, targets)
    assert by_class.isnan().tolist() == [False, True, True, False]
    assert by_class[3].item() == pytest.approx(f1_score(targets[:, 3], logits[:, 3] >= 0))


@pytest.mark.parametrize("targets", [[[1, -1], [1, 1]], [[-1, -1], [-1, -1]]])
def test_without_negatives_f1_is_undefined(targets: list[list[int]]) -> None:
    scores = f1_scores(np.ones((2, 2)), np.array(targets))
    assert math.isnan(scores.cf1)
    assert math.isnan(scores.of1)


def test_the_f1_of_a_class_is_undefined_without_positives_and_0_without_hits() -> None:
    #         found   missed  absent, predicted  absent  unknown but for a negative
    targets = [[1, 1, 0, 0, -1], [0, 0, 0, 0, -1], [1, 1, 0, 0, 0]]
    predicted = [[1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [0, 0, 1, 0, 0]]
    logits = 2.0 * np.array(predicted) - 1
    # One of two positives found, with one false alarm: 2 · 1 / (2 + 2).
    expected = [0.5, 0.0, math.nan, math.nan, math.nan]
    np.testing.assert_array_equal(f1_by_class(logits, np.array(targets)).numpy(), expected)
    # CP and CR are means over the two classes with positives: 1/2 · 1/2 of each. OF1 counts all false alarms.
    assert f1_scores(logits, np.array(targets)) == (0.25, 2 * 1 / (4 + 4))


def test_counts_of_many_thresholds_give_the_values_of_each() -> None:
    rng = np.random.default_rng(0)
    targets, logits, bounds = rng.random((20, 3)) < 0.4, rng.normal(size=(20, 3)), rng.normal(size=(4, 3))
    predicted = logits >= bounds[:, None]
    counts = (
        torch.from_numpy(c) for c in ((predicted & targets).sum(1), predicted.sum(1), targets.sum(0), (~targets).sum(0))
    )
    cf1, of1 = f1_of_counts(*counts)
    each = [f1_scores(logits, targets, row) for row in bounds]
    assert cf1.tolist() == [scores.cf1 for scores in each]
    assert of1.tolist() == [scores.of1 for scores in each]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_f1_by_class_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.random((12, 5)) < 0.2
    logits = rng.normal(size=(12, 5))
    for k, f1 in enumerate(f1_by_class(logits, targets.astype(int), 0.3).tolist()):
        if targets[:, k].any():
            assert f1 == pytest.approx(f1_score(targets[:, k], logits[:, k] >= 0.3, zero_division=0), abs=1e-12)
        else:
            assert math.isnan(f1)


def test_thresholds_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one for each of the 2 classes, got \(3,\)"):
        f1_scores(np.zeros((4, 2)), np.zeros((4, 2)), np.zeros(3))
