"""Tuned thresholds against scikit-learn's curves and against trying every cut point."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score, precision_recall_curve

from tailwise.metrics import f1_by_class, f1_scores, tune_thresholds

# Few values, so that there are many ties, and infinities.
SCORES = st.sampled_from([-math.inf, -3.5, -1.0, 0.0, 1e-30, 0.5, 2.0, math.inf])
CASES = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, (n, 3), elements=SCORES),
        hnp.arrays(np.int8, (n, 3), elements=st.sampled_from([1, 0, 0, -1])),
    )
)
TARGETS = st.sampled_from([0.2, 1 / 3, 0.5, 0.7, 0.9, 1.0])


def cut_points(scores: np.ndarray, targets: np.ndarray) -> list[tuple[float, int, int]]:
    """(lowest predicted score, true positives, predicted) of every set of predictions, the smallest set first."""
    known = targets >= 0
    found = []
    for bound in sorted(set(scores[known]), reverse=True):
        predicted = known & (scores >= bound)
        found.append((bound, int((targets[predicted] == 1).sum()), int(predicted.sum())))
    return found


def best_cut(scores: np.ndarray, targets: np.ndarray, objective: str, wanted: float) -> float | None:
    """The lowest score that the best threshold predicts, by trying them all in exact arithmetic."""
    num_positive = int((targets == 1).sum())
    if not num_positive or (objective != "recall" and not (targets == 0).any()):
        return None
    cuts = cut_points(scores, targets)
    if objective == "f1":
        return max(cuts, key=lambda cut: (Fraction(2 * cut[1], cut[2] + num_positive), cut[0]))[0]
    if objective == "precision":
        return min((cut[0] for cut in cuts if cut[1] / cut[2] >= wanted), default=None)
    return max(cut[0] for cut in cuts if cut[1] / num_positive >= wanted)


@settings(deadline=None, max_examples=300)
@given(case=CASES, objective=st.sampled_from(["f1", "precision", "recall"]), wanted=TARGETS)
def test_equals_trying_every_cut_point(case: tuple[np.ndarray, np.ndarray], objective: Any, wanted: float) -> None:
    scores, targets = case
    target = None if objective == "f1" else wanted
    found = tune_thresholds(scores, targets, objective, target=target, fallback=math.nan).numpy()
    for k in range(3):
        best = best_cut(scores[:, k], targets[:, k], objective, wanted)
        if best is None:
            assert np.isnan(found[k])
            continue
        known = scores[targets[:, k] >= 0, k]
        assert np.array_equal(known >= found[k], known >= best)


@settings(deadline=None, max_examples=100)
@given(case=CASES)
def test_thresholds_lie_in_the_middle_of_the_gap_they_cut(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, targets = case
    found = tune_thresholds(scores, targets, fallback=math.nan).numpy()
    for k in range(3):
        if np.isnan(found[k]):
            continue
        known = scores[targets[:, k] >= 0, k]
        above, below = known[known >= found[k]].min(), known[known < found[k]].max(initial=-math.inf)
        assert found[k] == (above if np.isinf(below) else above / 2 + below / 2)


@settings(deadline=None, max_examples=60)
@given(case=CASES, order=st.randoms(use_true_random=False))
def test_order_and_monotone_scales_do_not_matter(case: tuple[np.ndarray, np.ndarray], order: Any) -> None:
    scores, targets = case
    rows = list(range(len(scores)))
    order.shuffle(rows)
    found = tune_thresholds(scores, targets, fallback=math.nan)
    torch.testing.assert_close(
        tune_thresholds(scores[rows], targets[rows], fallback=math.nan), found, rtol=0, atol=0, equal_nan=True
    )
    doubled = tune_thresholds(2 * scores, targets, fallback=math.nan)
    torch.testing.assert_close(doubled, 2 * found, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("seed", range(5))
def test_best_f1_and_recall_at_precision_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = (rng.random((400, 6)) < np.geomspace(0.4, 0.01, 6)).astype(int)
    targets[0] = 1
    scores = (rng.normal(size=targets.shape) + 1.5 * targets).round(2).astype(np.float32)
    by_f1 = tune_thresholds(scores, targets)
    by_precision = tune_thresholds(scores, targets, "precision", target=0.6, fallback=math.nan)
    by_recall = tune_thresholds(scores, targets, "recall", target=0.8)
    for k in range(6):
        precision, recall, _ = precision_recall_curve(targets[:, k], scores[:, k])
        precision, recall = precision[:-1], recall[:-1]  # the last point predicts nothing
        assert f1_score(targets[:, k], scores[:, k] >= by_f1[k].item()) == pytest.approx(
            np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
        )
        reached = recall[precision >= 0.6]
        if len(reached):
            hits = targets[scores[:, k] >= by_precision[k].item(), k]
            assert hits.mean() >= 0.6
            assert hits.sum() / targets[:, k].sum() == pytest.approx(reached.max())
        else:
            assert by_precision[k].isnan()
        hits = targets[scores[:, k] >= by_recall[k].item(), k]
        assert hits.mean() == pytest.approx(precision[recall >= 0.8][-1])
    assert f1_by_class(scores, targets, by_f1).tolist() == pytest.approx(
        [f1_score(targets[:, k], scores[:, k] >= by_f1[k].item()) for k in range(6)]
    )


def test_no_other_threshold_has_a_better_f1() -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random((80, 4)) < 0.2).astype(int)
    scores = rng.normal(size=(80, 4)) + targets
    best = f1_by_class(scores, targets, tune_thresholds(scores, targets))
    for threshold in np.linspace(scores.min(), scores.max(), 500):
        assert (f1_by_class(scores, targets, threshold) <= best).all()
    assert f1_scores(scores, targets, tune_thresholds(scores, targets)).of1 > f1_scores(scores, targets).of1


def test_classes_without_threshold_have_the_fallback() -> None:
    targets = np.array([[0, -1, 0, 1], [0, -1, 1, 0], [-1, -1, 0, 0]])
    scores = np.array([[3.0, 3, 3, 3], [2.0, 2, 2, 2], [1.0, 1, 1, 1]])
    by_f1 = tune_thresholds(scores, targets)
    assert by_f1.tolist() == [0.0, 0.0, 1.5, 2.5]
    by_precision = tune_thresholds(scores, targets, "precision", target=0.9, fallback=-7.0)
    assert by_precision.tolist() == [-7.0, -7.0, -7.0, 2.5]


def test_a_threshold_between_neighbouring_floats_still_separates_them() -> None:
    low = 1.0
    high = np.nextafter(low, 2)
    assert tune_thresholds(np.array([[low], [high]]), np.array([[0], [1]])).item() == high
    narrow = np.array([[1.0], [np.nextafter(np.float32(1), np.float32(2))]], dtype=np.float32)
    found = tune_thresholds(narrow, np.array([[0], [1]]))
    assert narrow[0].item() < found.item() < narrow[1].item()
    assert f1_scores(narrow, np.array([[0], [1]]), found) == (1.0, 1.0)


def test_unknown_labels_count_on_neither_side() -> None:
    scores = np.array([[5.0], [4.0], [3.0], [-9.0]])
    targets = np.array([[np.nan], [1.0], [0.0], [np.nan]])
    assert tune_thresholds(scores, targets).item() == 3.5
    assert tune_thresholds(scores, targets, "precision", target=0.5).item() == 3.0


def test_many_classes_are_the_same_as_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, 2, (50, 7))
    scores = rng.normal(size=(50, 7))
    whole = tune_thresholds(scores, targets)
    monkeypatch.setattr("tailwise.metrics.thresholds._CHUNK_ELEMENTS", 120)
    assert torch.equal(tune_thresholds(scores, targets), whole)
    assert tune_thresholds(np.empty((0, 2)), np.empty((0, 2))).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("objective", "target", "message"),
    [
        ("accuracy", None, "one of f1, precision, recall, got 'accuracy'"),
        ("f1", 0.5, "'f1' has no target"),
        ("precision", None, r"needs a target in \(0, 1\], got None"),
        ("recall", 0.0, r"needs a target in \(0, 1\], got 0"),
        ("recall", math.nan, r"needs a target in \(0, 1\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_objectives_and_targets_must_fit(objective: Any, target: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tune_thresholds(np.zeros((2, 1)), np.zeros((2, 1)), objective, target=target)
