"""Decisions, thresholds over all cut points, and F1 scores against scikit-learn."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit
from sklearn.metrics import (
    f1_score,
    precision_recall_curve,
    precision_recall_fscore_support,
    precision_score,
    recall_score,
)

from tailwise.metrics import Decisions, f1_by_class, f1_scores, fit_calibration, fit_decisions, tune_thresholds
from tailwise.metrics.decisions import f1_of_counts

NAMES = ("cat", "dog", "größte Katze", "unseen", "never denied")


@pytest.fixture
def fitted_on() -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of five classes: two that can be told, one that cannot, two of one kind."""
    rng = np.random.default_rng(0)
    y = (rng.random((500, 5)) < (0.4, 0.05, 0.01, 0, 0.3)).astype(np.int8)
    y[0] = (1, 1, 1, 0, 1)
    z = rng.normal(size=y.shape) + 3 * y * (1, 1, -1, 1, 1) + 2
    y[y[:, 4] == 0, 4] = -1
    y[rng.random(y.shape) < 0.1] = -1
    return z.astype(np.float32), y


@pytest.mark.parametrize(
    ("objective", "target", "score"),
    [("f1", None, f1_score), ("precision", 0.8, precision_score), ("recall", 0.9, recall_score)],
)
def test_fitted_thresholds_decide(fitted_on: Any, objective: Any, target: float | None, score: Any) -> None:
    z, y = fitted_on
    decisions = fit_decisions(z, y, NAMES, objective, target=target)
    np.testing.assert_array_equal(decisions.num_positive, (y == 1).sum(axis=0))
    predicted = decisions.predict(torch.from_numpy(z)).numpy()
    np.testing.assert_array_equal(predicted, z >= decisions.thresholds)
    found = tune_thresholds(z, y, objective, target=target)
    for k in range(2):
        assert decisions.thresholds[k] == found[k]
        known = y[:, k] >= 0
        value = score(y[known, k], predicted[known, k])
        assert value >= (target or score(y[known, k], z[known, k] >= 0))


def test_classes_without_a_useful_threshold_keep_the_default_and_are_named(fitted_on: Any) -> None:
    z, y = fitted_on
    by_f1 = fit_decisions(z, y, NAMES)
    assert by_f1.untuned == ("größte Katze", "unseen", "never denied")
    assert by_f1.thresholds[2:].tolist() == [0, 0, 0]
    # Its best F1 is to predict it for nearly every image.
    known = y[:, 2] >= 0
    best = z[known, 2] >= tune_thresholds(z, y)[2].item()
    assert f1_score(y[known, 2], best) < 0.1 < 0.9 < best.mean()
    assert fit_decisions(z, y, NAMES, "precision", target=1.0).untuned[-3:] == by_f1.untuned
    # Who wants a recall gets it, at whatever price.
    assert fit_decisions(z, y, NAMES, "recall", target=1.0).untuned == ("unseen",)


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_probabilities_are_those_of_the_calibration(fitted_on: Any, method: Any) -> None:
    z, y = fitted_on
    slope, intercept = fit_calibration(z, y, method)
    probabilities = fit_decisions(z, y, NAMES, method=method).calibrate(z)
    np.testing.assert_allclose(probabilities, expit(z * slope + intercept), rtol=1e-12)


@pytest.mark.parametrize(("objective", "target"), [("f1", None), ("recall", 0.75)])
def test_file_gives_back_every_bit(fitted_on: Any, tmp_path: Path, objective: Any, target: float | None) -> None:
    decisions = fit_decisions(*fitted_on, NAMES, objective, target=target, method="temperature")
    path = tmp_path / "thresholds.json"
    decisions.save(path)
    again = Decisions.load(path)
    assert again.class_names == NAMES
    for name in ("thresholds", "tuned", "num_positive"):
        first, second = getattr(decisions, name), getattr(again, name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(decisions.calibration, again.calibration)
    assert (again.objective, again.target, again.method) == (objective, target, "temperature")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["classes"]["dog"]["threshold"] == decisions.thresholds[1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["thresholds.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file of thresholds"),
        ('{"format": "other"}', "is not a file of thresholds"),
        ('{"format": "tailwise-thresholds-1"}', "not a complete file of thresholds.*classes"),
        ('{"format": "tailwise-thresholds-1", "classes": {"a": {"threshold": 1}}}', "not a complete file.*tuned"),
        ('{"format": "tailwise-thresholds-1", "classes": {"a": 1}}', "not a complete file of thresholds"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Decisions.load(tmp_path / "t.json")


def test_names_and_objectives_are_checked(fitted_on: Any) -> None:
    z, y = fitted_on
    with pytest.raises(ValueError, match="5 distinct names, got 3"):
        fit_decisions(z, y, NAMES[:3])
    with pytest.raises(ValueError, match="5 distinct names"):
        fit_decisions(z, y, ("a", "a", "b", "c", "d"))
    with pytest.raises(ValueError, match="needs a target"):
        fit_decisions(z, y, NAMES, "recall")


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
    monkeypatch.setattr("tailwise.metrics.decisions._CHUNK_ELEMENTS", 120)
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
