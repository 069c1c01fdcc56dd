"""What each sampler promises about how often classes and rows come up, over many epochs.

The seeds are fixed, so that a test passes always or never. The thresholds say how improbable it was, when the seed was
chosen, that right code fails: one in 10^9.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from tailwise.data.samplers import (
    ClassAwareSampler,
    EpochSampler,
    InverseFrequencySampler,
    RepeatFactorSampler,
    UniformSampler,
)

IMPROBABLE = 1e-9


def long_tail(num_rows: int, seed: int) -> NDArray[np.int8]:
    """Labels of five classes from frequent to rare, which come together; every tenth row has none."""
    generator = np.random.default_rng(seed)
    labels = (generator.random((num_rows, 5)) < (0.6, 0.3, 0.1, 0.05, 0.0)).astype(np.int8)
    labels[1, 4] = 1
    labels[::10] = 0
    labels[0, 1] = -1
    return labels


def counts_by_epoch(sampler: EpochSampler, num_rows: int, epochs: int) -> NDArray[np.int64]:
    """(epochs, N) number of draws of each row."""
    return np.stack([np.bincount(list(sampler), minlength=num_rows) for _ in range(epochs)])


def chi_square(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Pearson's statistic of independent draws; the rows of probability 0 must have none."""
    assert not counts[probabilities == 0].any()
    expected = counts.sum() * probabilities[probabilities > 0]
    return float(((counts[probabilities > 0] - expected) ** 2 / expected).sum())


def test_uniform_draws_each_row_once_in_every_epoch() -> None:
    assert (counts_by_epoch(UniformSampler(50), 50, 20) == 1).all()


def test_uniform_puts_each_row_anywhere() -> None:
    # Where row 0 stands in 2,000 epochs of 10: chi-square with 9 degrees of freedom.
    sampler = UniformSampler(10, seed=1)
    places = np.bincount([list(sampler).index(0) for _ in range(2000)], minlength=10)
    assert chi_square(places, np.full(10, 0.1)) < chi2.isf(IMPROBABLE, 9)


@pytest.mark.parametrize("samples_per_class", [1, 3])
def test_class_aware_visits_classes_equally_often(samples_per_class: int) -> None:
    # Each row has one class, so that a draw tells which class was visited. An epoch visits all classes equally often,
    # but for the round it ends in, and all images of a class, but for theirs.
    sizes = (40, 17, 5, 2, 1)
    classes = np.repeat(np.arange(5), sizes)
    sampler = ClassAwareSampler(np.eye(5, dtype=np.int8)[classes], samples_per_class=samples_per_class)
    counts = counts_by_epoch(sampler, len(classes), 60)
    per_class = np.stack([counts[:, classes == k].sum(axis=1) for k in range(5)], axis=1)
    assert (np.ptp(per_class, axis=1) <= samples_per_class).all()
    for k in range(5):
        assert (np.ptp(counts[:, classes == k], axis=1) <= 1).all()
    # Which classes the last round still visits is left to chance. By Hoeffding's inequality for means of 60 numbers in
    # a range of samples_per_class, P(|mean - length / 5| > e) <= 2 exp(-2 e^2 60 / samples_per_class^2).
    mean = per_class.mean(axis=0)
    slack = samples_per_class * math.sqrt(math.log(2 * 5 / IMPROBABLE) / (2 * 60))
    assert np.abs(mean - len(sampler) / 5).max() <= slack


@pytest.mark.parametrize("background", [1.0, 0.0, 2.5])
def test_inverse_frequency_draws_rows_by_their_weights(background: float) -> None:
    targets = long_tail(60, seed=0)
    sampler = InverseFrequencySampler(targets, seed=1, background=background)
    positive = targets == 1
    sizes = [sum(positive[:, k]) for k in range(5)]
    without = 60 - positive.any(axis=1).sum()
    weights = np.array(
        [sum(1 / sizes[k] for k in range(5) if row[k]) if row.any() else background / without for row in positive]
    )
    np.testing.assert_allclose(sampler.rates, weights)
    probabilities = weights / weights.sum()
    # Each row is expected more than 100 times: the statistic follows its limit closely.
    counts = counts_by_epoch(sampler, 60, 1500).sum(axis=0)
    assert counts.sum() == 60 * 1500
    critical = chi2.isf(IMPROBABLE, np.count_nonzero(weights) - 1)
    assert chi_square(counts, probabilities) < critical
    # The same test tells these draws from uniform ones.
    drawn = weights > 0
    assert chi_square(counts[drawn], np.full(drawn.sum(), 1 / drawn.sum())) > 10 * critical


def test_inverse_frequency_draws_classes_equally_often() -> None:
    sizes = (40, 17, 5, 2, 1, 0)
    classes = np.repeat(np.arange(6), (*sizes[:5], 9))
    targets = np.eye(6, dtype=np.int8)[classes]
    targets[:, 5] = 0
    # The nine rows of the last class have no positive label, and count as a class of their own.
    counts = counts_by_epoch(InverseFrequencySampler(targets, seed=2), len(targets), 300).sum(axis=0)
    per_class = np.array([counts[classes == k].sum() for k in range(6)])
    assert chi_square(per_class, np.full(6, 1 / 6)) < chi2.isf(IMPROBABLE, 5)


def naive_repeat_factors(targets: NDArray[np.int8], threshold: float) -> list[float]:
    num_rows, num_classes = targets.shape
    factors = []
    for row in targets:
        factor = 1.0
        for k in range(num_classes):
            if row[k] == 1:
                frequency = sum(other[k] == 1 for other in targets) / num_rows
                factor = max(factor, math.sqrt(threshold / frequency))
        factors.append(factor)
    return factors


def test_repeat_factors_are_those_of_lvis() -> None:
    targets = long_tail(60, seed=0)
    for threshold in (0.02, 0.1, 1.0):
        expected = naive_repeat_factors(targets, threshold)
        np.testing.assert_allclose(RepeatFactorSampler(targets, threshold=threshold).rates, expected)
    assert max(expected) == pytest.approx(math.sqrt(60))
    with pytest.warns(UserWarning, match=r"threshold 0.001 repeats no row.* positive in 1 of 60 rows"):
        assert len(RepeatFactorSampler(targets)) == 60


def test_a_row_is_repeated_by_its_rarest_class_wherever_that_stands() -> None:
    """Class counts 1, 4 and 6 of 16 rows and t = 1: factors sqrt(16 / n) of 4, 2 and sqrt(16 / 6)."""
    targets = np.zeros((16, 3), dtype=np.int8)
    targets[0] = 1
    targets[1:4, 1] = 1
    targets[1:3, 2] = targets[4:7, 2] = 1
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        repeats = RepeatFactorSampler(targets[:, order], threshold=1.0).rates
        np.testing.assert_allclose(repeats, [4, 2, 2, 2] + 3 * [math.sqrt(16 / 6)] + 9 * [1])


def test_repeat_factor_repeats_rows_by_their_factors() -> None:
    targets, epochs = long_tail(60, seed=0), 2000
    sampler = RepeatFactorSampler(targets, seed=3, threshold=0.2)
    factors = np.array(naive_repeat_factors(targets, 0.2))
    counts = counts_by_epoch(sampler, 60, epochs)
    length = math.ceil(factors.sum())
    assert len(sampler) == length
    assert (counts.sum(axis=1) == length).all()
    assert (counts >= np.floor(factors)).all()
    scaled = factors * length / factors.sum()
    assert (np.abs(counts - scaled) < 1).all()
    # The draws of a row in one epoch are a whole number or the next one, independent of other epochs. By Hoeffding's
    # inequality, P(|mean - r| > e) <= 2 exp(-2 e^2 epochs) for each of the 60 rows.
    slack = math.sqrt(math.log(2 * 60 / IMPROBABLE) / (2 * epochs))
    assert np.abs(counts.mean(axis=0) - scaled).max() < slack
    assert np.abs(counts.mean(axis=0) - 1).max() > 10 * slack


def test_second_draws_of_rows_know_nothing_of_each_other() -> None:
    # Ten of 40 rows have the factor 1.5, and five of them a second draw in every epoch. Any two have it together with
    # probability (5 / 10)(4 / 9); a ruler laid onto the rows in a fixed order would give some pairs 1 / 2, others 0.
    targets = (np.arange(40) < 10).astype(np.int8)[:, None]
    epochs = 2000
    seconds = counts_by_epoch(RepeatFactorSampler(targets, threshold=1.5**2 * 10 / 40), 40, epochs)[:, :10] - 1
    assert (seconds.sum(axis=1) == 5).all()
    together = (seconds.T @ seconds)[np.triu_indices(10, 1)] / epochs
    slack = math.sqrt(math.log(2 * len(together) / IMPROBABLE) / (2 * epochs))
    assert np.abs(together - 2 / 9).max() < slack < 0.1


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 40), st.integers(0, 20), st.sampled_from([1e-3, 0.05, 0.3, 1.0]))
def test_repeat_factor_epochs_have_their_length_and_every_row(num_rows: int, seed: int, threshold: float) -> None:
    targets = np.random.default_rng(seed).integers(-1, 2, (num_rows, 4), dtype=np.int8)
    targets[0, 0] = 1
    with warnings.catch_warnings(action="ignore"):  # of thresholds that repeat nothing
        sampler = RepeatFactorSampler(targets, seed=seed, threshold=threshold)
    counts = counts_by_epoch(sampler, num_rows, 3)
    assert (counts.sum(axis=1) == len(sampler)).all()
    assert 0 <= len(sampler) - sampler.rates.sum() < 1 + 1e-9
    assert (counts >= np.floor(sampler.rates)).all()
    # Marks at distance 2^32 fall on the rows this often wherever the first is, since together they are so long.
    assert sampler._parts.sum() == len(sampler) << 32
