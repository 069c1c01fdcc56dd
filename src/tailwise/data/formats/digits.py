"""Long-tailed scenes of scikit-learn's handwritten digits: a benchmark that needs no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tailwise.data.dataset import Dataset, Pixels
from tailwise.data.formats.rows import Format, Request
from tailwise.data.long_tail import LongTailSubset, build_long_tail
from tailwise.errors import require_extra
from tailwise.labels import LabelStats
from tailwise.shapes import Int, UInt8

DIGITS = "digits"
"""The name of these data."""

_SIDE = 32
_CELL = _SIDE // 2
_DIGIT_SIDES = (13, 16)
_NUM_CLASSES = 10
_CLASS_NAMES = tuple(str(digit) for digit in range(_NUM_CLASSES))
_POOL_SIZE = 10_000
_SCENE_SIZES = (0.5, 0.3, 0.15, 0.05)
"""Share of scenes with 1, 2, 3 and 4 digits."""
_NUM_COMPANIONS = 2
_COMPANION_WEIGHT = 10.0
_LEAST_FREQUENT = 0.1
"""Frequency of the rarest digit in the pool, as a share of the most frequent one's."""


@dataclass(frozen=True, eq=False)
class DigitScenes:
    """Long-tailed scenes of handwritten digits, for training and for test.

    Attributes:
        train_images: (N, 3, 32, 32) scenes of the long-tailed training set, 0 to 255.
        train_targets: (N, 10) int8 labels: which digits the scene shows.
        train_digits: (N, 10) the handwritten digit, as an index into scikit-learn's data, that shows each class in
            each scene; -1 where the class is absent.
        test_images: (M, 3, 32, 32) scenes of other handwritten digits.
        test_targets: (M, 10) int8 labels.
        test_digits: (M, 10) as ``train_digits``.
        class_names: "0" to "9".
        stats: counts, groups and co-occurrence of ``train_targets``.
        subset: how the training set was chosen from the labels of a larger pool of scenes.
    """

    train_images: UInt8[np.ndarray, "N 3 S S"]
    train_targets: Int[np.ndarray, "N K"]
    train_digits: Int[np.ndarray, "N K"]
    test_images: UInt8[np.ndarray, "M 3 S S"]
    test_targets: Int[np.ndarray, "M K"]
    test_digits: Int[np.ndarray, "M K"]
    class_names: tuple[str, ...]
    stats: LabelStats
    subset: LongTailSubset

    def __repr__(self) -> str:
        return f"DigitScenes({len(self.train_images)} for training, {len(self.test_images)} for test)"


def digits(
    seed: int = 0, *, num_max: int = 850, num_min: int = 1, pareto_b: int | float = 8.0, num_test: int = 1000
) -> DigitScenes:
    """Compose long-tailed multi-label scenes of scikit-learn's 1,797 real handwritten digits.

    A scene shows one to four different digits on a noisy ground. Some digits are frequent, and each has favourite
    companions, chosen by the seed. :func:`~tailwise.data.long_tail.build_long_tail` chooses the training
    scenes from a pool of 10,000 label sets. Test scenes have more even class frequencies, the same companions, and are
    made of the half of the handwritten digits that no training scene uses.

    Args:
        seed: everything is a pure function of it.
        num_max: reference count of the most frequent class.
        num_min: lower limit of the reference counts.
        pareto_b: shape of the Pareto distribution.
        num_test: number of test scenes.

    Returns:
        Training and test scenes with their labels.

    Raises:
        InputError: a parameter of the long-tailed subset is out of range.
        MissingExtraError: scikit-learn is not installed.
    """
    glyphs, classes = _handwriting()
    generator = np.random.Generator(np.random.PCG64(seed))
    in_train = _split_in_half(generator, classes)
    frequency = np.empty(_NUM_CLASSES)
    frequency[np.argsort(generator.random(_NUM_CLASSES))] = np.geomspace(1.0, _LEAST_FREQUENT, _NUM_CLASSES)
    likes = np.argsort(generator.random((_NUM_CLASSES, _NUM_CLASSES)), axis=1, kind="stable")
    affinity = np.where(likes < _NUM_COMPANIONS, _COMPANION_WEIGHT, 1.0)

    pool = _compose(generator, frequency, affinity, _POOL_SIZE)
    subset = build_long_tail(pool, _CLASS_NAMES, num_max=num_max, num_min=num_min, pareto_b=pareto_b, seed=seed)
    train_targets = pool[subset.indices]
    train_digits = _assign(generator, train_targets, classes, in_train)
    # Flatter than the pool, so that every class has enough test positives for a steady average precision.
    test_targets = _compose(generator, frequency**0.25, affinity, num_test)
    test_digits = _assign(generator, test_targets, classes, ~in_train)
    return DigitScenes(
        train_images=_render(generator, train_digits, glyphs),
        train_targets=train_targets,
        train_digits=train_digits,
        test_images=_render(generator, test_digits, glyphs),
        test_targets=test_targets,
        test_digits=test_digits,
        class_names=_CLASS_NAMES,
        stats=LabelStats.from_targets(train_targets, _CLASS_NAMES, cooccurrence=True),
        subset=subset,
    )


def single_digits(seed: int = 0, *, copies: int = 4) -> Dataset:
    """Scenes of one handwritten digit each, to train a network on before it sees those of :func:`digits`.

    They are the digits that training scenes of the same seed are composed of: no test scene shows any of them. Each is
    drawn several times, and all ten classes are about as frequent.

    Args:
        seed: that of the scenes.
        copies: scenes of each handwritten digit, which differ in place, size, tint and ground.

    Returns:
        About 900 times ``copies`` images of 32 x 32 pixels, in the split "train".

    Raises:
        MissingExtraError: scikit-learn is not installed.

    Example:
        >>> single_digits(copies=2)
        Dataset(1,792 images of 32 x 32 pixels, 10 classes, splits train 1,792, source='single digits')
    """
    glyphs, classes = _handwriting()
    generator = np.random.Generator(np.random.PCG64(seed))
    shown = np.repeat(np.flatnonzero(_split_in_half(generator, classes)), copies)
    is_class = classes[shown, None] == np.arange(_NUM_CLASSES)
    return Dataset.from_arrays(
        _render(generator, np.where(is_class, shown[:, None], -1), glyphs),
        is_class.astype(np.int8),
        _CLASS_NAMES,
        splits=["train"] * len(shown),
        source="single digits",
    )


def _handwriting() -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """scikit-learn's (n, 8, 8) handwritten digits, 0 to 1, and the (n,) digits that they are.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    require_extra("the data set digits", "demo")
    from sklearn.datasets import load_digits

    source = load_digits()
    return source.images / 16.0, source.target


def _split_in_half(generator: np.random.Generator, classes: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(n,) whether each item is in the first half, drawn within each class."""
    first = np.zeros(len(classes), dtype=bool)
    keys = generator.random(len(classes))
    for k in range(_NUM_CLASSES):
        members = np.flatnonzero(classes == k)
        first[members[np.argsort(keys[members], kind="stable")[: len(members) // 2]]] = True
    return first


def _compose(
    generator: np.random.Generator, frequency: NDArray[np.floating], affinity: NDArray[np.floating], count: int
) -> NDArray[np.int8]:
    """(count, 10) label sets: a first digit by ``frequency``, companions by ``frequency`` times its ``affinity``."""
    rows = np.arange(count)
    # The smallest of exponential variates over their weights is a draw by weight, the next ones are drawn without it.
    first = np.argmin(-np.log1p(-generator.random((count, _NUM_CLASSES))) / frequency, axis=1)
    order = -np.log1p(-generator.random((count, _NUM_CLASSES))) / (frequency * affinity[first])
    order[rows, first] = -1.0
    size = 1 + np.searchsorted(np.cumsum(_SCENE_SIZES)[:-1], generator.random(count), side="right")
    ranks = np.argsort(np.argsort(order, axis=1), axis=1)
    return (ranks < size[:, None]).astype(np.int8)


def _assign(
    generator: np.random.Generator,
    targets: NDArray[np.int8],
    classes: NDArray[np.integer],
    allowed: NDArray[np.bool_],
) -> NDArray[np.intp]:
    """(n, 10) a random allowed handwritten digit of each class a scene shows, -1 elsewhere."""
    picks = generator.random(targets.shape)
    digits = np.full(targets.shape, -1, dtype=np.intp)
    for k in range(_NUM_CLASSES):
        members = np.flatnonzero((classes == k) & allowed)
        digits[:, k] = members[(picks[:, k] * len(members)).astype(np.intp)]
    return np.where(targets == 1, digits, -1)


def _render(generator: np.random.Generator, scenes: NDArray[np.intp], glyphs: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(n, 3, 32, 32) scenes, each digit in a quarter of its own at random place, size, tint and brightness."""
    low, high = _DIGIT_SIDES
    stretch = {side: _interpolation(side, glyphs.shape[1]) for side in range(low, high + 1)}
    canvas = 0.1 * generator.random((len(scenes), 1, 1, 1)) + 0.1 * generator.random((len(scenes), 3, _SIDE, _SIDE))
    cells = np.argsort(generator.random((len(scenes), 4)), axis=1)
    for scene, (row, quarters) in enumerate(zip(scenes, cells, strict=True)):
        for digit, quarter in zip(row[row >= 0], quarters, strict=False):
            size, down, right, brightness, *tint = generator.random(7)
            side = low + int(size * (high - low + 1))
            top = quarter // 2 * _CELL + int(down * (_CELL - side + 1))
            left = quarter % 2 * _CELL + int(right * (_CELL - side + 1))
            ink = stretch[side] @ glyphs[digit] @ stretch[side].T
            color = (0.8 + 0.2 * brightness) * (0.8 + 0.2 * np.array(tint))
            patch = canvas[scene, :, top : top + side, left : left + side]
            patch += ink * (color[:, None, None] - patch)
    return np.round(255 * np.clip(canvas, 0, 1)).astype(np.uint8)


def _interpolation(size: int, cells: int) -> NDArray[np.float64]:
    """(size, cells) weights of linear interpolation that stretch a row of ``cells`` values to ``size``."""
    centers = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    return np.maximum(1.0 - np.abs(centers[:, None] - np.arange(cells)), 0.0)


def read_digits(request: Request) -> Dataset:
    """The scenes of :func:`digits` as a data set with the splits "train" and "test".

    Raises:
        InputError: a class is no digit.
    """
    scenes = digits()
    parts = {"train": scenes.train_targets, "test": scenes.test_targets}
    data = Dataset(
        names=tuple(f"{split}/{row}" for split, targets in parts.items() for row in range(len(targets))),
        targets=np.concatenate(list(parts.values())),
        class_names=scenes.class_names,
        inputs=Pixels(np.concatenate([scenes.train_images, scenes.test_images])),
        splits=tuple(split for split, targets in parts.items() for _ in targets),
        source=Path(DIGITS),
        place="{source}, image {image}",
    )
    return data.with_classes(request.class_names or scenes.class_names)


SCENES = Format("digits", read_digits, is_named=lambda data: data == DIGITS)
