"""Decisions: what is fitted, what predictions and probabilities follow, and the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import f1_score, precision_score, recall_score

from tailwise.metrics import Decisions, fit_calibration, fit_decisions, tune_thresholds

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
        ('{"format": "tailwise-thresholds-1"}', "not a whole file of thresholds.*classes"),
        ('{"format": "tailwise-thresholds-1", "classes": {"a": {"threshold": 1}}}', "not a whole file.*tuned"),
        ('{"format": "tailwise-thresholds-1", "classes": {"a": 1}}', "not a whole file of thresholds"),
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
