"""Groups of rows: none is ever in two parts, and the parts are even."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array
from sklearn.model_selection import StratifiedGroupKFold

from tailwise.data.dataset import Dataset
from tailwise.data.row_groups import GroupSizes, group_name, group_sizes, shared_groups
from tailwise.data.splits import divide, divided, require_folds, split_by_ratio
from tailwise.errors import InputError

RATIOS = st.sampled_from([{"a": 0.5, "b": 0.5}, {"a": 0.7, "b": 0.1, "c": 0.2}, {str(fold): 0.2 for fold in range(5)}])


@st.composite
def grouped(draw: st.DrawFn) -> tuple[np.ndarray, list[str]]:
    """Labels of some rows, and their groups."""
    shape = draw(st.tuples(st.integers(1, 60), st.integers(1, 6)))
    targets = draw(hnp.arrays(np.int8, shape, elements=st.sampled_from([0, 0, 1, -1])))
    names = st.sampled_from("abcdefghijklmnopqrst"[: draw(st.integers(1, 20))])
    return targets, draw(st.lists(names, min_size=shape[0], max_size=shape[0]))


def patients(seed: int, *, num_rows: int, num_classes: int, largest: int = 4) -> tuple[np.ndarray, list[str]]:
    """Rows of patients with 1 to ``largest`` of them, who have their findings on most of their images."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_rows), generator.integers(1, largest + 1, num_rows))[:num_rows]
    group = group[generator.permutation(num_rows)]
    frequency = np.geomspace(0.4, 0.05, num_classes)
    own = generator.random((num_rows, num_classes)) < frequency
    targets = own[group] & (generator.random((num_rows, num_classes)) < 0.8)
    return targets.astype(np.int8), [f"patient {number}" for number in group]


def dealt(targets: np.ndarray, groups: list[str], ratios: dict[str, float], seed: int) -> list[str]:
    """The rule with lists: a group at a time, to the part where the squared deviations fall most."""
    generator = np.random.Generator(np.random.PCG64(seed))
    names, shares = list(dict.fromkeys(groups)), list(ratios.values())
    keys = generator.random(len(names)).tolist()
    num_classes = targets.shape[1]
    counts = [[0] * (num_classes + 1) for _ in names]
    for row, name in zip(targets.tolist(), groups, strict=True):
        for k, value in enumerate([*row, 1]):
            counts[names.index(name)][k] += value == 1
    totals = [sum(column) for column in zip(*counts, strict=True)]
    held = [{k: count / totals[k] for k, count in enumerate(row) if count} for row in counts]
    lacking = [list(shares) for _ in totals]
    part_of: dict[int, int] = {}
    for group in sorted(range(len(names)), key=lambda g: (-sum(held[g].values()), keys[g])):
        gains = [
            sum(part * (2 * lacking[k][s] - part) for k, part in held[group].items()) / share
            for s, share in enumerate(shares)
        ]
        best = [s for s, gain in enumerate(gains) if gain == max(gains)]
        part_of[group] = best[0] if len(best) == 1 else best[int(generator.random() * len(best))]
        for k, part in held[group].items():
            lacking[k][part_of[group]] -= part
    return [list(ratios)[part_of[names.index(name)]] for name in groups]


@settings(deadline=None, max_examples=100)
@given(rows=grouped(), ratios=RATIOS, seed=st.integers(0, 1000))
def test_groups_are_dealt_by_the_rule_and_stay_whole(
    rows: tuple[np.ndarray, list[str]], ratios: dict[str, float], seed: int
) -> None:
    targets, groups = rows
    chosen = split_by_ratio(targets, ratios, seed=seed, groups=groups)
    assert list(chosen) == dealt(targets, groups, ratios, seed)
    assert len(set(zip(groups, chosen, strict=True))) == len(set(groups))
    assert chosen == split_by_ratio(csr_array(targets), ratios, seed=seed, groups=groups)


@settings(deadline=None, max_examples=40)
@given(rows=grouped(), seed=st.integers(0, 5))
def test_names_of_groups_do_not_matter(rows: tuple[np.ndarray, list[str]], seed: int) -> None:
    targets, groups = rows
    ratios = {"a": 0.5, "b": 0.5}
    renamed = [f"{ord('z') - ord(name)}" for name in groups]
    first, second = (split_by_ratio(targets, ratios, seed=seed, groups=names) for names in (groups, renamed))
    assert first == second


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), ratios=RATIOS)
def test_many_small_groups_are_divided_evenly(seed: int, ratios: dict[str, float]) -> None:
    """Every split has its share of the rows and of each class, to within two of the largest groups."""
    targets, groups = patients(seed, num_rows=600, num_classes=5)
    chosen = np.array(split_by_ratio(targets, ratios, seed=seed, groups=groups))
    for name, share in ratios.items():
        found = targets[chosen == name].sum(axis=0)
        assert np.abs(found - share * targets.sum(axis=0)).max() <= 8
        assert abs((chosen == name).sum() - share * len(targets)) <= 8


def test_seeds_give_different_divisions() -> None:
    targets, groups = patients(0, num_rows=200, num_classes=4)
    ratios = {"a": 0.5, "b": 0.5}
    first, again, other = (split_by_ratio(targets, ratios, seed=seed, groups=groups) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(("num_rows", "num_groups"), [(1500, 40), (1500, 150), (3000, 900)])
def test_folds_are_as_even_as_those_of_scikit_learn(num_rows: int, num_groups: int) -> None:
    """StratifiedGroupKFold takes one label a row. Groups are of very different sizes here."""
    ours, theirs = [], []
    for seed in range(6):
        generator = np.random.default_rng(seed)
        weight = generator.pareto(1.5, num_groups) + 1
        group = generator.choice(num_groups, num_rows, p=weight / weight.sum())
        frequency = np.geomspace(1, 0.05, 5) / np.geomspace(1, 0.05, 5).sum()
        usual = generator.choice(5, num_groups, p=frequency)
        label = np.where(generator.random(num_rows) < 0.5, usual[group], generator.choice(5, num_rows, p=frequency))
        targets = np.eye(5, dtype=np.int8)[label]
        theirs_of = np.empty(num_rows, dtype=int)
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(label, label, group)
        for fold, (_, held_out) in enumerate(folds):
            theirs_of[held_out] = fold
        ratios = {str(fold): 0.2 for fold in range(5)}
        ours_of = np.array(split_by_ratio(targets, ratios, seed=seed, groups=[str(g) for g in group])).astype(int)
        for chosen, errors in ((ours_of, ours), (theirs_of, theirs)):
            counts = np.array([targets[chosen == fold].sum(axis=0) for fold in range(5)])
            errors.append(np.abs(counts / (targets.sum(axis=0) / 5) - 1).mean())
    assert np.mean(ours) <= 1.05 * np.mean(theirs)


def test_a_group_for_each_row_is_needed() -> None:
    with pytest.raises(InputError, match="there are 2 groups and 3 rows; give a group for each row"):
        split_by_ratio(np.ones((3, 1), dtype=np.int8), {"a": 0.5, "b": 0.5}, groups=["x", "y"])
    assert split_by_ratio(np.ones((0, 2), dtype=np.int8), {"a": 0.5, "b": 0.5}, groups=[]) == ()


def data_of(targets: Any, groups: list[str] | None) -> Dataset:
    return Dataset.from_arrays(np.zeros((len(targets), 1)), np.asarray(targets), groups=groups)


def test_folds_keep_groups_whole_and_there_must_be_enough_of_them() -> None:
    targets, groups = patients(3, num_rows=90, num_classes=3)
    data = data_of(targets, groups)
    parts = divide(data, 5)
    assert len(set(zip(groups, parts.tolist(), strict=True))) == len(set(groups))
    assert set(parts.tolist()) == set(range(5))
    require_folds(data, 5)
    few = data_of(np.ones((9, 1)), list("aaabbbccc"))
    require_folds(few, 3)
    assert np.bincount(divide(few, 3)).tolist() == [3, 3, 3]
    with pytest.raises(
        InputError, match=r"split 'arrays' has too few groups, 3, for 4 folds, .* fewer --val-folds or --folds"
    ):
        divide(few, 4)
    unlabelled = data_of([[1], [1], [0], [0]], ["a", "a", "b", "c"])
    with pytest.raises(InputError, match=r"2 images with a label in 1 groups, too few for 2 folds"):
        require_folds(unlabelled, 2)


def test_too_few_groups_for_the_splits_are_refused_and_large_ones_told(caplog: pytest.LogCaptureFixture) -> None:
    data = data_of(np.ones((8, 1)), list("aaaaaabb"))
    with pytest.raises(InputError, match=r"gives 'c', .* none of the 8 rows of arrays, in 2 groups that stay whole; "):
        divided(data, {"a": 0.4, "b": 0.3, "c": 0.3})
    assert sorted(divided(data, {"a": 0.5, "b": 0.5}).splits) in (["a"] * 6 + ["b"] * 2, ["a"] * 2 + ["b"] * 6)
    assert "splits are uneven: 'a' has" in caplog.text
    assert "the largest of 2 groups has 75.0% of the rows" in caplog.text
    caplog.clear()
    divided(data_of(np.ones((8, 1)), list("aabbccdd")), {"a": 0.5, "b": 0.5})
    assert caplog.text == ""


def test_groups_of_two_splits_are_counted() -> None:
    """2 of the 3 groups of the test rows, with 3 of their 4 rows, are trained on."""
    shared = shared_groups("aab", "bcab", names=("train", "test"))
    assert shared is not None
    assert (shared.number, shared.of, shared.share) == (2, 3, 0.75)
    assert str(shared) == "2 of 3 groups of split 'test', with 75.0% of its rows, have rows in split 'train' too"
    assert shared_groups("aab", "cd", names=("train", "test")) is None


def test_sizes_of_groups() -> None:
    assert group_sizes(list("abacaadb")) == GroupSizes(4, 1, 1.5, 4)
    assert group_sizes(["x"]) == GroupSizes(1, 1, 1.0, 1)


@pytest.mark.parametrize(
    ("cell", "name"),
    [(" ann ", "ann"), (7, "7"), (7.0, "7"), (7.5, "7.5"), (0, "0"), (np.int64(3), "3"), (True, "True")],
)
def test_text_and_numbers_name_groups(cell: object, name: str) -> None:
    assert group_name(cell) == name


@pytest.mark.parametrize("blank", [None, "", "  ", float("nan"), pd.NA, pd.NaT, np.float64("nan")])
def test_blanks_name_none_and_are_refused_in_arrays(blank: object) -> None:
    assert group_name(blank) == ""
    with pytest.raises(InputError, match="arrays: row 1 has no group; give each row one"):
        Dataset.from_arrays(np.zeros((2, 1)), np.ones((2, 1)), groups=["a", blank])


@pytest.mark.parametrize("cell", [["a"], {"id": 1}, np.ones(2)])
def test_lists_and_objects_name_none(cell: object) -> None:
    with pytest.raises(InputError, match=r"the group is .* where text or a number is expected"):
        group_name(cell)


def test_frames_and_arrays_give_groups() -> None:
    frame = pd.Series([3, 3, 9])
    assert Dataset.from_arrays(np.zeros((3, 1)), np.ones((3, 1)), groups=frame).groups == ("3", "3", "9")


def test_without_groups_uneven_splits_are_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    data = divided(data_of(np.ones((10, 1)), None), {"a": 0.85, "b": 0.15})
    assert data.splits.count("b") in (1, 2)
    assert caplog.text == ""
