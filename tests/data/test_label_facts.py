"""Facts about labels: against counts by hand, pandas and scikit-learn; dense and sparse labels alike."""

from __future__ import annotations

import dataclasses
import itertools
import tracemalloc
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import sparse
from sklearn.preprocessing import MultiLabelBinarizer

from tailwise import matrix
from tailwise.data import class_pairs
from tailwise.data.class_pairs import ClassPairs, count_pairs
from tailwise.data.dataset import Dataset, Files
from tailwise.data.label_facts import MAX_SPLITS, Inspection, inspect_labels
from tailwise.data.samplers import ClassAwareSampler
from tailwise.errors import InputError
from tests.formats import read_csv


def labelled(targets: NDArray[np.int8], splits: tuple[str, ...] | None = None) -> Dataset:
    size, num_classes = targets.shape
    return Dataset(
        names=tuple(f"{row}.jpg" for row in range(size)),
        inputs=Files(Path("images")),
        targets=targets,
        class_names=tuple(f"class {k}" for k in range(num_classes)),
        splits=("",) * size if splits is None else splits,
        lines=tuple(range(2, size + 2)),
        source=Path("labels.csv"),
    )


def with_sparse_labels(data: Dataset) -> Dataset:
    copy = dataclasses.replace(data)
    object.__setattr__(copy, "targets", sparse.csr_array(data.targets))
    return copy


def plain(value: Any) -> Any:
    """Facts as lists and dictionaries, which compare."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, tuple) else value


@st.composite
def label_sets(draw: st.DrawFn) -> tuple[NDArray[np.int8], tuple[str, ...]]:
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 6)))
    targets = draw(hnp.arrays(np.int8, shape, elements=st.sampled_from([1, 1, 0, -1])))
    splits = draw(st.lists(st.sampled_from(["train", "test", "pool", ""]), min_size=shape[0], max_size=shape[0]))
    return targets, tuple(splits)


@settings(deadline=None, max_examples=80)
@given(labels=label_sets(), thresholds=st.sampled_from([(0, 2), (1, 1), (2, 4)]))
def test_every_split_is_counted_as_by_hand(
    labels: tuple[NDArray[np.int8], tuple[str, ...]], thresholds: tuple[int, int]
) -> None:
    data = labelled(*labels)
    train = data.splits[0] or None
    facts = inspect_labels(data, train_split=train, thresholds=thresholds)
    train_rows = [row for row, name in enumerate(data.splits) if train in (None, name)]
    train_counts = Counter(k for row in train_rows for k, value in enumerate(data.targets[row]) if value == 1)
    assert facts.stats.num_samples == len(train_rows)
    head = {k for k in range(facts.stats.num_classes) if train_counts[k] >= thresholds[1]}
    assert set(facts.stats.groups["head"].tolist()) == head
    assert {k for k, name in enumerate(facts.group_of) if name == "head"} == head
    names = [] if set(data.splits) == {""} else list(dict.fromkeys(data.splits))
    assert [split.name for split in facts.splits] == names
    for split, wanted in ((facts.total, None), *zip(facts.splits, names, strict=True)):
        rows = [data.targets[row] for row, name in enumerate(data.splits) if wanted in (None, name)]
        positives = [{k for k, value in enumerate(row) if value == 1} for row in rows]
        for value, counts in ((1, split.class_counts), (-1, split.unknown_counts), (0, split.negative_counts)):
            by_hand = Counter(k for row in rows for k, label in enumerate(row) if label == value)
            assert counts.tolist() == [by_hand[k] for k in range(len(counts))]
        sizes = Counter(len(of_image) for of_image in positives)
        assert split.histogram.tolist() == [sizes[number] for number in range(max(sizes) + 1)]
        assert split.num_images == len(rows)
        assert split.unlabelled == sizes[0]
        assert split.mean_labels == pytest.approx(np.mean([len(of_image) for of_image in positives]))
        assert split.max_labels == max(sizes)
        assert split.density == pytest.approx(np.mean(np.array(rows) == 1))
        assert split.unknown_share == pytest.approx(np.mean(np.array(rows) == -1))
        assert split.head_only == sum(bool(of_image) and of_image <= head for of_image in positives)


@settings(deadline=None, max_examples=60)
@given(labels=label_sets(), named=st.booleans())
def test_sparse_labels_give_the_same_facts(labels: tuple[NDArray[np.int8], tuple[str, ...]], named: bool) -> None:
    data = labelled(*labels)
    train = (data.splits[0] or None) if named else None
    dense = inspect_labels(data, train_split=train, thresholds=(1, 3))
    assert plain(inspect_labels(with_sparse_labels(data), train_split=train, thresholds=(1, 3))) == plain(dense)


def test_stored_zeros_and_unsorted_columns_mean_what_they_say() -> None:
    targets = np.array([[1, 0, 1, -1], [0, 1, 1, 0]], dtype=np.int8)
    untidy = sparse.csr_array(
        (np.array([1, -1, 0, 1, 1, 0, 1], dtype=np.int8), [2, 3, 1, 0, 2, 3, 1], [0, 4, 7]), shape=(2, 4)
    )
    data = labelled(targets)
    copy = dataclasses.replace(data)
    object.__setattr__(copy, "targets", untidy)
    assert plain(inspect_labels(copy)) == plain(inspect_labels(data))


def naive_pairs(targets: NDArray[np.int8], top: int, min_count: int) -> dict[str, list[tuple[int, int, int]]]:
    images = [set(np.flatnonzero(column == 1).tolist()) for column in targets.T]
    common = {
        (i, j): len(images[i] & images[j])
        for i, j in itertools.combinations(range(len(images)), 2)
        if images[i] & images[j]
    }
    values = {
        "by_count": {pair: Fraction(count) for pair, count in common.items()},
        "by_share": {
            (i, j): Fraction(count, min(len(images[i]), len(images[j])))
            for (i, j), count in common.items()
            if count >= min_count
        },
        "by_lift": {
            (i, j): Fraction(count * len(targets), len(images[i]) * len(images[j]))
            for (i, j), count in common.items()
            if count >= min_count
        },
    }
    ranked = {}
    for name, value in values.items():
        best = sorted(value, key=lambda pair: (-value[pair], -common[pair], pair))[:top]
        ranked[name] = [
            (*sorted(pair, key=lambda k: (len(images[k]), k)), common[pair])  # rarer first, then lower index
            for pair in best
        ]
    return ranked


def listed(pairs: ClassPairs) -> list[tuple[int, int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.counts.tolist(), strict=True))


@settings(deadline=None, max_examples=80)
@given(
    targets=hnp.arrays(np.int8, st.tuples(st.integers(1, 14), st.integers(1, 7)), elements=st.integers(0, 1)),
    top=st.integers(1, 8),
    min_count=st.integers(1, 3),
    block=st.sampled_from([1, 9, 1 << 22]),
)
def test_pairs_are_ranked_as_by_hand(targets: NDArray[np.int8], top: int, min_count: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_pairs, "_BLOCK_ELEMENTS", block)
        found = count_pairs(sparse.csr_array(targets.astype(np.int32)), top=top, min_count=min_count)
    expected = naive_pairs(targets, top, min_count)
    assert {name: listed(getattr(found, name)) for name in expected} == expected
    together = targets.T.astype(int) @ targets.astype(int)
    counts = np.diagonal(together).copy()
    assert found.num_pairs == np.count_nonzero(np.triu(together, 1))
    for pairs in (found.by_count, found.by_share, found.by_lift):
        assert pairs.share.tolist() == (pairs.counts / counts[pairs.first]).tolist()
        assert pairs.reverse_share.tolist() == (pairs.counts / counts[pairs.second]).tolist()
        independent = counts[pairs.first] / len(targets) * counts[pairs.second] / len(targets)
        assert pairs.lift == pytest.approx(pairs.counts / len(targets) / independent)
    np.fill_diagonal(together, 0)
    assert found.companion_counts.tolist() == together.max(axis=1).tolist()
    expected_companions = np.where(together.max(axis=1) > 0, together.argmax(axis=1), -1)
    assert found.companions.tolist() == expected_companions.tolist()


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    targets = generator.choice(np.array([1, 0, 0, 0, -1], dtype=np.int8), size=(50, 9))
    data = labelled(targets, tuple(generator.choice(["train", "test"], size=50).tolist()))
    whole = inspect_labels(data, train_split="train", test_split="test")
    monkeypatch.setattr(matrix, "_CHUNK_ELEMENTS", 120)
    monkeypatch.setattr(matrix, "_ROWS_AT_ONCE", 7)
    assert plain(inspect_labels(data, train_split="train", test_split="test")) == plain(whole)
    assert plain(inspect_labels(with_sparse_labels(data), train_split="train", test_split="test")) == plain(whole)


@pytest.fixture(scope="module")
def photo_facts(photos: Path) -> tuple[Dataset, Inspection]:
    data = read_csv(photos, classes=photos.with_name("classes.json"))
    return data, inspect_labels(data, train_split="train_lt", test_split="test")


def test_photos_match_pandas_and_scikit_learn(photo_facts: tuple[Dataset, Inspection], photos: Path) -> None:
    data, facts = photo_facts
    table = pd.read_csv(photos, keep_default_na=False)
    labels = table["labels"].str.split("|").map(lambda names: [name for name in names if name])
    exploded = table.assign(label=labels).explode("label")
    by_split = pd.crosstab(exploded["split"], exploded["label"]).reindex(columns=list(data.class_names), fill_value=0)
    assert {facts.name for facts in facts.splits} == set(table["split"])
    for split in facts.splits:
        assert split.class_counts.tolist() == by_split.loc[split.name].tolist()
        sizes = labels[table["split"] == split.name].map(len)
        assert split.histogram.tolist() == np.bincount(sizes).tolist()
    assert facts.total.class_counts.tolist() == by_split.sum().tolist()
    assert facts.test is not None
    assert (facts.train.num_images, facts.test.num_images) == (1_205, 4_000)
    assert facts.train.imbalance_ratio == by_split.loc["train_lt"].max() / by_split.loc["train_lt"].min()
    train = MultiLabelBinarizer(classes=list(data.class_names)).fit_transform(labels[table["split"] == "train_lt"])
    top = facts.frequent
    assert top.tolist() == np.argsort(-train.sum(axis=0), kind="stable").tolist()
    assert facts.frequent_pairs.tolist() == (train.T @ train)[np.ix_(top, top)].tolist()
    assert listed(facts.cooccurrence.by_count)[:5] == naive_pairs(train.astype(np.int8), 5, 5)["by_count"]


def test_a_class_aware_epoch_is_the_samplers(photo_facts: tuple[Dataset, Inspection]) -> None:
    data, facts = photo_facts
    sampler = ClassAwareSampler(data.select("train_lt").targets)
    assert facts.class_aware_epoch == len(sampler)
    # Most draws of an image of the rarest class are for its sake: it has few other labels.
    rarest = int(np.argmin(facts.stats.class_counts))
    rows = np.flatnonzero(data.select("train_lt").targets[:, rarest] == 1)
    drawn = np.bincount(list(sampler), minlength=facts.train.num_images)[rows].mean()
    assert drawn == pytest.approx(facts.class_aware_repeats[rarest], rel=0.2)


def test_classes_without_images_have_no_repeats() -> None:
    facts = inspect_labels(labelled(np.array([[1, 0], [1, 0]], dtype=np.int8)))
    assert facts.class_aware_repeats[0] == 2 / 4 / 2
    assert np.isnan(facts.class_aware_repeats[1])
    assert facts.cooccurrence.companions.tolist() == [-1, -1]
    assert facts.train.imbalance_ratio == 1
    empty = inspect_labels(labelled(np.zeros((3, 2), dtype=np.int8)))
    assert np.isnan(empty.train.imbalance_ratio)
    assert np.isnan(empty.train.head_only_share)
    assert empty.class_aware_epoch == 0


def test_of_many_splits_the_used_and_the_largest_are_kept() -> None:
    names = [name for number in range(30) for name in [f"split {number}"] * (number + 2)]
    data = labelled(np.ones((len(names) + 2, 2), dtype=np.int8), ("train", *names, "test"))
    facts = inspect_labels(data, train_split="train", test_split="test")
    kept = [f"split {number}" for number in range(30 - (MAX_SPLITS - 2), 30)]
    assert [split.name for split in facts.splits] == ["train", *kept, "test"]
    assert facts.splits_left_out == 30 - len(kept)
    assert facts.total.num_images == len(data)
    assert facts.total.class_counts.tolist() == [len(data)] * 2


def test_splits_that_do_not_fit_are_refused() -> None:
    data = labelled(np.ones((2, 2), dtype=np.int8), ("train", "test"))
    with pytest.raises(InputError, match=r"has no split 'trian' \(did you mean 'train'\?\)"):
        inspect_labels(data, train_split="trian")
    with pytest.raises(InputError, match="has no split 'val'"):
        inspect_labels(data, train_split="train", test_split="val")
    with pytest.raises(InputError, match="training and the test split are both 'test'"):
        inspect_labels(data, train_split="test", test_split="test")
    with pytest.raises(InputError, match="no row"):
        inspect_labels(data.subset([]))


@pytest.mark.parametrize("thresholds", [(100, 20), (-1, 5), (-2, -1)])
def test_thresholds_that_do_not_rise_are_refused(thresholds: tuple[int, int]) -> None:
    data = labelled(np.ones((2, 2), dtype=np.int8))
    with pytest.raises(InputError, match=rf"thresholds must be two rising counts, got \({thresholds[0]}, "):
        inspect_labels(data, thresholds=thresholds)
    assert inspect_labels(data, thresholds=(2, 2)).group_of == ("head", "head")


def test_no_square_of_the_classes_is_made() -> None:
    num_images, num_classes = 4_000, 30_000
    generator = np.random.default_rng(1)
    columns = generator.integers(num_classes, size=(num_images, 4))
    rows = np.repeat(np.arange(num_images), 4)
    labels = sparse.csr_array((np.ones(rows.size, np.int8), (rows, columns.ravel())), shape=(num_images, num_classes))
    labels.data[:] = 1
    data = labelled(np.zeros((num_images, 1), dtype=np.int8))
    object.__setattr__(data, "targets", labels)
    object.__setattr__(data, "class_names", tuple(f"class {k}" for k in range(num_classes)))
    tracemalloc.start()
    facts = inspect_labels(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert facts.total.num_positives == labels.nnz
    # The N × K matrix would need 120 MB, the K × K counts 900 MB in their smallest type.
    assert peak < 60e6
