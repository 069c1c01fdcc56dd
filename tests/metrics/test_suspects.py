"""Label suspects against values by hand, a plain loop, Bayes' rule on labels of known noise, and planted errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from tailwise.metrics import Suspects, find_suspects, fit_calibration


def triples(found: Suspects) -> list[tuple[int, int, int]]:
    return list(zip(found.rows.tolist(), found.classes.tolist(), found.given.tolist(), strict=True))


def loop(p: np.ndarray, t: np.ndarray, min_score: float) -> list[tuple[float, int, int, int]]:
    """The definition, label by label: (-score, row, class, label), sorted."""
    found = []
    for k in range(t.shape[1]):
        num_positive, num_negative = int((t[:, k] == 1).sum()), int((t[:, k] == 0).sum())
        if not num_positive or not num_negative:
            continue
        for row in range(len(t)):
            if t[row, k] < 0:
                continue
            likely, unlikely = p[row, k], 1 - p[row, k]
            score = num_positive / num_negative * unlikely / likely if t[row, k] == 1 else likely / unlikely
            if score >= min_score:
                found.append((-score, row, k, int(t[row, k])))
    return sorted(found)


def labelled(num_samples: int = 12, num_classes: int = 3) -> strategies.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    shape = (num_samples, num_classes)
    return strategies.tuples(
        arrays(np.float64, shape, elements=strategies.floats(0.01, 0.99)),
        arrays(np.int8, shape, elements=strategies.sampled_from([-1, 0, 1])),
    )


def test_scores_by_hand() -> None:
    # Of the first class, 1 of 4 labels is positive: odds 1/3. Of the second, 2 of 4: odds 1.
    p = [[0.125, 0.75], [0.875, 0.125], [0.5, 0.5], [0.25, 0.875]]
    t = [[1, 0], [0, 1], [0, 1], [0, 0]]
    found = find_suspects(p, t)
    assert triples(found) == [(1, 0, 0), (1, 1, 1), (3, 1, 0), (0, 1, 0), (0, 0, 1)]
    assert found.scores == pytest.approx([7, 7, 7, 3, 7 / 3])
    assert found.probabilities.tolist() == [0.875, 0.125, 0.875, 0.75, 0.125]
    assert triples(find_suspects(p, t, min_score=5)) == [(1, 0, 0), (1, 1, 1), (3, 1, 0)]
    assert len(find_suspects(p, t, min_score=7.5)) == 0


@given(labelled(), strategies.sampled_from([0.1, 1.0, 2.0, 5.0]))
def test_they_are_those_of_a_plain_loop(case: tuple[np.ndarray, np.ndarray], min_score: float) -> None:
    p, t = case
    expected = loop(p, t, min_score)
    for targets in (t, csr_array(t), np.where(t < 0, np.nan, t)):
        found = find_suspects(p, targets, min_score=min_score)
        assert triples(found) == [entry[1:] for entry in expected]
        assert found.scores == pytest.approx([-entry[0] for entry in expected])
        assert (t[found.rows, found.classes] == found.given).all()
        assert (p[found.rows, found.classes] == found.probabilities).all()


@given(labelled())
def test_neither_unknown_labels_nor_those_of_one_sided_classes_are_suspects(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    p, t = case
    t[:, 0] = np.abs(t[:, 0])  # no unknown label
    t[:, 1] = np.where(t[:, 1] == 0, -1, t[:, 1])  # no negative
    t[:, 2] = np.where(t[:, 2] == 1, -1, t[:, 2])  # no positive
    found = find_suspects(p, t, min_score=1e-9)
    assert set(found.classes.tolist()) <= {0}
    assert len(found) in (0, len(t))
    assert (found.given >= 0).all()


@given(labelled(), strategies.permutations(range(12)), strategies.permutations(range(3)))
def test_the_order_of_samples_and_classes_does_not_matter(
    case: tuple[np.ndarray, np.ndarray], rows: list[int], classes: list[int]
) -> None:
    p, t = case
    found, other = find_suspects(p, t), find_suspects(p[rows][:, classes], t[rows][:, classes])
    restored = [(rows[row], classes[k], label) for row, k, label in triples(other)]
    assert sorted(restored) == sorted(triples(found))
    assert other.scores.tolist() == found.scores.tolist()


def test_classes_in_several_chunks_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    p, t = generator.random((50, 7)), generator.integers(-1, 2, (50, 7))
    at_once = find_suspects(p, t)
    monkeypatch.setattr("tailwise.metrics.suspects._CHUNK_ELEMENTS", 100)
    assert triples(find_suspects(p, t)) == triples(at_once)
    assert len(set(at_once.classes.tolist())) == 7


def test_certain_probabilities_come_first_and_nothing_has_no_suspects() -> None:
    found = find_suspects([[0.0], [1.0], [0.1], [1.0]], [[1], [0], [1], [1]])
    assert triples(found) == [(0, 0, 1), (1, 0, 0), (2, 0, 1)]
    assert found.scores[:2].tolist() == [np.inf, np.inf]
    for shape in ((0, 3), (3, 0)):
        assert len(find_suspects(np.zeros(shape), np.zeros(shape, dtype=int))) == 0


@pytest.mark.parametrize(
    ("p", "t", "min_score", "message"),
    [
        ([[1.5]], [[1]], 2.0, r"probabilities must be in \[0, 1\], got 1.5 to 1.5"),
        ([[0.5]], [[2]], 2.0, "the target of class 0 in row 0 is 2; targets must be 1, 0 or unknown"),
        ([[0.5]], [[1, 0]], 2.0, r"must both be \(N, K\), got \(1, 1\) and \(1, 2\)"),
        ([[0.5]], [[1]], 0.0, "min_score must be above 0, got 0.0"),
        ([[0.5]], [[1]], float("nan"), "min_score must be above 0, got nan"),
    ],
)
def test_what_cannot_be_used_is_refused(p: list, t: list, min_score: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_suspects(p, t, min_score=min_score)


def test_the_score_times_the_share_of_wrong_labels_is_the_probability_of_a_mistake() -> None:
    generator = np.random.default_rng(0)
    share = 0.02
    # True probabilities of a frequent, a rare and a very rare class, and what is known of their labels after the noise.
    q = 1 / (1 + np.exp(-3 * generator.normal(size=(100_000, 3)) - [0.0, -6.0, -9.0]))
    missed = share
    invented = share * q.mean(axis=0) / (1 - q.mean(axis=0))
    p = q * (1 - missed) + (1 - q) * invented
    recorded = (generator.random(p.shape) < p).astype(np.int8)
    found = find_suspects(p, recorded)
    assert set(zip(found.classes.tolist(), found.given.tolist(), strict=True)) == {
        (k, label) for k in range(3) for label in (0, 1)
    }
    place = found.rows, found.classes
    mistaken = np.where(
        found.given == 1, invented[found.classes] * (1 - q[place]) / p[place], missed * q[place] / (1 - p[place])
    )
    assert share * found.scores == pytest.approx(mistaken, rel=0.15)


def test_planted_errors_of_frequent_and_rare_classes_are_found() -> None:
    generator = np.random.default_rng(0)
    true = (generator.random((3000, 3)) < (0.6, 0.1, 0.02)).astype(np.int8)
    inputs = 5 * true + generator.normal(size=true.shape)
    recorded = true.copy()
    for k, labels in enumerate(recorded.T):
        number = round(0.1 * true[:, k].sum())
        labels[generator.choice(np.flatnonzero(true[:, k] == 1), number, replace=False)] = 0
        labels[generator.choice(np.flatnonzero(true[:, k] == 0), number, replace=False)] = 1
    columns = [
        cross_val_predict(LogisticRegression(), inputs, labels, cv=5, method="decision_function")
        for labels in recorded.T
    ]
    logits = np.stack(columns, axis=1)
    found = find_suspects(fit_calibration(logits, recorded).probabilities(logits), recorded)
    is_planted = (recorded != true)[found.rows, found.classes]
    number = int((recorded != true).sum())
    assert is_planted[:number].mean() > 0.9
    assert is_planted.sum() > 0.9 * number
    for k in range(3):  # the rare classes are neither drowned by the frequent one nor do they come first
        own = found.classes[:number] == k
        assert own.sum() == pytest.approx((recorded != true)[:, k].sum(), rel=0.2)
