"""Which photographs are shown as the worst mistakes."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tailwise.data.dataset import Dataset
from tailwise.labels import LabelStats
from tailwise.report.mistakes import Predictions, find_mistakes, read_test_rows
from tailwise.training.inputs import read_rows
from tests.report.folders import make_data, make_logits, make_run


def in_memory(logits: np.ndarray, targets: np.ndarray, counts: list[int]) -> tuple[Dataset, Predictions, LabelStats]:
    size, num_classes = targets.shape
    names = tuple(f"class {k}" for k in range(num_classes))
    pixels = np.zeros((size, 3, 8, 8), dtype=np.uint8)
    data = Dataset.from_arrays(pixels, targets, names)
    predicted = Predictions(np.arange(size), logits.astype(np.float32), data.targets)
    return data, predicted, LabelStats(counts, 1000, names)


def test_the_worst_come_first_and_rare_classes_do() -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(-1, 2, (80, 3))
    logits = generator.normal(size=targets.shape)
    found = find_mistakes(*in_memory(logits, targets, [12, 500, 3]))
    assert [(it.name, it.count) for it in found] == [("class 2", 3), ("class 0", 12)]
    for it, k in zip(found, (2, 0), strict=True):
        positive = sorted((logits[row, k], row) for row in range(80) if targets[row, k] == 1)
        negative = sorted((-logits[row, k], row) for row in range(80) if targets[row, k] == 0)
        assert [photo.image for photo in it.missed] == [str(row) for _, row in positive[:5]]
        assert [photo.image for photo in it.false] == [str(row) for _, row in negative[:5]]
        known = logits[targets[:, k] >= 0, k]
        assert it.num_ranked == len(known)
        for photo in it.missed + it.false:
            score = logits[int(photo.image), k]
            assert photo.probability == pytest.approx(1 / (1 + np.exp(-score)), rel=1e-6)
            assert photo.rank == 1 + (known > score).sum()
            assert photo.labels == tuple(f"class {j}" for j in range(3) if targets[int(photo.image), j] == 1)


def test_what_is_ranked_right_is_no_mistake() -> None:
    targets = np.array([[1], [1], [0], [0], [0]])
    (perfect,) = find_mistakes(*in_memory(np.array([[5.0], [4], [1], [0], [-1]]), targets, [4]))
    assert (perfect.missed, perfect.false) == ((), ())
    (near,) = find_mistakes(*in_memory(np.array([[5.0], [0], [1], [-1], [-2]]), targets, [4]))
    assert [photo.image for photo in near.missed] == ["1"]
    assert [photo.image for photo in near.false] == ["2"]


@pytest.mark.parametrize("of_one_kind", [[1, 1, 1], [1, -1, 1], [0, 0, -1]])
def test_a_class_that_nothing_can_be_mistaken_for_is_not_shown_as_faultless(of_one_kind: list[int]) -> None:
    targets = np.array([of_one_kind, [1, 0, 0]]).T
    found = find_mistakes(*in_memory(np.zeros((3, 2)), targets, [4, 5]))
    assert [it.name for it in found] == ["class 1"]


def test_there_are_sixty_photographs_at_most() -> None:
    generator = np.random.default_rng(0)
    for num_classes in (1, 7, 15, 40):
        targets = generator.integers(0, 2, (50, num_classes))
        found = find_mistakes(*in_memory(generator.normal(size=targets.shape), targets, [5] * num_classes))
        number = sum(len(it.missed) + len(it.false) for it in found)
        assert 10 <= number <= 60
        assert len(found) == min(num_classes, 15)


def test_there_is_nothing_to_show_without_tail_classes() -> None:
    targets = np.array([[1, 0], [0, 0]])
    assert find_mistakes(*in_memory(np.zeros((2, 2)), targets, [500, 3])) == []


def test_pictures_keep_their_shape_and_predictions_their_image(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    logits = make_logits(data, 0.5, 0)
    make_run(tmp_path / "run", data, logits)
    read = read_test_rows(data.config(tmp_path / "run"), data.stats.class_names)
    split = read_rows(str(data.path), "test", data.config(tmp_path / "run"))
    assert read.names == split.names
    assert np.array_equal(read.targets, split.targets)
    found = find_mistakes(read, Predictions.of(tmp_path / "run", read), data.stats)
    photo = next(photo for it in found for photo in it.missed if int(photo.image[4:-4]) % 2)
    assert photo.source is not None
    assert (photo.width, photo.height) == (128, 96)
    picture = Image.open(io.BytesIO(base64.b64decode(photo.source.partition(",")[2]))).convert("RGB")
    assert picture.size == (128, 96)
    original = Image.open(tmp_path / photo.image).resize((128, 96), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(picture, int) - np.asarray(original, int)).mean() < 25


def test_predictions_may_lack_images_but_not_have_others(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    logits = make_logits(data, 0.5, 0)
    rows = np.random.default_rng(0).permutation(len(data.images))[:50]
    fewer = type(data)(data.path, data.stats, tuple(data.images[row] for row in rows), data.targets[rows])
    make_run(tmp_path / "run", fewer, logits[rows])
    predicted = Predictions.of(tmp_path / "run", read_test_rows(data.config(tmp_path), data.stats.class_names))
    assert predicted.rows.tolist() == rows.tolist()
    assert np.array_equal(predicted.targets, data.targets[rows])
    assert np.array_equal(predicted.logits, logits[rows])
    train = Dataset.from_arrays(["train0.png"], np.zeros((1, 7)), data.stats.class_names)
    with pytest.raises(ValueError, match=r"has a prediction for 'test\d+.png', which is no image of the test split"):
        Predictions.of(tmp_path / "run", train)
    other = Dataset.from_arrays(data.images, data.targets[:, :3], ["a", "b", "c"])
    with pytest.raises(ValueError, match="has other classes than the data"):
        Predictions.of(tmp_path / "run", other)
