"""Samplers: against a naive walk through the lists, their shares, their ranks, and resume in the middle of an epoch."""

from __future__ import annotations

import csv
import json
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse
from torch.utils.data import DataLoader

from tailwise.data.samplers import (
    ClassAwareSampler,
    EpochSampler,
    InverseFrequencySampler,
    RepeatFactorSampler,
    UniformSampler,
)
from tailwise.errors import InputError


def labels_with_counts(*counts: int) -> NDArray[np.int8]:
    """Labels in which each row is positive for one class, so that a draw tells its class."""
    return np.repeat(np.eye(len(counts), dtype=np.int8), counts, axis=0)


class NaiveList:
    """A list that is shuffled, handed out item by item, and shuffled again when it ends."""

    def __init__(self, items: list[int], seed: np.random.SeedSequence) -> None:
        self.items = items
        self.generator = np.random.Generator(np.random.PCG64(seed))
        self.left: list[int] = []

    def next(self) -> int:
        if not self.left:
            keys = [self.generator.random() for _ in self.items]
            self.left = [item for _, item in sorted(zip(keys, self.items, strict=True))]
        return self.left.pop(0)


def naive_walk(targets: NDArray[np.int8], seed: int, epoch: int, count: int, per_class: int) -> list[int]:
    lists = [np.flatnonzero(column == 1).tolist() for column in targets.T]
    lists = [rows for rows in lists if rows]
    walk, *streams = np.random.SeedSequence([seed, epoch]).spawn(1 + len(lists))
    classes = NaiveList(list(range(len(lists))), walk)
    images = [NaiveList(rows, stream) for rows, stream in zip(lists, streams, strict=True)]
    draws: list[int] = []
    while len(draws) < count:
        chosen = images[classes.next()]
        draws += [chosen.next() for _ in range(per_class)]
    return draws[:count]


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
    per_class=st.sampled_from([1, 2, 3, 4, 17, 1000]),
    reduce=st.sampled_from([0.5, 1, 4]),
)
def test_class_aware_draws_are_the_walk_through_shuffled_lists(
    counts: list[int], seed: int, epoch: int, per_class: int, reduce: float
) -> None:
    targets = labels_with_counts(*counts)
    targets[0, -1] = 1
    sampler = ClassAwareSampler(targets, seed=seed, samples_per_class=per_class, reduce=reduce)
    sampler.set_epoch(epoch)
    length = max(1, int(targets.sum(axis=0).max() * len(counts) / reduce))
    assert list(sampler) == naive_walk(targets, seed, epoch, length, per_class)


def test_options_left_out_are_the_published_ones() -> None:
    """Three images of a class in a row, a quarter of the walk (DB's supplement), LVIS's t = .001, seed 0."""
    targets = labels_with_counts(40, 17, 5)
    assert list(ClassAwareSampler(targets)) == naive_walk(targets, seed=0, epoch=0, count=40 * 3 // 4, per_class=3)
    # 0.001 = t: of 4,000 rows, those of a class with one image are repeated sqrt(.001 * 4000) = 2 times.
    rare = labels_with_counts(3999, 1)
    assert RepeatFactorSampler(rare).rates.max() == pytest.approx(2)
    assert len(RepeatFactorSampler(rare)) == 4001
    without = np.concatenate([targets, np.zeros((4, 3), dtype=np.int8)])
    weights = InverseFrequencySampler(without).rates
    np.testing.assert_allclose(weights, [1 / 40] * 40 + [1 / 17] * 17 + [1 / 5] * 5 + [1 / 4] * 4)
    for make in (uniform, class_aware, inverse_frequency, repeat_factor):
        assert list(make()) == list(make(seed=0))


@pytest.mark.parametrize(
    ("counts", "empty", "reduce", "length"),
    # max n_k of classes with images, times their number, divided and rounded down; never below one draw.
    [
        ((7, 2, 3), 0, 4, 21 // 4),
        ((2, 7, 3), 2, 2, 21 // 2),
        ((3, 2), 0, 2.5, 2),
        ((1, 1), 0, 4, 1),
        ((5,), 3, 0.3, 16),
    ],
)
def test_the_class_aware_epoch_is_that_of_the_most_frequent_class(
    counts: tuple[int, ...], empty: int, reduce: float, length: int
) -> None:
    targets = np.pad(labels_with_counts(*counts), ((0, 0), (empty, 0)))
    with warnings.catch_warnings(action="ignore"):  # of the empty classes
        sampler = ClassAwareSampler(targets, reduce=reduce)
    assert len(sampler) == len(list(sampler)) == length


@pytest.mark.parametrize("per_class", [10**9, 10**30])
def test_a_visit_that_is_longer_than_the_epoch_costs_no_more_than_the_epoch(per_class: int) -> None:
    targets = labels_with_counts(5, 3, 2)
    sampler = ClassAwareSampler(targets, seed=2, samples_per_class=per_class, reduce=0.1)
    assert list(sampler) == naive_walk(targets, seed=2, epoch=0, count=150, per_class=150)


@pytest.mark.parametrize(("name", "num_classes", "length"), [("voc", 20, 3875), ("coco", 80, 22560)])
def test_epochs_of_the_published_sets_have_the_published_length(
    shared: Path, name: str, num_classes: int, length: int
) -> None:
    folder = shared / "data" / "official"
    with (folder / f"{name}_mlt_label_rows.csv").open(newline="", encoding="utf-8") as file:
        rows = [{int(k) for k in row["label_indices"].split("|")} for row in csv.DictReader(file)]
    targets = np.array([[k in row for k in range(num_classes)] for row in rows], dtype=np.int8)
    counts = json.loads((folder / f"{name}_mlt_stats.json").read_text())["class_counts"]
    assert targets.sum(axis=0, dtype=int).tolist() == counts
    sampler = ClassAwareSampler(targets)
    draws = list(sampler)
    assert len(draws) == len(sampler) == length == max(counts) * num_classes // 4
    assert set(draws) <= set(range(len(rows)))


def test_classes_share_the_draws_and_images_their_class() -> None:
    counts = (40, 17, 5, 2, 1)
    targets = labels_with_counts(*counts)
    draws = list(ClassAwareSampler(targets, seed=4, reduce=1))
    assert len(draws) == 200
    of_class = Counter(targets[draws].argmax(axis=1).tolist())
    assert all(abs(of_class[k] - 200 / 5) <= 3 for k in range(5))
    of_image = np.bincount(draws, minlength=len(targets))
    for k in range(5):
        mine = of_image[targets[:, k] == 1]
        assert mine.max() - mine.min() <= 1
    runs = targets[draws].argmax(axis=1)[:198].reshape(-1, 3)
    assert np.all(runs == runs[:, :1])


def test_a_list_that_ends_is_shuffled_again() -> None:
    draws = np.array(list(ClassAwareSampler(labels_with_counts(6), samples_per_class=2, reduce=0.05)))
    rounds = draws.reshape(-1, 6)
    assert np.all(np.sort(rounds, axis=1) == np.arange(6))
    assert len({tuple(row) for row in rounds.tolist()}) > 10


def test_unknown_labels_are_not_drawn_and_empty_classes_are_left_out() -> None:
    targets = np.array([[1, -1, 0], [1, -1, 0], [-1, -1, 1], [0, 0, 0]], dtype=np.int8)
    with pytest.warns(UserWarning, match="1 of 3 classes have no image and are never drawn") as caught:
        sampler = ClassAwareSampler(targets, reduce=0.5)
    assert len(caught) == 1
    assert len(sampler) == 2 * 2 / 0.5
    assert set(sampler) == {0, 1, 2}


def test_uniform_draws_each_row_once() -> None:
    sampler = UniformSampler(50, seed=2)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != list(range(50))
    for samples in (np.zeros((50, 3)), torch.zeros(50), sparse.csr_array((50, 3)), [0] * 50, np.int64(50)):
        assert list(UniformSampler(samples, seed=2)) == first


LABELS = np.random.default_rng(0).choice(np.array([-1, 0, 1], dtype=np.int8), (23, 4), p=(0.1, 0.6, 0.3)) * np.array(
    [[1, 1, 1, 0]], dtype=np.int8
)
LABELS[[4, 9], 3] = 1
"""23 rows: some have several positives, some none, and the last class is rare."""


def uniform(targets: Any = LABELS, **options: Any) -> EpochSampler:
    return UniformSampler(targets, **options)


def class_aware(targets: Any = LABELS, **options: Any) -> EpochSampler:
    return ClassAwareSampler(targets, **options)


def inverse_frequency(targets: Any = LABELS, **options: Any) -> EpochSampler:
    return InverseFrequencySampler(targets, **options)


def repeat_factor(targets: Any = LABELS, **options: Any) -> EpochSampler:
    with warnings.catch_warnings(action="ignore"):  # of matrices in which no class is rare
        return RepeatFactorSampler(targets, threshold=0.9, **options)


Make = Callable[..., EpochSampler]
EVERY: tuple[Make, ...] = (uniform, class_aware, inverse_frequency, repeat_factor)
KINDS = pytest.mark.parametrize("make", EVERY)
kinds = st.sampled_from(EVERY)


@st.composite
def label_matrices(draw: st.DrawFn) -> NDArray[np.int8]:
    """Labels of 1 to 31 rows and 3 classes, each of which has an image."""
    generator = np.random.default_rng(draw(st.integers(0, 9)))
    labels = generator.integers(-1, 2, (draw(st.integers(1, 31)), 3), dtype=np.int8)
    labels[0] = 1
    return labels


@settings(deadline=None, max_examples=60)
@given(make=kinds, targets=label_matrices(), seed=st.integers(0, 9))
def test_every_kind_of_matrix_draws_the_same(make: Make, targets: NDArray[np.int8], seed: int) -> None:
    # Stored labels in any order, some twice, with stored zeros and unknowns.
    generator = np.random.default_rng(seed)
    rows, columns = np.nonzero(np.ones_like(targets))
    stored = generator.permutation(np.concatenate([np.arange(len(rows)), np.flatnonzero(targets.ravel() == 1)]))
    order = stored[np.argsort(rows[stored], kind="stable")]
    starts = np.searchsorted(rows[order], np.arange(len(targets) + 1))
    parts = (targets[rows[order], columns[order]], columns[order], starts)
    expected = list(make(targets))
    assert list(make(torch.from_numpy(targets))) == expected
    assert list(make(torch.from_numpy(targets).float())) == expected
    assert list(make(sparse.csr_array(targets))) == list(make(sparse.csc_array(targets))) == expected
    assert list(make(sparse.csr_array(parts, shape=targets.shape))) == expected
    with warnings.catch_warnings(action="ignore"):
        tensor = torch.from_numpy(targets).to_sparse_csr()
    assert list(make(tensor)) == expected


def test_a_matrix_too_large_to_be_dense_is_sampled() -> None:
    # 10^7 rows by 10^6 classes: a dense copy would have 10^13 entries.
    rows, columns = [3, 3, 4_999_999, 9_999_999], [0, 999_999, 0, 999_999]
    targets = sparse.csr_array(([1, 1, 1, -1], (rows, columns)), shape=(10**7, 10**6), dtype=np.int8)
    with pytest.warns(UserWarning, match="999998 of 1000000 classes have no image"):
        sampler = ClassAwareSampler(targets, reduce=0.5)
    assert set(sampler) == {3, 4_999_999}
    assert len(sampler) == 2 * 2 / 0.5


@KINDS
def test_draws_depend_on_seed_and_epoch_alone(make: Make) -> None:
    sampler, twin = make(seed=1), make(seed=1)
    epochs = [list(sampler) for _ in range(3)]
    assert len({tuple(draws) for draws in epochs}) == 3
    assert {len(draws) for draws in epochs} == {len(sampler)}
    for epoch in (2, 0, 1):
        np.random.seed(epoch)  # noqa: NPY002
        torch.manual_seed(epoch)
        twin.set_epoch(epoch)
        assert list(twin) == epochs[epoch]
    assert list(make(seed=2)) != epochs[0]


@KINDS
def test_draws_never_change_between_versions(make: Make) -> None:
    # A record of the draws: a run that is repeated must see the same images.
    recorded = {
        class_aware: [37, 33, 36, 41, 40, 39, 21, 1, 29, 40, 39, 41],
        uniform: [6, 21, 20, 3, 12, 11, 4, 10, 13, 9, 14, 15],
        inverse_frequency: [38, 41, 39, 20, 27, 40, 0, 40, 40, 34, 28, 25],
        repeat_factor: [38, 41, 2, 39, 32, 40, 41, 36, 14, 33, 31, 22],
    }
    targets = np.ones((23, 1)) if make is uniform else labels_with_counts(31, 8, 3)
    assert list(make(targets, seed=7))[:12] == recorded[make]


@settings(deadline=None, max_examples=60)
@given(make=kinds, targets=label_matrices(), num_replicas=st.integers(1, 70), epoch=st.integers(0, 2))
def test_ranks_share_the_draws_of_one_process(
    make: Make, targets: NDArray[np.int8], num_replicas: int, epoch: int
) -> None:
    whole = make(targets, seed=3)
    whole.set_epoch(epoch)
    alone = list(whole)
    assert len(alone) == len(whole)
    ranks = [make(targets, seed=3, rank=rank, num_replicas=num_replicas) for rank in range(num_replicas)]
    for rank in ranks:
        rank.set_epoch(epoch)
    drawn = [list(rank) for rank in ranks]
    assert {len(draws) for draws in drawn} == {len(ranks[0])} == {-(-len(alone) // num_replicas)}
    merged = [row for step in zip(*drawn, strict=True) for row in step]
    assert merged[: len(alone)] == alone
    assert len(merged) - len(alone) < num_replicas
    assert set(merged) <= set(range(len(targets)))


def test_padding_goes_on_with_new_draws() -> None:
    drawn = [list(UniformSampler(5, rank=rank, num_replicas=4)) for rank in range(4)]
    padding = [row for step in zip(*drawn, strict=True) for row in step][5:]
    assert len(set(padding)) == 3


@settings(deadline=None, max_examples=120)
@given(make=kinds, targets=label_matrices(), num_replicas=st.integers(1, 3), epoch=st.integers(0, 2), data=st.data())
def test_resume_gives_the_remaining_draws_and_then_the_next_epoch(
    make: Make, targets: NDArray[np.int8], num_replicas: int, epoch: int, data: st.DataObject
) -> None:
    options = {"seed": 5, "rank": data.draw(st.integers(0, num_replicas - 1)), "num_replicas": num_replicas}
    whole = make(targets, **options)
    whole.set_epoch(epoch)
    current, following = list(whole), list(whole)
    stop = data.draw(st.integers(0, len(current)))

    broken = make(targets, **options)
    broken.set_epoch(epoch)
    seen = list(islice(iter(broken), stop))
    resumed = make(targets, **options)
    resumed.load_state_dict(json.loads(json.dumps(broken.state_dict())))
    # A training loop announces the epoch it resumes in.
    resumed.set_epoch(epoch)
    assert resumed.state_dict() == broken.state_dict()
    assert seen + list(resumed) == current
    assert list(resumed) == following


def test_an_iteration_broken_off_starts_over() -> None:
    sampler = UniformSampler(10)
    first = list(islice(iter(sampler), 4))
    assert sampler.state_dict()["position"] == 4
    assert list(sampler)[:4] == first
    assert sampler.state_dict() | {"epoch": 1, "position": 0} == sampler.state_dict()


def test_a_resumed_epoch_can_be_saved_again() -> None:
    sampler = UniformSampler(10)
    draws = list(UniformSampler(10))
    sampler.load_state_dict(sampler.state_dict() | {"position": 6})
    assert list(islice(iter(sampler), 2)) == draws[6:8]
    assert sampler.state_dict()["position"] == 8


def test_another_epoch_forgets_the_loaded_place() -> None:
    sampler = UniformSampler(10)
    sampler.load_state_dict(sampler.state_dict() | {"position": 6})
    assert len(sampler) == 10
    sampler.set_epoch(1)
    assert sampler.state_dict()["position"] == 0
    assert len(list(sampler)) == 10


def test_a_loader_batches_the_draws() -> None:
    sampler = UniformSampler(10, seed=1)
    loader = DataLoader(torch.arange(10), batch_size=4, sampler=sampler)
    assert len(loader) == 3
    first = [row for batch in loader for row in batch.tolist()]
    assert first == list(UniformSampler(10, seed=1))
    assert [row for batch in loader for row in batch.tolist()] != first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassAwareSampler(np.zeros((3, 2))), "none of the 3 rows has a positive label"),
        (lambda: ClassAwareSampler(np.ones(3)), r"targets must be \(N, K\), got shape \(3,\)"),
        (lambda: ClassAwareSampler(np.ones((3, 2)), samples_per_class=0), "samples_per_class >= 1 and reduce > 0"),
        (lambda: ClassAwareSampler(np.ones((3, 2)), reduce=0), "samples_per_class >= 1 and reduce > 0"),
        (lambda: InverseFrequencySampler(np.zeros((3, 2))), "none of the 3 rows has a positive label"),
        (lambda: InverseFrequencySampler(np.ones((3, 2)), background=-1), "background >= 0, got -1"),
        (lambda: InverseFrequencySampler(np.ones((3, 2)), background=float("nan")), "background >= 0, got nan"),
        (lambda: RepeatFactorSampler(np.ones((3, 2)), threshold=0), r"a threshold in \(0, 1\], got 0"),
        (lambda: RepeatFactorSampler(sparse.csr_array((5, 2))), "none of the 5 rows has a positive label"),
        (lambda: ClassAwareSampler(torch.ones(3, 2).to_sparse_coo()), r"targets\.to_sparse_csr\(\)"),
        (lambda: UniformSampler(0), "at least one row"),
        (lambda: UniformSampler(3, seed=-1), "seed must not be negative"),
        (lambda: UniformSampler(3, rank=2, num_replicas=2), "0 <= rank < num_replicas"),
        (lambda: UniformSampler(3, num_replicas=0), "0 <= rank < num_replicas"),
        (lambda: UniformSampler(3, rank=-1), "0 <= rank < num_replicas"),
        (lambda: list(UniformSampler(3, rank=1)), "got rank = 1 and num_replicas = 1"),
        (lambda: UniformSampler(3).set_epoch(-1), "epoch must not be negative"),
    ],
)
def test_bad_options_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 9}, "saved with seed = 9 and this sampler has 0"),
        ({"length": 11}, "saved with length = 11 and this sampler has 10"),
        ({"num_replicas": 2}, "saved with num_replicas = 2"),
        ({"position": 11}, "position 11; expected an epoch from 0 and a position from 0 to 10"),
        ({"position": -1}, "position -1"),
        ({"epoch": -1}, "names epoch -1"),
    ],
)
def test_states_of_other_runs_are_refused(change: dict[str, int], message: str) -> None:
    sampler = UniformSampler(10)
    with pytest.raises(InputError, match=message):
        sampler.load_state_dict(sampler.state_dict() | change)
