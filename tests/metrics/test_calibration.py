"""Calibration error against a naive loop, calibration against scikit-learn and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from tailwise.metrics import Calibration, calibration_error, fit_calibration

PROBABILITIES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])


def naive_error(p: np.ndarray, y: np.ndarray, num_bins: int) -> float:
    known = y >= 0
    p, y = p[known], y[known]
    if not (y == 0).any():
        return np.nan
    bins = [[] for _ in range(num_bins)]
    for probability, label in zip(p, y, strict=True):
        bins[int((p < probability).sum()) * num_bins // len(p)].append(label - probability)
    return sum(len(part) / len(p) * abs(np.mean(part)) for part in bins if part)


@settings(deadline=None, max_examples=200)
@given(
    p=hnp.arrays(np.float64, (9, 2), elements=PROBABILITIES),
    y=hnp.arrays(np.int8, (9, 2), elements=st.sampled_from([1, 0, -1])),
    num_bins=st.integers(1, 12),
)
def test_error_equals_a_naive_loop(p: np.ndarray, y: np.ndarray, num_bins: int) -> None:
    expected = [naive_error(p[:, k], y[:, k], num_bins) for k in range(2)]
    np.testing.assert_allclose(calibration_error(p, y, num_bins=num_bins), expected, rtol=1e-12, atol=1e-15)


def test_error_without_ties_has_the_bins_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((150, 3)) ** 2
    y = (rng.random((150, 3)) < 0.3).astype(int)
    for k, error in enumerate(calibration_error(p, y).tolist()):
        frequency, mean = calibration_curve(y[:, k], p[:, k], n_bins=15, strategy="quantile")
        assert error == pytest.approx(np.abs(frequency - mean).mean())


def test_error_of_one_bin_is_the_difference_of_the_means_and_of_sure_truth_0() -> None:
    rng = np.random.default_rng(1)
    p, y = rng.random((40, 2)), rng.integers(0, 2, (40, 2))
    np.testing.assert_allclose(calibration_error(p, y, num_bins=1), np.abs(p.mean(0) - y.mean(0)))
    assert calibration_error(y.astype(float), y).tolist() == [0.0, 0.0]
    assert calibration_error(1.0 - y, y).tolist() == [1.0, 1.0]
    assert calibration_error(torch.empty(0, 1), torch.empty(0, 1)).isnan().all()


@pytest.mark.parametrize(("shape", "elements"), [((30, 5), 70), ((4, 9), 8)])
def test_error_does_not_depend_on_chunks(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], elements: int
) -> None:
    rng = np.random.default_rng(2)
    p, y = rng.random(shape), rng.integers(-1, 2, shape)
    y[0] = 0
    whole = calibration_error(p, y)
    assert not whole.isnan().any()
    monkeypatch.setattr("tailwise.metrics.calibration._CHUNK_ELEMENTS", elements)
    assert torch.equal(calibration_error(p, y), whole)


@pytest.mark.parametrize(
    ("p", "options", "message"),
    [(1.5, {}, r"in \[0, 1\]"), (-0.1, {}, r"in \[0, 1\]"), (0.5, {"num_bins": 0}, "at least 1")],
)
def test_what_are_no_probabilities_is_refused(p: float, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration_error(np.full((2, 1), p), np.zeros((2, 1)), **options)


@pytest.mark.parametrize("num_positive", [1, 2, 4, 60])
@pytest.mark.parametrize("shift", [-4.0, 0.0, 3.0])
def test_platt_scaling_is_logistic_regression_on_smoothed_labels(num_positive: int, shift: float) -> None:
    rng = np.random.default_rng(num_positive)
    y = np.zeros((300, 1), dtype=int)
    y[:num_positive] = 1
    z = 2 * rng.normal(size=(300, 1)) + 3 * y + shift
    slope, intercept = fit_calibration(z, y)
    # A label that is partly positive is two rows with weights.
    weights = smoothed(y[:, 0])
    fitted = LogisticRegression(C=1e12, solver="newton-cholesky", tol=1e-12)
    fitted.fit(np.concatenate([z, z]), np.repeat([1, 0], 300), np.concatenate([weights, 1 - weights]))
    np.testing.assert_allclose(slope, fitted.coef_[0], rtol=1e-5)
    np.testing.assert_allclose(intercept, fitted.intercept_, rtol=1e-5)


def smoothed(y: np.ndarray) -> np.ndarray:
    positives = int((y == 1).sum())
    return np.where(y == 1, (positives + 1) / (positives + 2), 1 / (len(y) - positives + 2))


@settings(deadline=None, max_examples=100)
@given(
    z=hnp.arrays(np.float64, 12, elements=st.sampled_from([-30.0, -2.0, -1.5, 0.0, 0.3, 4.0, 100.0])),
    y=hnp.arrays(np.int8, 12, elements=st.sampled_from([1, 0, 0, -1])),
)
def test_no_line_near_the_fitted_one_is_more_likely(z: np.ndarray, y: np.ndarray) -> None:
    """A convex function has its minimum where no step lowers it."""
    (slope,), (intercept,) = fit_calibration(z[:, None], y[:, None])
    assert np.isfinite([slope, intercept]).all()
    assert slope >= 0
    z, y = z[y >= 0], y[y >= 0]
    if not (y == 0).any():
        assert (slope, intercept) == (1, 0)
        return
    t = smoothed(y)

    def cross_entropy(a: float, b: float) -> float:
        return float(np.mean(np.logaddexp(0, a * z + b) - t * (a * z + b)))

    found = cross_entropy(slope, intercept)
    slopes = (-0.01, 0, 0.01) if 0 < (y == 1).sum() < len(y) else (0,)
    for da in slopes:
        for db in (-0.01, 0, 0.01):
            assert slope + da < 0 or cross_entropy(slope + da, intercept + db) >= found - 1e-9


@pytest.mark.parametrize("num_positive", [1, 5, 100])
def test_temperature_is_the_one_with_the_smallest_loss(num_positive: int) -> None:
    rng = np.random.default_rng(num_positive)
    y = np.zeros((200, 1), dtype=int)
    y[:num_positive] = 1
    z = 5 * rng.normal(size=(200, 1)) + 4 * y
    (slope,), (intercept,) = fit_calibration(z, y, "temperature")
    t = smoothed(y[:, 0])
    loss = minimize_scalar(
        lambda log: np.mean(np.logaddexp(0, np.exp(log) * z[:, 0]) - t * np.exp(log) * z[:, 0]),
        bounds=(-9, 3),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert (slope, intercept) == (pytest.approx(np.exp(loss.x), rel=1e-4), 0)


def test_calibration_brings_probabilities_to_frequencies() -> None:
    """Logits too large by a factor and a shift, as class-aware sampling makes them, on images of another draw."""
    rng = np.random.default_rng(0)
    true_logits = rng.normal(-2, 1.5, size=(6000, 4)) - np.arange(4)
    y = (rng.random(true_logits.shape) < expit(true_logits)).astype(int)
    z = 2.5 * true_logits + 9
    fitted = fit_calibration(z[:3000], y[:3000])
    np.testing.assert_allclose(fitted.slope, 1 / 2.5, rtol=0.25)
    after = fitted.probabilities(z[3000:])
    before = expit(z[3000:])
    assert (calibration_error(after, y[3000:]) < 0.02).all()
    assert (calibration_error(before, y[3000:]) > 0.1).all()
    assert all(log_loss(y[3000:, k], after[:, k]) < log_loss(y[3000:, k], before[:, k]) for k in range(4))


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_rules_for_classes_that_say_little(method: Any) -> None:
    z = np.array([[3.0, 3.0, 3.0, 2.0, 0.0], [1.0, 1.0, 1.0, 2.0, 0.0], [2.0, 2.0, -2.0, 2.0, 0.0]])
    #            no positive, no negative, against the labels, constant, nothing known
    y = np.array([[0, 1, 0, 1, -1], [0, 1, 0, 0, -1], [0, 1, 1, 0, -1]])
    slope, intercept = fit_calibration(z, y, method)
    assert slope[[0, 1, 4]].tolist() == [1, 1, 1]
    assert slope[2] == 0
    assert intercept[[1, 4]].tolist() == [0, 0]
    if method == "temperature":
        assert intercept.tolist() == [0] * 5
        return
    # Three negatives count as 1/5 each; one positive of three labels as 2/3, 1/4 and 1/4.
    assert expit(z[:, 0] + intercept[0]).mean() == pytest.approx(1 / 5)
    base = logit((2 / 3 + 1 / 4 + 1 / 4) / 3)
    assert intercept[2] == pytest.approx(base)
    assert (slope[3], intercept[3]) == (0, pytest.approx(base))


def test_unknown_labels_are_left_out_and_dtypes_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    z, y = rng.normal(size=(60, 2)).astype(np.float32), rng.integers(0, 2, (60, 2))
    extra_z, extra_y = np.concatenate([z, 99 * np.ones((5, 2), np.float32)]), np.concatenate([y, -np.ones((5, 2), int)])
    for method in ("platt", "temperature"):
        first, second = (
            fit_calibration(z, y, method),
            fit_calibration(torch.tensor(extra_z), torch.tensor(extra_y), method),
        )
        np.testing.assert_allclose(first, second)


def test_probabilities_keep_the_ranking_and_the_shape_is_checked() -> None:
    calibration = Calibration(np.array([2.0, 0.0]), np.array([-1.0, 0.5]))
    logits = torch.tensor([[1.0, 3.0], [0.0, -3.0]])
    np.testing.assert_allclose(calibration.probabilities(logits), expit([[1, 0.5], [-1, 0.5]]))
    with pytest.raises(ValueError, match=r"logits must be \(N, 2\), got \(2, 3\)"):
        calibration.probabilities(torch.zeros(2, 3))


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one of platt, temperature, got 'isotonic'"):
        fit_calibration(np.zeros((2, 1)), np.zeros((2, 1)), "isotonic")
    with pytest.raises(ValueError, match="finite"):
        fit_calibration(np.array([[np.inf], [0.0]]), np.zeros((2, 1)))
