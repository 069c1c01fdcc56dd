"""The embedded digits: groups, no leak from train to test, and labels that say what the pictures show."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from tailwise.data.benchmarks import DigitScenes, digits
from tailwise.errors import InputError
from tailwise.labels import LabelStats


@pytest.fixture(scope="module")
def scenes() -> DigitScenes:
    return digits()


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_groups_and_sizes(seed: int) -> None:
    data = digits(seed)
    assert {name: len(members) for name, members in data.stats.groups.items()} == {"head": 3, "medium": 3, "tail": 4}
    assert data.stats.class_counts.min() >= 4
    assert 500 <= len(data.train_images) <= 750
    assert data.subset.notes == ()
    assert data.test_images.shape == (1000, 3, 32, 32)
    assert data.test_targets.sum(axis=0).min() >= 80


def test_shapes_and_statistics_agree(scenes: DigitScenes) -> None:
    assert scenes.train_images.shape == (len(scenes.train_targets), 3, 32, 32)
    assert scenes.train_targets.dtype == scenes.test_targets.dtype == np.int8
    assert scenes.class_names == tuple("0123456789")
    assert scenes.stats == LabelStats.from_targets(scenes.train_targets, scenes.class_names, cooccurrence=True)
    assert scenes.subset.counts.tolist() == scenes.stats.class_counts.tolist()


def test_labels_name_the_digits_placed(scenes: DigitScenes) -> None:
    classes = load_digits().target
    for targets, placed in (
        (scenes.train_targets, scenes.train_digits),
        (scenes.test_targets, scenes.test_digits),
    ):
        assert np.array_equal(targets == 1, placed >= 0)
        assert set(np.unique(targets)) == {0, 1}
        assert np.array_equal(np.unique(targets.sum(axis=1)), [1, 2, 3, 4])
        _, columns = np.nonzero(targets)
        assert np.array_equal(classes[placed[placed >= 0]], columns)


def test_no_handwritten_digit_is_in_train_and_test(scenes: DigitScenes) -> None:
    train = set(scenes.train_digits[scenes.train_digits >= 0].tolist())
    test = set(scenes.test_digits[scenes.test_digits >= 0].tolist())
    assert train.isdisjoint(test)
    assert len(test) > 600
    rarest = scenes.subset.order[-1]
    used = scenes.train_digits[:, rarest]
    assert len(set(used[used >= 0].tolist())) >= 3


def quarters(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, 4, 16, 16) the brightness of the four quarters of each scene."""
    grey = images.mean(axis=1)
    return np.stack([grey[:, i : i + 16, j : j + 16] for i in (0, 16) for j in (0, 16)], axis=1)


def test_pictures_show_what_the_labels_say(scenes: DigitScenes) -> None:
    single = scenes.test_targets.sum(axis=1) == 1
    shown = scenes.test_targets[single].argmax(axis=1)
    parts = quarters(scenes.test_images[single])
    brightest = parts.max(axis=(2, 3)).argmax(axis=1)
    source = load_digits()
    recognise = KNeighborsClassifier(1).fit(source.images.reshape(len(source.images), -1), source.target)
    crops = []
    for part in parts[np.arange(len(parts)), brightest]:
        rows, columns = (np.flatnonzero((part > 0.45 * part.max()).any(axis=axis)) for axis in (1, 0))
        crop = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] - 30
        # The handwritten digits fill the height of their 8 x 8 pictures and stand in the middle of the width.
        width = max(2, round(8 * crop.shape[1] / crop.shape[0]))
        small = zoom(crop, (8 / crop.shape[0], width / crop.shape[1]), order=1)[:, :8]
        left = (8 - small.shape[1]) // 2
        crops.append(np.pad(16 * small.clip(0) / small.max(), ((0, 0), (left, 8 - small.shape[1] - left))).ravel())
    assert np.mean(recognise.predict(np.array(crops)) == shown) > 0.8


def test_scenes_show_as_many_digits_as_labels(scenes: DigitScenes) -> None:
    bright = (quarters(scenes.train_images).max(axis=(2, 3)) > 110).sum(axis=1)
    assert np.array_equal(bright, scenes.train_targets.sum(axis=1))


def test_companions_meet_more_often_than_by_chance(scenes: DigitScenes) -> None:
    pairs = np.asarray(LabelStats.from_targets(scenes.test_targets, cooccurrence=True).cooccurrence, dtype=float)
    counts = np.diagonal(pairs)
    lift = pairs * len(scenes.test_targets) / np.outer(counts, counts)
    above = lift[~np.eye(10, dtype=bool)]
    assert above.max() > 3 * np.median(above)


def test_everything_is_a_function_of_the_seed(scenes: DigitScenes) -> None:
    again, other = digits(0), digits(1)
    for field in ("train_images", "train_targets", "train_digits", "test_images", "test_targets", "test_digits"):
        assert np.array_equal(getattr(again, field), getattr(scenes, field))
        assert not np.array_equal(getattr(other, field), getattr(scenes, field))
    # A record of the labels: a benchmark that changes is another benchmark.
    assert scenes.stats.class_counts.tolist() == [18, 39, 5, 142, 31, 279, 6, 11, 97, 565]


def test_sizes_are_options() -> None:
    small = digits(num_max=100, num_min=3, pareto_b=4, num_test=20)
    assert len(small.test_images) == 20
    assert small.subset.reference.max() == 100
    assert len(small.train_images) <= 150
    with pytest.raises(InputError, match="num_min <= num_max"):
        digits(num_max=0)
