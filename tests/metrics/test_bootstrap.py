"""The bootstrap against scikit-learn on repeated rows, and against a loop that draws for itself."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from tailwise.metrics.bootstrap import Resamples, interval, replicate, weighted_average_precision


def sample(seed, num_images, num_classes, num_runs=1, levels=None):
    """Scores with ties if there are few levels, and labels of which some are unknown and some classes are rare."""
    generator = np.random.default_rng(seed)
    frequencies = np.geomspace(0.4, 0.05, num_classes)
    targets = (generator.random((num_images, num_classes)) < frequencies).astype(np.int8)
    runs = []
    for _ in range(num_runs):
        scores = generator.normal(size=targets.shape) + targets
        runs.append((scores if levels is None else np.round(scores * levels)).astype(np.float32))
    targets[generator.random(targets.shape) < 0.1] = -1
    return runs, targets


def sklearn_precision(scores, targets, weights):
    """(K,) average precision by scikit-learn, of known rows with a weight; NaN where these are of one kind."""
    result = np.full(targets.shape[1], np.nan)
    for k in range(targets.shape[1]):
        rows = (targets[:, k] >= 0) & (weights > 0)
        if set(targets[rows, k].tolist()) == {0, 1}:
            result[k] = average_precision_score(targets[rows, k], scores[rows, k], sample_weight=weights[rows])
    return result


@given(seed=st.integers(0, 10_000), num_images=st.integers(1, 60), levels=st.sampled_from([None, 1, 3]))
@settings(max_examples=40, deadline=None)
def test_weighted_average_precision_is_that_of_scikit_learn(seed, num_images, levels):
    (scores,), targets = sample(seed, num_images, 4, levels=levels)
    weights = np.random.default_rng(seed).integers(0, 4, (num_images, 300))
    found = weighted_average_precision(scores, targets, weights)
    for b in (0, 255, 256, 299):
        np.testing.assert_allclose(found[b], sklearn_precision(scores, targets, weights[:, b]), rtol=1e-12)


def test_draws_of_one_kind_score_nothing():
    scores = np.array([[3.0], [2.0], [1.0], [0.0]])
    targets = np.array([[1], [0], [1], [-1]])
    weights = np.array([[1, 2, 0, 1, 0], [1, 0, 3, 0, 0], [1, 1, 0, 0, 0], [1, 5, 2, 0, 4]])
    found = weighted_average_precision(scores, targets, weights)
    np.testing.assert_allclose(found[:, 0], [(1 + 2 / 3) / 2, np.nan, np.nan, np.nan, np.nan], rtol=1e-12)


def test_weights_are_repeated_rows():
    (scores,), targets = sample(0, 40, 3, levels=2)
    times = np.random.default_rng(0).integers(0, 3, 40)
    repeated = weighted_average_precision(
        np.repeat(scores, times, axis=0), np.repeat(targets, times, axis=0), np.ones((times.sum(), 1), np.int64)
    )
    np.testing.assert_allclose(weighted_average_precision(scores, targets, times[:, None]), repeated, rtol=1e-12)


def test_replicates_are_those_of_a_plain_loop():
    runs, targets = sample(3, 50, 5, num_runs=3)
    groups = {"head": np.array([0, 1]), "tail": np.array([2, 3, 4])}
    resamples = Resamples.draw(50, 3, 20, seed=7)
    found = replicate(runs, targets, resamples, groups)
    for b in range(20):
        drawn = np.repeat(np.arange(50), resamples.images[:, b])
        assert len(drawn) == 50
        by_run = [sklearn_precision(runs[s][drawn], targets[drawn], np.ones(50, dtype=int)) for s in resamples.seeds[b]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a mean of nothing
            classes = np.mean(by_run, axis=0)
            expected = {"total": np.nanmean(classes), "head": np.nanmean(classes[:2]), "tail": np.nanmean(classes[2:])}
        np.testing.assert_allclose(found.classes[b], classes, rtol=1e-12)
        for name, value in expected.items():
            assert found.groups[name][b] == pytest.approx(value, rel=1e-12, nan_ok=True)


def test_any_number_of_threads_finds_the_same_bits():
    runs, targets = sample(4, 200, 6, num_runs=4)
    resamples = Resamples.draw(200, 4, 300)
    one, three = (replicate(runs, targets, resamples, {}, threads=threads) for threads in (1, 3))
    assert np.array_equal(one.classes, three.classes, equal_nan=True)
    assert np.array_equal(one.groups["total"], three.groups["total"], equal_nan=True)


def test_draws_are_uniform_and_a_function_of_the_seed():
    resamples = Resamples.draw(30, 4, 400, seed=1)
    assert (resamples.images.sum(axis=0) == 30).all()
    # 400 draws of 30 for each image; its number of times is binomial, with deviation 20.
    assert abs(resamples.images.sum(axis=1).astype(int) - 400).max() < 5 * 20
    assert abs(np.bincount(resamples.seeds.ravel(), minlength=4) - 400).max() < 5 * 18
    again, other = Resamples.draw(30, 4, 100, seed=1), Resamples.draw(30, 4, 100, seed=2)
    assert np.array_equal(again.images, resamples.images[:, :100])
    assert not np.array_equal(other.images, again.images)


def test_runs_are_drawn_with_replacement_in_every_replicate():
    """Without it, what the seed changes would be missing from every interval."""
    seeds = Resamples.draw(10, 4, 1000).seeds
    assert seeds.min() == 0
    assert seeds.max() == 3
    distinct = np.array([len(set(row)) for row in seeds.tolist()])
    # Of 4 draws of 4, all differ with probability 4!/4^4, and all are the same with 4/4^4: deviations are 9.2 and 3.9.
    assert abs((distinct == 4).sum() - 1000 * 24 / 256) < 5 * 9.2
    assert abs((distinct == 1).sum() - 1000 * 4 / 256) < 5 * 3.9
    assert np.array_equal(Resamples.draw(10, 1, 5).seeds, np.zeros((5, 1)))


def test_replicates_differ_and_runs_are_drawn_apart_from_images():
    resamples = Resamples.draw(6, 6, 500, seed=3)
    assert len({tuple(column) for column in resamples.images.T.tolist()}) > 250
    counts = np.stack([np.bincount(row, minlength=6) for row in resamples.seeds])
    assert (counts.sum(axis=1) == 6).all()
    together = [np.corrcoef(counts[:, k], resamples.images[k])[0, 1] for k in range(6)]
    assert np.abs(together).max() < 5 / 500**0.5
    following = [np.corrcoef(resamples.images[k, 1:], resamples.images[k, :-1])[0, 1] for k in range(6)]
    assert np.abs(following).max() < 5 / 500**0.5


def test_a_draw_never_leaves_its_range_at_the_ends_of_a_block():
    for replicates in (1, 255, 256, 257):
        resamples = Resamples.draw(3, 2, replicates)
        assert resamples.images.shape == (3, replicates)
        assert resamples.seeds.shape == (replicates, 2)


def test_seeds_that_differ_widen_the_interval():
    """Two runs that disagree: what the runs add must be in the interval, above what the images add."""
    (good,), targets = sample(5, 400, 3)
    bad = -good
    groups = {"all": np.arange(3)}
    resamples = Resamples.draw(400, 2, 200)
    mixed = replicate([good, bad], targets, resamples, groups).groups["all"]
    alone = replicate([good, good], targets, resamples, groups).groups["all"]
    width, own = (np.subtract(*interval(values, 0.9)[::-1]) for values in (mixed, alone))
    assert width > 2 * own


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_an_interval_is_between_quantiles_of_the_replicates(level):
    values = np.random.default_rng(0).normal(size=501)
    low, high = interval(values, level)
    expected = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    assert (low, high) == pytest.approx(expected)
    assert ((values >= low) & (values <= high)).mean() == pytest.approx(level, abs=0.005)


def test_interval_leaves_out_what_is_undefined():
    values = np.append(np.linspace(0, 1, 101), [np.nan, np.nan])
    assert interval(values, 0.9) == pytest.approx((0.05, 0.95))
    assert np.isnan(interval(np.array([np.nan]), 0.9)).all()


def test_what_cannot_be_ranked_or_drawn_is_refused():
    (scores,), targets = sample(0, 10, 2)
    with pytest.raises(ValueError, match="finite"):
        weighted_average_precision(np.full_like(scores, np.inf), targets, np.ones((10, 1), int))
    with pytest.raises(ValueError, match=r"weights \(N, B\)"):
        weighted_average_precision(scores, targets, np.ones((9, 1), int))
    for numbers in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="1 at least"):
            Resamples.draw(*numbers)
    assert Resamples.draw(1, 1, 1).images.tolist() == [[1]]
    for shape in ((10,), (10, 2, 1)):
        with pytest.raises(ValueError, match=r"weights \(N, B\)"):
            weighted_average_precision(scores, targets, np.ones(shape, int))
    with pytest.raises(ValueError, match=r"must be \(N, K\)"):
        weighted_average_precision(scores[:, 0], targets[:, 0], np.ones((10, 1), int))
    with pytest.raises(ValueError, match=r"must be \(N, K\)"):
        weighted_average_precision(scores, targets[:, :1], np.ones((10, 1), int))
    with pytest.raises(ValueError, match="2 runs, and resamples of 1"):
        replicate([scores, scores], targets, Resamples.draw(10, 1, 5), {})
