"""The embedded digits: groups, no leak from train to test, and labels that say what the pictures show."""

from __future__ import annotations

import inspect
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional

from tailwise.data.dataset import Pixels
from tailwise.data.formats.digits import DigitScenes, digits, single_digits
from tailwise.errors import InputError
from tailwise.labels import LabelStats

module = sys.modules[digits.__module__]  # whose name the function has


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


@pytest.mark.parametrize("seed", [0, 1])
def test_single_digits_are_all_those_for_training_and_none_of_a_test_scene(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = []
    render = module._render

    def recorded(generator: np.random.Generator, digits: NDArray[np.intp], glyphs: NDArray[np.float64]) -> NDArray:
        placed.append(digits)
        return render(generator, digits, glyphs)

    monkeypatch.setattr(module, "_render", recorded)
    single, scenes = single_digits(seed, copies=3), digits(seed)
    rows, columns = np.nonzero(placed[0] >= 0)
    assert rows.tolist() == list(range(len(single)))
    shown, counts = np.unique(placed[0][rows, columns], return_counts=True)
    assert set(counts) == {3}
    classes = load_digits().target
    for k in range(10):
        assert np.sum(classes[shown] == k) == np.sum(classes == k) // 2
    assert np.array_equal(single.targets.argmax(axis=1), classes[placed[0][rows, columns]])
    assert single.targets.sum(axis=1).tolist() == [1] * len(single)
    assert not set(shown) & set(scenes.test_digits.ravel())
    assert set(scenes.train_digits[scenes.train_digits >= 0]) <= set(shown)


def test_single_digits_look_like_scenes_of_one_digit(scenes: DigitScenes) -> None:
    single = single_digits(copies=1)
    assert isinstance(single.inputs, Pixels)
    assert single.class_names == scenes.class_names
    assert set(single.splits) == {"train"}
    alone = scenes.test_images[scenes.test_targets.sum(axis=1) == 1]
    for images in (single.inputs.values, alone):
        assert images.shape[1:] == (3, 32, 32)
        assert ((quarters(images).max(axis=(2, 3)) > 110).sum(axis=1) == 1).all()
    assert single.inputs.values.mean() == pytest.approx(alone.mean(), rel=0.05)
    again = single_digits(copies=1)
    assert isinstance(again.inputs, Pixels)
    assert np.array_equal(again.inputs.values, single.inputs.values)


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


def test_sets_of_labels_are_drawn_by_frequency_and_liking() -> None:
    """The shares of one and of two digits, worked out exactly: a first by frequency, a second by what it likes."""
    frequency = np.geomspace(1.0, 0.1, 10)
    affinity = np.where((np.arange(10)[:, None] + np.arange(10)) % 5 == 1, 10.0, 1.0)
    count = 40_000
    found = module._compose(np.random.Generator(np.random.PCG64(0)), frequency, affinity, count)
    sizes = found.sum(axis=1)
    assert sizes.min() == 1
    for size, share in ((1, 0.5), (2, 0.3), (3, 0.15), (4, 0.05)):
        assert abs((sizes == size).mean() - share) < 5 * (share * (1 - share) / count) ** 0.5
    first = frequency / frequency.sum()
    weights = frequency * affinity * (1 - np.eye(10))
    pairs = first[:, None] * weights / weights.sum(axis=1, keepdims=True)
    ones, twos = found[sizes == 1], found[sizes == 2].astype(np.int64)
    spread = 5 * (0.25 / len(twos)) ** 0.5
    assert np.abs(ones.mean(axis=0) - first).max() < spread
    together = twos.T @ twos / len(twos) * (1 - np.eye(10))
    assert np.abs(together - pairs - pairs.T).max() < spread


def test_half_of_the_handwritten_digits_of_each_class_is_for_training() -> None:
    classes = np.repeat(np.arange(10), [5, 6, 7, 8, 9, 10, 11, 12, 13, 1])
    first = module._split_in_half(np.random.Generator(np.random.PCG64(0)), classes)
    assert [int(first[classes == k].sum()) for k in range(10)] == [2, 3, 3, 4, 4, 5, 5, 6, 6, 0]


@pytest.mark.parametrize("size", [8, 13, 14, 15, 16, 5])
def test_digits_are_stretched_as_images_are(size: int) -> None:
    """Bilinear, with pixels as squares."""
    source = np.random.default_rng(0).random((8, 8))
    weights = module._interpolation(size, 8)
    expected = functional.interpolate(torch.from_numpy(source)[None, None], size=(size, size), mode="bilinear")
    np.testing.assert_allclose(weights @ source @ weights.T, expected[0, 0].numpy(), atol=1e-12)


def test_ground_places_sizes_and_ink_of_scenes() -> None:
    absent = np.full((300, 10), -1)
    glyphs = np.ones((1, 8, 8))
    ground = module._render(np.random.Generator(np.random.PCG64(0)), absent, glyphs)
    assert ground.max() <= 51  # two parts, each up to a tenth
    assert ground.min() == 0
    assert ground.mean() == pytest.approx(25.5, abs=2.2)
    assert ground.mean(axis=(1, 2, 3)).std() == pytest.approx(25.5 / 12**0.5, rel=0.2)  # one part is of the whole scene
    scenes = absent.copy()
    scenes[:, 3] = 0
    shown = module._render(np.random.Generator(np.random.PCG64(1)), scenes, glyphs)
    quarters_used, sides, corners, brightest = [], [], [], []
    for image in shown:
        inked = image.min(axis=0) > 120
        rows, columns = (np.flatnonzero(inked.any(axis=axis)) for axis in (1, 0))
        assert inked.sum() == len(rows) * len(columns) == len(rows) ** 2
        assert rows[0] // 16 == rows[-1] // 16
        assert columns[0] // 16 == columns[-1] // 16
        quarters_used.append(2 * (rows[0] // 16) + columns[0] // 16)
        sides.append(len(rows))
        corners += [(rows[0] % 16, len(rows)), (columns[0] % 16, len(columns))]
        brightest.append(image[:, rows[0] + 2, columns[0] + 2] / 255)
    for values in (quarters_used, sides):
        assert np.unique(values, return_counts=True)[1].min() > 40  # 75 of each of four
    assert sorted(set(quarters_used)) == [0, 1, 2, 3]
    assert sorted(set(sides)) == [13, 14, 15, 16]
    assert {place for place, side in corners if side == 13} == {0, 1, 2, 3}
    assert {place for place, side in corners if side == 16} == {0}
    ink = np.array(brightest)
    assert 0.64 <= ink.min() < 0.68
    assert 0.95 < ink.max() <= 1
    assert ink.mean() == pytest.approx(0.81, abs=0.02)
    assert ink.std(axis=1).mean() > 0.02  # a tint


def test_any_allowed_digit_of_the_class_may_stand_for_it() -> None:
    classes = np.repeat(np.arange(10), 4)
    allowed = np.tile([True, False, True, True], 10)
    targets = np.tile((np.arange(10) < 6).astype(np.int8), (200, 1))
    placed = module._assign(np.random.Generator(np.random.PCG64(0)), targets, classes, allowed)
    for k in range(10):
        assert set(placed[:, k].tolist()) == ({4 * k, 4 * k + 2, 4 * k + 3} if k < 6 else {-1})


def test_constants_of_the_scenes() -> None:
    defaults = inspect.signature(digits).parameters
    assert {name: defaults[name].default for name in ("seed", "num_max", "num_min", "pareto_b", "num_test")} == {
        "seed": 0,
        "num_max": 850,
        "num_min": 1,
        "pareto_b": 8.0,
        "num_test": 1000,
    }
    assert {defaults[name].kind for name in list(defaults)[1:]} == {inspect.Parameter.KEYWORD_ONLY}
    # A record, as of the counts below: other scenes are another benchmark.
    assert (module._SIDE, module._CELL, module._NUM_CLASSES, module._POOL_SIZE) == (32, 16, 10, 10_000)
    assert (module._NUM_COMPANIONS, module._COMPANION_WEIGHT, module._LEAST_FREQUENT) == (2, 10.0, 0.1)
