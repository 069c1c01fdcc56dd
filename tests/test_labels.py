"""Label statistics against counting by hand, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tailwise import LabelStats

matrices = hnp.arrays(np.int8, st.tuples(st.integers(1, 12), st.integers(1, 6)), elements=st.sampled_from([0, 1, -1]))


def csr(matrix: np.ndarray) -> torch.Tensor:
    sparse = scipy.sparse.csr_array(matrix)
    return torch.sparse_csr_tensor(sparse.indptr, sparse.indices, sparse.data, matrix.shape)


FORMS = {
    "array": lambda m: m,
    "list": lambda m: m.tolist(),
    "tensor": torch.from_numpy,
    "float with NaN": lambda m: np.where(m < 0, np.nan, m),
    "scipy csr": scipy.sparse.csr_array,
    "torch csr": csr,
    "chunks": lambda m: (m[start : start + 3] for start in range(0, len(m), 3)),
}


@pytest.mark.filterwarnings("ignore:Sparse .*:UserWarning")
@pytest.mark.parametrize("form", FORMS)
@given(matrix=matrices)
def test_counts_and_cooccurrence(form, matrix):
    stats = LabelStats.from_targets(FORMS[form](matrix), cooccurrence=True)
    positive = (matrix == 1).astype(int)
    assert stats.num_samples == len(matrix)
    assert stats.class_counts.tolist() == [sum(column) for column in zip(*positive.tolist(), strict=True)]
    assert stats.cooccurrence.tolist() == (positive.T @ positive).tolist()
    assert LabelStats.from_targets(FORMS[form](matrix)).class_counts.tolist() == stats.class_counts.tolist()


def test_groups_by_the_published_thresholds():
    stats = LabelStats([100, 99, 20, 19, 0, 1000], 1000)
    assert {name: index.tolist() for name, index in stats.groups.items()} == {
        "head": [0, 5],
        "medium": [1, 2],
        "tail": [3, 4],
    }


def test_groups_at_the_borders_of_any_thresholds():
    """A class at a threshold belongs to the group above it, whichever way the statistics came about."""
    counts = [100, 99, 20, 19]
    rows = np.repeat(np.eye(4, dtype=np.int8), counts, axis=0)
    named = {"head": [0], "medium": [1, 2], "tail": [3]}
    for form in ("array", "scipy csr", "chunks"):
        found = LabelStats.from_targets(FORMS[form](rows))
        assert {name: index.tolist() for name, index in found.groups.items()} == named
        assert found.thresholds == (20, 100)
    moved = LabelStats.from_targets(rows, thresholds=(19, 101)).groups
    assert {name: index.tolist() for name, index in moved.items()} == {"head": [], "medium": [0, 1, 2, 3], "tail": []}
    moved = LabelStats(counts, 238, thresholds=(99, 99)).groups
    assert {name: index.tolist() for name, index in moved.items()} == {"head": [0, 1], "medium": [], "tail": [2, 3]}
    assert LabelStats([0, 1], 1, thresholds=(0, 0)).groups["head"].tolist() == [0, 1]


@pytest.mark.parametrize("name", ["voc", "coco"])
def test_groups_of_the_official_datasets(shared, name):
    facts = json.loads((shared / "data" / "official" / f"{name}_mlt_stats.json").read_text())
    stats = LabelStats(facts["class_counts"], facts["num_samples"])
    assert {group: index.tolist() for group, index in stats.groups.items()} == facts["groups"]


def test_counts_of_the_official_label_rows(shared):
    facts = json.loads((shared / "data" / "official" / "voc_mlt_stats.json").read_text())
    rows = (shared / "data" / "official" / "voc_mlt_label_rows.csv").read_text().splitlines()[1:]
    targets = np.zeros((len(rows), 20), dtype=np.uint8)
    for index, row in enumerate(rows):
        targets[index, [int(k) for k in row.split(",")[1].split("|")]] = 1
    assert LabelStats.from_targets(targets).class_counts.tolist() == facts["class_counts"]


def test_groups_by_name():
    stats = LabelStats([5, 6, 7], 10, ["cat", "dog", "cow"], groups={"pets": ["dog", "cat"], "farm": [2]})
    assert {name: index.tolist() for name, index in stats.groups.items()} == {"pets": [0, 1], "farm": [2]}
    with pytest.raises(ValueError, match="'dog' is in the groups 'a' and 'b'"):
        LabelStats([5, 6, 7], 10, ["cat", "dog", "cow"], groups={"a": ["dog"], "b": [1, 0, 2]})
    with pytest.raises(ValueError, match="2 classes are in no group: cat, cow"):
        LabelStats([5, 6, 7], 10, ["cat", "dog", "cow"], groups={"a": ["dog"]})
    with pytest.raises(ValueError, match="group 'a' names 'horse'"):
        LabelStats([5, 6, 7], 10, ["cat", "dog", "cow"], groups={"a": ["horse"]})


@given(matrix=matrices, by_name=st.booleans(), pairs=st.booleans())
def test_saved_statistics_load_equal(tmp_path_factory, matrix, by_name, pairs):
    path = tmp_path_factory.mktemp("stats") / "stats.json"
    names = [f"größe {k}" for k in range(matrix.shape[1])]
    groups = {"all of them": names} if by_name else None
    stats = LabelStats.from_targets(matrix, names, (2, 5), groups=groups, cooccurrence=pairs)
    stats.save(path)
    assert LabelStats.load(path) == stats
    assert [entry.name for entry in path.parent.iterdir()] == ["stats.json"]


def test_statistics_that_differ_in_anything_are_not_equal():
    pairs = [[3, 1], [1, 2]]
    same = LabelStats([3, 2], 9, ["a", "b"], (1, 3), cooccurrence=pairs)
    assert same == LabelStats([3, 2], 9, ["a", "b"], (1, 3), cooccurrence=pairs)
    # The groups count, whether they came from thresholds or by name.
    assert same == LabelStats([3, 2], 9, ["a", "b"], (1, 3), groups=same.groups, cooccurrence=pairs)
    others = [
        LabelStats([3, 2], 8, ["a", "b"], (1, 3), cooccurrence=pairs),
        LabelStats([3, 1], 9, ["a", "b"], (1, 3)),
        LabelStats([3, 2], 9, ["a", "c"], (1, 3), cooccurrence=pairs),
        LabelStats([3, 2], 9, ["a", "b"], (1, 2), cooccurrence=pairs),
        LabelStats([3, 2], 9, ["a", "b"], (1, 3), cooccurrence=[[3, 0], [0, 2]]),
        LabelStats([3, 2], 9, ["a", "b"], (1, 3)),
        LabelStats([3, 2], 9, ["a", "b"], groups={"all": [0, 1]}, cooccurrence=pairs),
        "statistics",
    ]
    for other in others:
        assert same != other
        assert other != same
    assert LabelStats([3, 2], 9) != LabelStats([3, 1], 9, groups=LabelStats([3, 2], 9).groups)


@pytest.mark.filterwarnings("ignore:Sparse .*:UserWarning")
@pytest.mark.parametrize("form", ["array", "scipy csr", "torch csr"])
def test_counting_in_pieces_changes_nothing(form, monkeypatch):
    matrix = np.random.default_rng(0).integers(-1, 2, (11, 4), dtype=np.int8)
    monkeypatch.setattr("tailwise.labels._CHUNK_ELEMENTS", 12)  # three rows at a time, and two at the end
    stats = LabelStats.from_targets(FORMS[form](matrix), cooccurrence=True)
    positive = (matrix == 1).astype(int)
    assert stats.num_samples == 11
    assert stats.class_counts.tolist() == positive.sum(0).tolist()
    assert stats.cooccurrence.tolist() == (positive.T @ positive).tolist()
    monkeypatch.setattr("tailwise.labels._CHUNK_ELEMENTS", 3)  # less than a row
    assert LabelStats.from_targets(FORMS[form](matrix), cooccurrence=True) == stats


def test_what_lists_of_lists_and_of_chunks_hold():
    rows = [[1, 0], [1, 1], [0, 1]]
    chunks = [rows[:1], rows[1:]]
    for targets in (rows, tuple(map(tuple, rows)), [np.array(rows)], list(map(np.array, chunks)), chunks):
        stats = LabelStats.from_targets(targets)
        assert (stats.num_samples, stats.class_counts.tolist()) == (3, [2, 2])
    assert LabelStats.from_targets(np.ones((2, 1))).class_names == ("class 0",)


def test_the_ends_of_counts_and_indices():
    stats = LabelStats([0, 10], 10, groups={"a": [1], "b": [0], "none": []})
    assert {name: index.tolist() for name, index in stats.groups.items()} == {"a": [1], "b": [0], "none": []}
    assert LabelStats([0], 1).class_counts.tolist() == [0]
    for index in (-1, 2):
        with pytest.raises(ValueError, match=f"group 'a' names {index}, which is not one of the 2 classes"):
            LabelStats([1, 1], 2, groups={"a": [0, index], "b": [1]})
    with pytest.raises(ValueError, match=r"thresholds must be .* got \(-1, 5\)"):
        LabelStats([1], 2, thresholds=(-1, 5))
    for pairs in ([[1, 0]], [[1, 0], [1, 1]], [[1, 0], [0, 2]]):
        with pytest.raises(ValueError, match="cooccurrence must be"):
            LabelStats([1, 1], 2, cooccurrence=pairs)


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "stats.json"
    LabelStats([1], 2).save(path)
    before = path.read_bytes()
    monkeypatch.setattr("json.dumps", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        LabelStats([2], 2).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other"}', "\xff"])
def test_files_of_another_kind_are_refused(tmp_path, content):
    path = tmp_path / "stats.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"stats.json is not a"):
        LabelStats.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3, 11], 10), "class 1 has 11"),
        (([3, -1], 10), "class 1 has -1"),
        (([3, np.nan], 10), "class 1 has nan"),
        (([3, 1.5], 10), "class 1 has 1.5"),
        (([], 10), "one count per class"),
        (([[1, 2]], 10), r"shape \(1, 2\)"),
        (([1], 0), "num_samples must be at least 1"),
        (([1, 2], 10, ["a"]), "1 class names for 2 class counts"),
        (([1, 2], 10, ["a", "a"]), "'a' occurs more than once"),
        (([1, 2], 10, None, (100, 20)), "thresholds must be"),
    ],
)
def test_bad_statistics(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabelStats(*arguments)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.array([[0.0, 0.5]]), "must be 0, 1 or unknown .* found 0.5"),
        (np.array([[0, 2]]), "found 2"),
        (np.array([0, 1]), r"must be \(N, K\)"),
        (np.zeros((3, 0)), "one count per class"),
        (iter([]), "hold no row"),
        (iter([np.zeros((1, 2)), np.zeros((1, 3))]), "2 classes, then 3"),
        (7, "got int 7"),
        ("cat", "got str 'cat'"),
        (b"cat", "got bytes b'cat'"),
        (pd.Series(["cat", "dog"]), "got str 'cat'"),
        ({"cat": [1, 0]}, "got dict"),
        (None, "got NoneType"),
        (
            pd.DataFrame({"image": ["1.jpg"], "cat": [1]}),
            "column 'image' of the targets is none .* found '1.jpg'; give",
        ),
        (pd.DataFrame({"cat": [1, None, "1"]}), "column 'cat' .* found '1'"),
        (pd.DataFrame({"cat": [1, 0], "score": [0.5, 1]}), "column 'score' .* found 0.5"),
        (pd.DataFrame({"day": pd.to_datetime(["2020-01-01"])}), r"column 'day' .* found datetime64"),
        (pd.DataFrame([[1, 0]], columns=["cat", "cat"]), "'cat' occurs more than once"),
        (pd.DataFrame({"cat": []}), "hold no row"),
        ((pd.DataFrame([[1, 0]], columns=list(names)) for names in ("ab", "ba")), "the same in another order"),
    ],
)
def test_bad_targets(targets, message):
    with pytest.raises(ValueError, match=message):
        LabelStats.from_targets(targets)


FRAMES = {
    "int8": lambda m: pd.DataFrame(m, dtype="int8"),
    "float with NaN": lambda m: pd.DataFrame(np.where(m < 0, np.nan, m)),
    "nullable integers": lambda m: pd.DataFrame(m, dtype="Int8").mask(m < 0, pd.NA),
    "nullable booleans": lambda m: pd.DataFrame(m == 1).astype("boolean").mask(m < 0, pd.NA),
    "objects": lambda m: pd.DataFrame(np.where(m < 0, None, m)),
    "mixed": lambda m: pd.concat(
        [
            pd.Series(m[:, k] == 1, name=k) if k % 2 else pd.Series(m[:, k], name=k, dtype="Int64")
            for k in range(m.shape[1])
        ],
        axis=1,
    ),
    "chunks": lambda m: [pd.DataFrame(m[start : start + 3]) for start in range(0, len(m), 3)],
}


@pytest.mark.parametrize("form", FRAMES)
@given(matrix=matrices)
def test_data_frames_count_as_their_entries_and_name_the_classes(form, matrix):
    stats = LabelStats.from_targets(FRAMES[form](matrix), cooccurrence=True)
    expected = LabelStats.from_targets(matrix, [str(k) for k in range(matrix.shape[1])], cooccurrence=True)
    assert stats == expected
    given_names = [f"class {k}" for k in range(matrix.shape[1])]
    assert LabelStats.from_targets(FRAMES[form](matrix), given_names) == LabelStats.from_targets(matrix)


def test_columns_of_a_file_name_the_classes(tmp_path):
    (tmp_path / "labels.csv").write_text("image,cat,dog\n1.jpg,1,0\n2.jpg,,1\n3.jpg,1,-1\n")
    table = pd.read_csv(tmp_path / "labels.csv")
    stats = LabelStats.from_targets(table[["cat", "dog"]])
    assert (stats.class_names, stats.class_counts.tolist(), stats.num_samples) == (("cat", "dog"), [2, 1], 3)


def test_a_million_rows_as_csr_without_a_dense_copy():
    rows, classes = 1_000_000, 10_000
    index = np.random.default_rng(0).integers(0, classes, rows)
    matrix = scipy.sparse.csr_array((np.ones(rows, np.int8), index, np.arange(rows + 1)), shape=(rows, classes))
    stats = LabelStats.from_targets(matrix)  # dense it would be 10 GB
    assert stats.class_counts.tolist() == np.bincount(index, minlength=classes).tolist()
