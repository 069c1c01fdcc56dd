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


def test_thresholds_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one for each of the 2 classes, got \(3,\)"):
        f1_scores(np.zeros((4, 2)), np.zeros((4, 2)), np.zeros(3))
