"""Scores of methods on the same images, with differences held against a bootstrap written out as a loop."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tailwise.experiments.results import Difference
from tailwise.experiments.scoring import Board, percent
from tailwise.metrics.bootstrap import Resamples

NUM_IMAGES, NUM_RUNS, REPLICATES = 60, 3, 20
GROUPS = {"head": np.array([0, 1]), "medium": np.array([], dtype=int), "tail": np.array([2, 3])}


def board_and_logits():
    generator = np.random.default_rng(0)
    targets = (generator.random((NUM_IMAGES, 4)) < (0.5, 0.4, 0.3, 0.2)).astype(np.int8)
    logits = {
        name: [(generator.normal(size=targets.shape) + strength * targets).astype(np.float32) for _ in range(NUM_RUNS)]
        for name, strength in (("weak", 0.2), ("strong", 1.5))
    }
    board = Board(targets, GROUPS, num_runs=NUM_RUNS, replicates=REPLICATES, level=0.9)
    for name, runs in logits.items():
        board.add(name, runs)
    return board, targets, logits


def mean_precision(scores, targets, rows, classes):
    return np.mean([average_precision_score(targets[rows, k], scores[rows, k]) for k in classes])


def test_differences_are_paired_over_images_and_runs():
    board, targets, logits = board_and_logits()
    assert board.best == "strong"
    found = board.difference("weak", "strong")
    resamples = Resamples.draw(NUM_IMAGES, NUM_RUNS, REPLICATES)
    for group, classes in {"total": [0, 1, 2, 3], "head": [0, 1], "tail": [2, 3]}.items():
        drawn = []
        for b in range(REPLICATES):
            rows = np.repeat(np.arange(NUM_IMAGES), resamples.images[:, b])
            means = {
                name: np.mean([mean_precision(runs[s], targets, rows, classes) for s in resamples.seeds[b]])
                for name, runs in logits.items()
            }
            drawn.append(100 * (means["weak"] - means["strong"]))
        assert found[group].low == pytest.approx(np.quantile(drawn, 0.05), abs=1e-5)
        assert found[group].high == pytest.approx(np.quantile(drawn, 0.95), abs=1e-5)
        everyone = np.arange(NUM_IMAGES)
        expected = [
            np.mean([mean_precision(run, targets, everyone, classes) for run in logits[name]])
            for name in ("weak", "strong")
        ]
        assert found[group].difference == pytest.approx(100 * (expected[0] - expected[1]), abs=1e-5)
    assert found["medium"] == Difference(None, None, None)


def test_a_method_does_not_differ_from_itself_or_from_nothing():
    board, _, _ = board_and_logits()
    assert board.difference("strong", "strong")["total"] == Difference(0, 0, 0)
    assert board.difference("strong", None) is None
    assert Board(np.ones((2, 4), np.int8), GROUPS, num_runs=1, replicates=1, level=0.9).best is None


@pytest.mark.parametrize("of_one_kind", [[1, 1, -1], [0, -1, 0]])
def test_no_method_is_best_where_no_class_can_be_scored(of_one_kind):
    board = Board(np.array([of_one_kind] * 4).T.astype(np.int8), GROUPS, num_runs=2, replicates=5, level=0.9)
    for name in ("one", "other"):
        board.add(name, [np.eye(3, 4, dtype=np.float32)] * 2)
    assert board.best is None
    assert board.methods["one"].means == dict.fromkeys(("total", *GROUPS))
    assert board.methods["one"].class_means == [None] * 4
    assert board.class_intervals("one") == ([None] * 4, [None] * 4)
    undefined = Difference(None, None, None)
    assert board.difference("one", "other") == dict.fromkeys(("total", *GROUPS), undefined)


def test_intervals_of_classes_hold_most_replicates():
    board, _, _ = board_and_logits()
    low, high = board.class_intervals("strong")
    replicates = 100 * board.methods["strong"].replicates.classes
    inside = ((replicates >= np.array(low) - 1e-6) & (replicates <= np.array(high) + 1e-6)).mean(axis=0)
    assert (np.abs(inside - 0.9) < 0.11).all()


def test_percent_is_what_json_holds():
    assert percent(float("nan")) is None
    assert percent(0.123456789) == 12.345679
    assert str(percent(-0.0)) == "0.0"
