"""The long-tailed builder: its formula against SciPy, its steps against their definition, its files read back."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.stats import pareto

from tailwise.data.dataset import Dataset, Files
from tailwise.data.long_tail import (
    LongTailSubset,
    build_long_tail,
    labels_digest,
    read_manifest,
    reference_counts,
    write_csv,
    write_manifest,
)
from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tests.formats import read_csv

LABELS = arrays(np.int8, st.tuples(st.integers(1, 40), st.integers(1, 6)), elements=st.sampled_from([1, 0, 0, -1]))


def names(num_classes: int) -> list[str]:
    return [f"c{k}" for k in range(num_classes)]


def labeled(targets: NDArray[np.int8], root: Path) -> Dataset:
    count, num_classes = targets.shape
    return Dataset(
        names=tuple(f"images/é {index}.jpg" for index in range(count)),
        inputs=Files(root),
        targets=targets,
        class_names=tuple(names(num_classes)),
        splits=("",) * count,
        lines=tuple(range(2, count + 2)),
        source=root / "labels.csv",
    )


def random_labels(count: int, num_classes: int, seed: int = 0) -> NDArray[np.int8]:
    rates = np.geomspace(0.5, 0.05, num_classes)
    return (np.random.default_rng(seed).random((count, num_classes)) < rates).astype(np.int8)


@pytest.fixture(scope="module")
def voc(shared: Path) -> tuple[NDArray[np.int8], list[str]]:
    """The labels of all 11,540 images of VOC2012 trainval, and the class names."""
    with (shared / "data" / "official" / "voc2012_trainval_labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [row["labels"].split("|") for row in csv.DictReader(file)]
    classes = sorted({label for labels in rows for label in labels})
    return np.array([[name in labels for name in classes] for labels in rows], dtype=np.int8), classes


@given(
    num_classes=st.integers(1, 90),
    num_min=st.integers(1, 10),
    extra=st.integers(0, 2000),
    b=st.floats(0.5, 20),
)
def test_reference_counts_are_the_pareto_density(num_classes: int, num_min: int, extra: int, b: float) -> None:
    num_max = num_min + extra
    counts = reference_counts(num_classes, num_max=num_max, num_min=num_min, pareto_b=b)
    x = np.linspace(pareto.ppf(0, b), pareto.ppf(0.99, b), num_classes)
    exact = pareto.pdf(x, b) * (num_max - num_min) / b + num_min
    # A value that SciPy rounds to just below or above a whole number may floor either way.
    assert np.all((counts == np.floor(exact + 1e-6)) | (counts == np.floor(exact - 1e-6)))
    assert counts[0] == num_max
    assert counts.min() >= num_min


@pytest.mark.parametrize("b", [0.01, 0.05, 1e3, 1e6])
def test_the_ends_of_the_range_are_right(b: float) -> None:
    """By logarithms, which neither overflow nor cancel: x runs from 1 to 100^(1/b), and f(x) / b = x^(-b-1)."""
    largest = math.expm1(math.log(100) / b)
    exact = [math.exp(-(b + 1) * math.log1p(k / 9 * largest)) * 999_999 + 1 for k in range(10)]
    counts = reference_counts(10, num_max=1_000_000, pareto_b=b)
    assert counts[0] == 1_000_000
    assert all(abs(count - math.floor(value)) <= 1 for count, value in zip(counts, exact, strict=True))


def test_published_setting_reaches_the_published_tail() -> None:
    counts = reference_counts(20, num_max=800)
    # The ten rarest classes of VOC-MLT, in the order of the visits: the last visits are hardly disturbed.
    published = [29, 20, 17, 14, 11, 8, 7, 6, 5, 4]
    assert np.abs(counts[10:] - published).max() <= 3
    assert counts[-5:].tolist() == [9, 7, 6, 5, 4]


@settings(deadline=None)
@given(targets=LABELS.filter(lambda m: (m == 1).any()), num_max=st.integers(1, 12), seed=st.integers(0, 5))
def test_each_visit_brings_its_class_to_the_reference(targets: NDArray[np.int8], num_max: int, seed: int) -> None:
    subset = build_long_tail(targets, names(targets.shape[1]), num_max=num_max, seed=seed)
    positive = targets == 1
    available = positive.sum(axis=0)
    assert sorted(subset.order) == list(range(targets.shape[1]))
    assert np.all(np.diff(subset.reference[subset.order]) <= 0)
    assert np.all(np.diff(subset.indices) > 0)
    assert not subset.history[0].any()
    for step, k in enumerate(subset.order):
        before, after = subset.history[step], subset.history[step + 1]
        assert after[k] == min(subset.reference[k], available[k])
        assert np.all(after >= before) if after[k] >= before[k] else np.all(after <= before)
        assert np.abs(after - before).max() == abs(after[k] - before[k])
    assert positive[subset.indices].sum(axis=0).tolist() == subset.counts.tolist()
    assert positive[subset.indices].any(axis=1).all()
    short = {
        name for name, n, wanted in zip(names(len(available)), available, subset.reference, strict=True) if n < wanted
    }
    noted = {match.group(1) for note in subset.notes if (match := re.search(r"'(\w+)' has", note))}
    assert noted == short


def test_visits_go_by_conditional_probability_not_by_count(voc: tuple[NDArray[np.int8], list[str]]) -> None:
    targets, classes = voc
    score = [0.0] * len(classes)
    for i in range(len(classes)):
        rows = targets[targets[:, i] == 1]
        for j in range(len(classes)):
            score[j] += rows[:, j].sum() / len(rows)
    subset = build_long_tail(targets, classes, num_max=800)
    assert subset.order.tolist() == sorted(range(len(classes)), key=lambda k: -score[k])
    assert [classes[k] for k in subset.order[:4]] == ["person", "chair", "car", "diningtable"]
    assert subset.order.tolist() != np.argsort(-targets.sum(axis=0), kind="stable").tolist()


def test_visits_go_by_how_much_other_classes_bring_a_class_along() -> None:
    """Class c is the most frequent, yet comes last: no other class brings it along.

    Of the 4 rows of a, all have b: p(b|a) = 1, and of the 8 rows of b, 4 have a: p(a|b) = 1/2. With p(j|j) = 1, the
    sums over i of p(j|i) are 1 + 1/2 for a, 1 + 1 for b and 1 for c. Divided by the count of j instead, the sums would
    be 1 + 1 for a and 1 + 1/2 for b.
    """
    a = [1] * 4 + [0] * 24
    b = [1] * 8 + [0] * 20
    c = [0] * 8 + [1] * 20
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        targets = np.array([a, b, c], dtype=np.int8)[order].T
        subset = build_long_tail(targets, [("a", "b", "c")[k] for k in order], num_max=8)
        assert [("a", "b", "c")[order[k]] for k in subset.order] == ["b", "a", "c"]
        # x runs from 1 to Q(.99) = 100^(1/6), and the references are floor(7 x^-7) + 1.
        middle = (1 + 100 ** (1 / 6)) / 2
        wanted = [8, int(7 * middle**-7 + 1), int(7 * 100 ** (-7 / 6) + 1)]
        assert subset.reference[subset.order].tolist() == wanted
    # Classes that come alone have the sum 1, p(j|j), however many rows they have.
    for sizes in ((1, 1, 1), (1, 2, 3), (3, 1, 2)):
        tied = build_long_tail(np.repeat(np.eye(3, dtype=np.int8), sizes, axis=0), ["a", "b", "c"], num_max=3)
        assert tied.order.tolist() == [0, 1, 2]


def test_parameters_left_out_are_the_published_ones(tmp_path: Path) -> None:
    """b = 6, N_min = 1, seed 0, and groups at 20 and 100."""
    x = np.linspace(pareto.ppf(0, 6), pareto.ppf(0.99, 6), 20)
    assert reference_counts(20, num_max=800).tolist() == np.floor(pareto.pdf(x, 6) * 799 / 6 + 1 + 1e-9).tolist()
    targets = random_labels(300, 4)
    subset = build_long_tail(targets, names(4), num_max=120)
    explicit = build_long_tail(targets, names(4), num_max=120, num_min=1, pareto_b=6, seed=0)
    assert subset.indices.tolist() == explicit.indices.tolist()
    assert (subset.num_max, subset.num_min, subset.pareto_b, subset.seed) == (120, 1, 6.0, 0)
    sizes = (100, 99, 20, 19)
    data = labeled(np.repeat(np.eye(4, dtype=np.int8), sizes, axis=0), tmp_path)
    whole = LongTailSubset(
        indices=np.arange(238),
        reference=np.array(sizes),
        order=np.arange(4),
        history=np.array([[0] * 4] * 4 + [sizes]),
        notes=(),
        num_max=100,
        num_min=1,
        pareto_b=6.0,
        seed=0,
    )
    write_manifest(tmp_path / "subset.json", whole, data)
    record = json.loads((tmp_path / "subset.json").read_text(encoding="utf-8"))
    assert record["groups"] == {"head": ["c0"], "medium": ["c1", "c2"], "tail": ["c3"]}
    assert record["thresholds"] == [20, 100]


def test_voc_subsets_have_the_published_shape(shared: Path, voc: tuple[NDArray[np.int8], list[str]]) -> None:
    targets, classes = voc
    official = json.loads((shared / "data" / "official" / "voc_mlt_stats.json").read_text())
    assert official["classes"] == classes
    sizes, groups, counts = [], [], []
    for seed in range(20):
        subset = build_long_tail(targets, classes, num_max=800, seed=seed)
        sizes.append(len(subset.indices))
        counts.append(subset.counts)
        stats = LabelStats.from_targets(targets[subset.indices], classes)
        groups.append([len(members) for members in stats.groups.values()])
        assert subset.notes == ()
    assert abs(np.mean(sizes) / official["num_samples"] - 1) < 0.1
    assert len(set(sizes)) > 5
    assert np.abs(np.mean(groups, axis=0) - [6, 6, 8]).max() < 1.5
    assert np.abs(np.mean(counts, axis=0) / official["class_counts"] - 1).max() < 0.2


def test_pool_of_photos_builds_a_long_tail(photos: Path) -> None:
    pool = read_csv(photos, classes=photos.with_name("classes.json")).select("pool")
    subset = build_long_tail(pool.targets, pool.class_names, num_max=800)
    assert subset.notes == ()
    last = subset.order[-6:]
    assert np.all(np.abs(subset.counts[last] - subset.reference[last]) <= 2)
    groups = pool.subset(subset.indices).stats().groups
    assert all(len(members) >= 4 for members in groups.values())


def test_same_seed_same_rows_whatever_the_platform() -> None:
    targets = np.array([[i % 2 == 0, i % 3 == 0, i % 7 == 0] for i in range(60)], dtype=np.int8)
    subset = build_long_tail(targets, names(3), num_max=20, seed=11)
    # A record of the choice: it must never change, or built data sets could not be built again.
    assert subset.indices.tolist() == [2, 4, 8, 20, 22, 26, 28, 34, 38, 44, 46, 50, 52, 58]
    again = build_long_tail(targets.astype(np.float64), names(3), num_max=20, pareto_b=6, seed=11)
    assert again.indices.tolist() == subset.indices.tolist()
    other = build_long_tail(targets, names(3), num_max=20, seed=12)
    assert other.indices.tolist() != subset.indices.tolist()


def test_rows_are_chosen_evenly() -> None:
    targets = np.ones((10, 1), dtype=np.int8)
    chosen = np.zeros(10)
    for seed in range(1000):
        chosen[build_long_tail(targets, ["c"], num_max=3, seed=seed).indices] += 1
    # 300 expected of each row, with a standard deviation of 14.5.
    assert np.abs(chosen - 300).max() < 60


def test_classes_without_or_with_too_few_images_are_noted() -> None:
    targets = np.zeros((30, 3), dtype=np.int8)
    targets[:5, 0] = 1
    targets[4:8, 2] = 1
    targets[:, 1] = -1
    subset = build_long_tail(targets, ["few", "none", "some"], num_max=20)
    assert subset.counts.tolist() == [5, 0, subset.counts[2]]
    assert np.isfinite(subset.history).all()
    assert subset.order[-1] == 1
    assert "class 'none' has no image: 1 were wanted, and the subset has none" in subset.notes
    assert "class 'few' has 5 images where 20 were wanted; it gave all it has" in subset.notes


def test_a_class_that_later_visits_empty_is_noted() -> None:
    targets = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1]], dtype=np.int8)
    subsets = [build_long_tail(targets, names(4), num_max=1, seed=seed) for seed in range(20)]
    assert any((subset.counts == 0).any() for subset in subsets)
    for subset in subsets:
        empty = [f"c{k}" for k in np.flatnonzero(subset.counts == 0)]
        assert [note.split("'")[1] for note in subset.notes if "lost its" in note] == empty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_max": 0}, "expected 1 <= num_min <= num_max, got num_min = 1 and num_max = 0"),
        ({"num_max": 5, "num_min": 6}, "expected 1 <= num_min <= num_max"),
        ({"num_max": 5, "num_min": 0}, "expected 1 <= num_min <= num_max"),
        ({"num_max": 10**12 + 1}, "num_max must be at most 1000000000000"),
        ({"num_max": 10**30, "num_min": 10**29}, "num_max must be at most 1000000000000"),
        *(
            ({"num_max": 5, "pareto_b": shape}, f"pareto_b must be a number from 0.01 to 1e+06, got {shape}")
            for shape in (0.0, -1.0, 1e-320, 1e-9, 0.0099, 1.1e6, 1e308, float("nan"), float("inf"))
        ),
        ({"num_max": 5, "seed": -1}, "seed must not be negative"),
        ({"num_max": 5, "class_names": ["a"]}, "1 class names for 2 class counts"),
        ({"num_max": 5, "class_names": ["a", "a"]}, "class names must be distinct"),
        ({"num_max": 5, "targets": np.zeros((4, 2))}, "none of the 4 rows has a positive label"),
        ({"num_max": 5, "targets": np.zeros((0, 2))}, "targets hold no row"),
        ({"num_max": 5, "targets": np.zeros(4)}, "targets must be (N, K), got shape (4,)"),
        ({"num_max": 5, "targets": np.full((4, 2), 0.5)}, "must be 0, 1 or unknown"),
    ],
)
def test_bad_input_is_refused(options: dict[str, object], message: str) -> None:
    arguments = {"targets": np.eye(4, 2), "class_names": ["a", "b"]} | options
    with pytest.raises(InputError, match=re.escape(message)):
        build_long_tail(**arguments)
    with pytest.raises(InputError, match="num_classes must be at least 1"):
        reference_counts(0, num_max=5)


def test_manifest_reads_back(tmp_path: Path) -> None:
    targets = random_labels(200, 5)
    targets[::7, 3] = -1
    data = labeled(targets, tmp_path)
    subset = build_long_tail(targets, data.class_names, num_max=60, num_min=2, pareto_b=5.0, seed=3)
    path = tmp_path / "subset.json"
    write_manifest(path, subset, data, thresholds=(10, 30))
    manifest = read_manifest(path)
    for field in ("indices", "reference", "order", "history", "counts"):
        assert getattr(manifest.subset, field).tolist() == getattr(subset, field).tolist()
    for field in ("notes", "num_max", "num_min", "pareto_b", "seed"):
        assert getattr(manifest.subset, field) == getattr(subset, field)
    assert manifest.images == data.subset(subset.indices).names
    assert (manifest.targets == -1).any()
    assert np.array_equal(manifest.targets, targets[subset.indices])
    assert manifest.stats == data.subset(subset.indices).stats((10, 30))
    assert manifest.source_sha256 == labels_digest(data)


def test_manifest_says_in_words_what_it_holds(tmp_path: Path) -> None:
    data = labeled(random_labels(50, 3), tmp_path)
    subset = build_long_tail(data.targets, data.class_names, num_max=20)
    write_manifest(tmp_path / "subset.json", subset, data, thresholds=(5, 15))
    record = json.loads((tmp_path / "subset.json").read_text(encoding="utf-8"))
    assert record["parameters"] == {"num_max": 20, "num_min": 1, "pareto_b": 6.0, "seed": 0}
    assert record["source"] == {"file": "labels.csv", "rows": 50, "sha256": labels_digest(data)}
    assert sorted(name for group in record["groups"].values() for name in group) == ["c0", "c1", "c2"]
    first = record["indices"][0]
    assert record["labels"][0] == [f"c{k}" for k in np.flatnonzero(data.targets[first] == 1)]
    assert f"images/é {first}.jpg" in (tmp_path / "subset.json").read_text(encoding="utf-8")


def test_digest_follows_everything_it_covers(tmp_path: Path) -> None:
    data = labeled(np.array([[1, 0], [0, 1]], dtype=np.int8), tmp_path)
    # A record: manifests written on one platform must be recognised on every other.
    assert labels_digest(data) == "e0e7b799854527d1e1badf962beb81111b4f862a9804aa54dc71b7caca489614"
    changed = labeled(np.array([[1, -1], [0, 1]], dtype=np.int8), tmp_path)
    assert labels_digest(changed) != labels_digest(data)
    assert labels_digest(data.subset([1, 0])) != labels_digest(data)
    elsewhere = labeled(data.targets.copy(order="F"), tmp_path / "elsewhere")
    assert labels_digest(elsewhere) == labels_digest(data)


def test_manifest_of_other_rows_is_refused(tmp_path: Path) -> None:
    data = labeled(random_labels(50, 3), tmp_path)
    subset = build_long_tail(data.targets, data.class_names, num_max=20)
    others = [
        labeled(random_labels(50, 3, seed=1), tmp_path),
        data.subset(range(10)),
        labeled(random_labels(50, 4), tmp_path),
    ]
    for other in others:
        with pytest.raises(InputError, match=r"was not built from these \d+ rows of .*labels\.csv"):
            write_manifest(tmp_path / "subset.json", subset, other)
    assert not (tmp_path / "subset.json").exists()


def test_broken_manifests_are_refused(tmp_path: Path) -> None:
    data = labeled(random_labels(50, 3), tmp_path)
    path = tmp_path / "subset.json"
    write_manifest(path, build_long_tail(data.targets, data.class_names, num_max=20), data)
    record = json.loads(path.read_text(encoding="utf-8"))
    broken = [
        ("cannot read", "{"),
        ("not a manifest", json.dumps({"format": "other"})),
        ("not a whole manifest", json.dumps({key: value for key, value in record.items() if key != "history"})),
        *(("differ in length", json.dumps(record | {key: record[key][1:]})) for key in ("images", "labels", "indices")),
        ("disagree", json.dumps(record | {"labels": [[] for _ in record["labels"]]})),
    ]
    for message, text in broken:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message) as caught:
            read_manifest(path)
        assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="cannot read the manifest"):
        read_manifest(tmp_path / "gone.json")


def test_csv_of_a_built_subset_reads_back(tmp_path: Path) -> None:
    data = labeled(random_labels(80, 4), tmp_path)
    pool, test = data.subset(range(60)), data.subset(range(60, 80))
    chosen = pool.subset(build_long_tail(pool.targets, pool.class_names, num_max=15).indices)
    path = tmp_path / "built.csv"
    write_csv(path, {"train": chosen, "test": test})
    assert path.read_text(encoding="utf-8").startswith("image,split,labels\n")
    back = read_csv(path, classes=data.class_names)
    for split, part in (("train", chosen), ("test", test)):
        assert back.select(split).names == part.names
        assert np.array_equal(back.select(split).targets, part.targets)


def test_groups_survive_the_csv_where_all_splits_have_them(tmp_path: Path) -> None:
    data = replace(labeled(random_labels(9, 2), tmp_path), groups=tuple("aabbccdd,"))
    path = tmp_path / "built.csv"
    write_csv(path, {"train": data.subset(range(6)), "test": data.subset(range(6, 9))})
    assert read_csv(path, classes=data.class_names, group_column="group").groups == data.groups
    write_csv(path, {"train": data.subset(range(6)), "test": replace(data.subset(range(6, 9)), groups=None)})
    assert path.read_text(encoding="utf-8").startswith("image,split,labels\n")


@settings(deadline=None, max_examples=30)
@given(targets=LABELS)
def test_unknown_labels_survive_the_csv(tmp_path_factory: pytest.TempPathFactory, targets: NDArray[np.int8]) -> None:
    folder = tmp_path_factory.mktemp("csv")
    data = labeled(targets, folder)
    write_csv(folder / "out.csv", {"train": data}, separator=";")
    back = read_csv(folder / "out.csv", classes=data.class_names, separator=";")
    assert np.array_equal(back.targets, targets)
    assert back.names == data.names


def test_csv_that_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    data = labeled(np.array([[1, 0], [0, 1]], dtype=np.int8), tmp_path)
    elsewhere = labeled(data.targets, tmp_path / "elsewhere")
    cases = [
        ({}, "|", "at least one split"),
        ({"train": data, "test": data.subset([1])}, "|", "'images/é 1.jpg' is in the splits 2 times"),
        ({"train": data.subset([0]), "test": elsewhere.subset([1])}, "|", "the same classes and the same root"),
        ({"train": data.subset([0]), "test": labeled(random_labels(3, 3), tmp_path)}, "|", "the same classes"),
        ({"train": data}, "c", "class 'c0' holds the separator 'c'"),
    ]
    for splits, separator, message in cases:
        with pytest.raises(InputError, match=re.escape(message)):
            write_csv(tmp_path / "out.csv", splits, separator=separator)
    assert not (tmp_path / "out.csv").exists()
