"""Division into splits: even in every class, and as files say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array

from tailwise.data.sources import LabeledImages, read_csv
from tailwise.data.sources.splits import read_split_file, split_by_ratio
from tailwise.errors import InputError

TARGETS = hnp.arrays(np.int8, st.tuples(st.integers(1, 60), st.integers(1, 6)), elements=st.sampled_from([0, 0, 1, -1]))


@settings(deadline=None, max_examples=60)
@given(targets=TARGETS, seed=st.integers(0, 5))
def test_every_row_has_one_split_and_layout_does_not_matter(targets: np.ndarray, seed: int) -> None:
    ratios = {"train": 0.7, "val": 0.1, "test": 0.2}
    chosen = split_by_ratio(targets, ratios, seed=seed)
    assert len(chosen) == len(targets)
    assert set(chosen) <= ratios.keys()
    assert chosen == split_by_ratio(csr_array(targets), ratios, seed=seed)


@settings(deadline=None, max_examples=60)
@given(targets=TARGETS)
def test_the_class_dealt_first_is_divided_exactly(targets: np.ndarray) -> None:
    """The rarest class is dealt before all others, so that each split gets its share of it, rounded."""
    counts = (targets == 1).sum(axis=0)
    if not counts.any():
        return
    rarest = int(np.argmin(np.where(counts > 0, counts, counts.max() + 1)))
    chosen = np.array(split_by_ratio(targets, {"a": 0.5, "b": 0.5}))
    in_a = int((targets[chosen == "a", rarest] == 1).sum())
    assert abs(in_a - counts[rarest] / 2) <= 0.5


def long_tailed(num_rows: int = 1200, num_classes: int = 12) -> np.ndarray:
    generator = np.random.default_rng(5)
    frequency = np.geomspace(0.5, 0.008, num_classes)
    return (generator.random((num_rows, num_classes)) < frequency).astype(np.int8)


def worst_share(targets: np.ndarray, in_test: np.ndarray, share: float) -> float:
    counts = targets.sum(axis=0)
    return float(np.abs(targets[in_test].sum(axis=0) - share * counts).max())


def test_division_is_much_more_even_than_chance() -> None:
    targets = long_tailed()
    ours = np.array(split_by_ratio(targets, {"train": 0.8, "test": 0.2}, seed=1)) == "test"
    generator = np.random.default_rng(0)
    by_chance = [worst_share(targets, generator.random(len(targets)) < 0.2, 0.2) for _ in range(200)]
    assert worst_share(targets, ours, 0.2) <= 2 < min(by_chance)
    assert abs(ours.sum() - 0.2 * len(targets)) <= 0.01 * len(targets)


def test_seeds_give_different_divisions() -> None:
    targets = long_tailed(200)
    first, again, other = (split_by_ratio(targets, {"a": 0.5, "b": 0.5}, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("ratios", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 0.5, "b": 0.6}, {"": 1.0}])
def test_shares_must_be_positive_and_add_up(ratios: dict[str, float]) -> None:
    with pytest.raises(InputError, match="split_ratios must be positive shares that add up to 1"):
        split_by_ratio(np.ones((3, 1), dtype=np.int8), ratios)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="split_seed must not be negative"):
        split_by_ratio(np.ones((3, 1), dtype=np.int8), {"a": 1.0}, seed=-1)


@pytest.fixture
def animals(tmp_path: Path) -> LabeledImages:
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,dog\nb.jpg,cat\nc.jpg,\n")
    return read_csv(tmp_path / "labels.csv")


def test_split_files_in_both_forms(animals: LabeledImages, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("split,image\r\ntest,c.jpg\r\ntrain,a.jpg\r\n")
    (tmp_path / "s.json").write_text(json.dumps({"train": ["a.jpg"], "test": ["c.jpg"]}))
    for name in ("s.csv", "s.json"):
        assert read_split_file(animals, tmp_path / name) == ("train", "", "test")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.csv", "image,fold\na.jpg,1\n", r"s\.csv:1: expected the columns image and split"),
        ("s.csv", "image,split\na.jpg,\n", r"s\.csv:2: an image and its split are expected"),
        ("s.csv", "image,split\na.jpg,x\nd.jpg,x\n", r"s\.csv:3: image 'd\.jpg' is not in .*labels\.csv"),
        ("s.csv", "image,split\na.jpg,x\na.jpg,y\n", r"s\.csv:3: image 'a\.jpg' is in split 'x' already"),
        ("s.json", '{"train": "a.jpg"}', "expected images by split"),
        ("s.json", '["a.jpg"]', "expected images by split"),
        ("s.json", '{"train": [', r"s\.json:1: not valid JSON"),
        ("s.json", '{"x": ["a.jpg"], "y": ["a.jpg"]}', r"image 'a\.jpg' is in split 'x' already"),
    ],
)
def test_bad_split_files_are_refused(
    animals: LabeledImages, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_split_file(animals, tmp_path / name)
