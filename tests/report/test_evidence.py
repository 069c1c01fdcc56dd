"""Curves that a page holds, beside scikit-learn and the metrics they thin out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from tailwise.metrics import f1_scores
from tailwise.report.evidence import NUM_THRESHOLDS, precision_recall, sweep_thresholds, threshold_logits
from tailwise.report.results_page import write_report
from tests.report.browser import browse
from tests.report.folders import CLASSES, Data, make_data, make_logits, make_run
from tests.report.pages import TOOLS, page_data


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_points_lie_on_the_curve_of_scikit_learn(generator: np.random.Generator) -> None:
    labels = (generator.random(400) < 0.2).astype(int)
    scores = (generator.normal(size=400) + labels).round(1).astype(np.float32)  # with ties
    precision, recall, _ = precision_recall_curve(labels, scores)
    points = precision_recall(scores, labels, most=400)
    found = set(zip((points.hits / labels.sum()).round(9), (points.hits / points.predicted).round(9), strict=True))
    theirs = list(zip(recall.round(9), precision.round(9), strict=True))
    assert found <= set(theirs)
    # Each recall is there, with the best precision that has it.
    best = {r: max(p for other, p in theirs if other == r) for r in recall.round(9) if r > 0}
    assert found == set(best.items())


def test_unknown_labels_are_left_out_and_points_are_thinned(generator: np.random.Generator) -> None:
    labels = generator.integers(-1, 2, 900)
    scores = generator.normal(size=900)
    all_points = precision_recall(scores, labels, most=900)
    known = labels >= 0
    expected = precision_recall(scores[known], labels[known], most=900)
    assert all_points.hits.tolist() == expected.hits.tolist()
    assert all_points.predicted.tolist() == expected.predicted.tolist()
    few = precision_recall(scores, labels, most=20)
    assert len(few.hits) == 20
    assert few.hits[0] == 1
    assert few.hits[-1] == (labels == 1).sum()
    assert set(zip(*few, strict=True)) <= set(zip(*all_points, strict=True))
    for of_one_kind in (np.minimum(labels, 0), 2 * abs(labels) - 1):
        assert not len(precision_recall(scores, of_one_kind, most=20).hits)


def test_a_sweep_is_f1_at_every_threshold(generator: np.random.Generator) -> None:
    targets = generator.integers(-1, 2, (70, 5))
    targets[:, 4] = np.minimum(targets[:, 4], 0)  # no positive
    targets[:, 3] = 2 * abs(targets[:, 3]) - 1  # no negative
    bounds = threshold_logits()
    logits = generator.normal(size=(70, 5)).astype(np.float32)
    logits[:10, 0] = bounds[90:100]  # exactly on thresholds
    logits[0, 1], logits[1, 1] = -np.inf, np.inf
    cf1, of1 = sweep_thresholds(logits, targets)
    expected = [f1_scores(logits, targets, float(bound)) for bound in bounds]
    assert len(expected) == NUM_THRESHOLDS
    np.testing.assert_allclose(cf1, [scores.cf1 for scores in expected], rtol=1e-12)
    np.testing.assert_allclose(of1, [scores.of1 for scores in expected], rtol=1e-12)
    assert (bounds[0], bounds[100], bounds[-1]) == (-np.inf, 0, np.inf)
    np.testing.assert_allclose(1 / (1 + np.exp(-bounds.astype(float))), np.arange(201) / 200, atol=1e-7)


def never_denied(data: Data, k: int) -> Data:
    """The data, with every negative of a class in the test split made unknown."""
    lines = [json.loads(line) for line in data.path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["split"] == "test":
            line["labels"].setdefault(CLASSES[k], None)
    data.path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    targets = data.targets.copy()
    targets[targets[:, k] == 0, k] = -1
    return replace(data, targets=targets)


def test_a_class_without_negatives_has_no_curve_to_choose(tmp_path: Path) -> None:
    k = 4
    data = never_denied(make_data(tmp_path), k)
    make_run(tmp_path / "run", data, make_logits(data, 1.0, 0))
    page = write_report(tmp_path / "run")
    text = page.read_text(encoding="utf-8")
    left_out = f"in the test split and are left out of the means: {CLASSES[k]}, never tested."
    assert f"2 of 7 classes have no positive or no judged negative {left_out}" in text
    found = page_data(text)["page-data"]
    assert found["positives"][k] == found["known"][k] == (data.targets[:, k] == 1).sum() > 0
    assert [len(points[0]) > 0 for points in found["points"]["0"]] == [
        name not in (CLASSES[k], "never tested") for name in CLASSES
    ]
    script = f"""
    const title = () => document.getElementById("class-title").textContent;
    const named = (name) => [...document.querySelectorAll("#class-table tbody tr")].find(
      (row) => row.firstChild.textContent === name);
    named("person").querySelector("button").click();
    named({json.dumps(CLASSES[k])}).querySelector("button").click();
    outcome.title = title();
    """
    seen = browse(page, TOOLS + script, tmp_path)
    assert seen["problems"] == []
    assert seen["title"].startswith("person: ")
