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

from tailwise.data.dataset import Dataset
from tailwise.data.splits import read_split_file, split_by_ratio
from tailwise.errors import InputError
from tests.formats import read_csv

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


def dealt(targets: np.ndarray, ratios: dict[str, float], seed: int) -> list[str]:
    """Algorithm 1 of Sechidis et al. (2011) with lists: rows of a class in the order of their random keys."""
    generator = np.random.Generator(np.random.PCG64(seed))
    keys = generator.random(len(targets)).tolist()
    names = list(ratios)
    classes_of = [[k for k, value in enumerate(row) if value == 1] for row in targets.tolist()]
    open_rows = set(range(len(targets)))
    lacking = [
        [sum(k in classes for classes in classes_of) * ratios[name] for name in names] for k in range(targets.shape[1])
    ]
    lacking_rows = [len(targets) * ratios[name] for name in names]
    chosen = [""] * len(targets)

    def deal(row: int, wishes: list[float]) -> None:
        best = [split for split, wish in enumerate(wishes) if wish == max(wishes)]
        if len(best) > 1:
            most = max(lacking_rows[split] for split in best)
            best = [split for split in best if lacking_rows[split] == most]
        split = best[0] if len(best) == 1 else best[int(generator.random() * len(best))]
        chosen[row] = names[split]
        open_rows.remove(row)
        lacking_rows[split] -= 1
        for k in classes_of[row]:
            lacking[k][split] -= 1

    while True:
        left = {k: [row for row in open_rows if k in classes_of[row]] for k in range(targets.shape[1])}
        left = {k: rows for k, rows in left.items() if rows}
        if not left:
            break
        rarest = min(left, key=lambda k: (len(left[k]), k))
        for row in sorted(left[rarest], key=lambda row: keys[row]):
            deal(row, lacking[rarest])
    for row in sorted(open_rows, key=lambda row: keys[row]):
        deal(row, lacking_rows)
    return chosen


RATIOS = st.sampled_from([{"a": 0.5, "b": 0.5}, {"a": 0.7, "b": 0.1, "c": 0.2}, {"a": 0.25, "b": 0.25, "c": 0.5}])


@settings(deadline=None, max_examples=100)
@given(targets=TARGETS, ratios=RATIOS, seed=st.integers(0, 1000))
def test_division_is_the_published_algorithm(targets: np.ndarray, ratios: dict[str, float], seed: int) -> None:
    assert list(split_by_ratio(targets, ratios, seed=seed)) == dealt(targets, ratios, seed)


def test_of_splits_that_lack_a_class_alike_the_one_that_lacks_rows_gets_it() -> None:
    """Two classes of one row each: the second goes where the first did not, by no chance."""
    targets = np.array([[1, 0], [0, 1]], dtype=np.int8)
    seen = {split_by_ratio(targets, {"a": 0.5, "b": 0.5}, seed=seed) for seed in range(30)}
    assert seen == {("a", "b"), ("b", "a")}


def test_of_splits_that_lack_the_same_each_is_as_likely() -> None:
    ratios = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    seen = [split_by_ratio(np.ones((1, 1), dtype=np.int8), ratios, seed=seed)[0] for seed in range(90)]
    assert all(abs(seen.count(split) - 30) < 5 * 4.5 for split in "abc")


def test_rows_without_a_label_fill_what_is_lacking() -> None:
    targets = np.zeros((20, 2), dtype=np.int8)
    targets[:4, 0] = 1
    targets[4:10] = -1
    chosen = split_by_ratio(targets, {"a": 0.75, "b": 0.25})
    assert (chosen.count("a"), chosen.count("b")) == (15, 5)
    assert chosen[:4].count("a") == 3


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


@pytest.mark.parametrize(
    "ratios",
    [
        {},
        {"a": 0.5},
        {"a": 1.5, "b": -0.5},
        {"a": 0.5, "b": 0.6},
        {"": 1.0},
        {"a": 1.0, "b": 0.0},
        {"a": 0.5, "": 0.5},
        {"a": 0.5, "b": 0.50001},
    ],
)
def test_shares_must_be_positive_and_add_up(ratios: dict[str, float]) -> None:
    with pytest.raises(InputError, match="split_ratios must be positive shares that add up to 1"):
        split_by_ratio(np.ones((3, 1), dtype=np.int8), ratios)


def test_shares_may_be_rounded() -> None:
    ones = np.ones((30, 1), dtype=np.int8)
    for ratios in ({"a": 1.0}, {"a": 0.3333333, "b": 0.3333333, "c": 0.3333333}, {"a": 0.5000004, "b": 0.5}):
        assert {split_by_ratio(ones, ratios).count(split) for split in ratios} == {30 // len(ratios)}


def test_negative_seed_is_refused() -> None:
    assert split_by_ratio(np.ones((3, 1), dtype=np.int8), {"a": 1.0}, seed=0) == ("a",) * 3
    with pytest.raises(InputError, match="split_seed must not be negative"):
        split_by_ratio(np.ones((3, 1), dtype=np.int8), {"a": 1.0}, seed=-1)


@pytest.fixture
def animals(tmp_path: Path) -> Dataset:
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,dog\nb.jpg,cat\nc.jpg,\n")
    return read_csv(tmp_path / "labels.csv")


def test_split_files_in_both_forms(animals: Dataset, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("split,image\r\ntest,c.jpg\r\ntrain,a.jpg\r\n")
    (tmp_path / "s.json").write_text(json.dumps({"train": ["a.jpg"], "test": ["c.jpg"]}))
    for name in ("s.csv", "s.json"):
        assert read_split_file(animals, tmp_path / name) == ("train", "", "test")


def test_split_files_may_repeat_themselves_and_have_space(animals: Dataset, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("image,split,note\n a.jpg , train ,x\na.jpg,train,y\n")
    assert read_split_file(animals, tmp_path / "s.csv") == ("train", "", "")
    (tmp_path / "S.JSON").write_text(json.dumps({"train": ["b.jpg", "b.jpg"], "empty": []}))
    assert read_split_file(animals, tmp_path / "S.JSON") == ("", "train", "")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.csv", "split\nx\n", r"s\.csv:1: expected the columns image and split"),
        ("s.csv", "", r"s\.csv:1: expected the columns image and split"),
        ("s.csv", "image,split\n,x\n", r"s\.csv:2: an image and its split are expected"),
        ("s.csv", "image,split\na.jpg\n", r"s\.csv:2: an image and its split are expected"),
        ("s.csv", "image,split\na.jgp,x\n", r"did you mean 'a\.jpg'"),
        ("s.json", '{"train": ["a.jpg", 1]}', "expected images by split"),
        ("s.json", '{"train": ["a.jpg"], "test": {}}', "expected images by split"),
        ("s.json", '"train"', "expected images by split"),
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
def test_bad_split_files_are_refused(animals: Dataset, tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_split_file(animals, tmp_path / name)
