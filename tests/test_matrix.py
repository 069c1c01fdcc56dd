"""Label matrices: dense and sparse say the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array, issparse

from tailwise import matrix as module
from tailwise.data.dataset import Dataset, Files
from tailwise.data.long_tail import build_long_tail, labels_digest, read_manifest, write_csv, write_manifest
from tests.formats import read_csv

MATRIX = hnp.arrays(np.int8, st.tuples(st.integers(1, 12), st.integers(1, 8)), elements=st.sampled_from([0, 0, 1, -1]))


@settings(deadline=None, max_examples=80)
@given(matrix=MATRIX)
def test_operations_agree_with_loops_for_both_layouts(matrix: np.ndarray) -> None:
    for targets in (matrix, csr_array(matrix)):
        for value in (1, -1):
            by_class = [[i for i, row in enumerate(matrix) if row[k] == value] for k in range(matrix.shape[1])]
            assert [rows.tolist() for rows in module.rows_by_class(targets, value)] == by_class
            by_row = [[k for k, cell in enumerate(row) if cell == value] for row in matrix]
            assert [classes.tolist() for classes in module.classes_by_row(targets, value)] == by_row
        assert module.count_positives(targets).tolist() == [sum(c == 1 for c in column) for column in matrix.T]
        assert module.count_negatives(targets).tolist() == [sum(c == 0 for c in column) for column in matrix.T]
        both = [{0, 1} <= set(column.tolist()) for column in matrix.T]
        assert module.can_be_scored(targets).tolist() == both
        assert module.has_unknown(targets) == (-1 in matrix)
        assert np.array_equal(np.concatenate(list(module.dense_chunks(targets))), matrix)


@settings(deadline=None, max_examples=80)
@given(matrix=MATRIX, limit=st.sampled_from([0, 2**20]))
def test_places_become_a_matrix_of_either_layout(matrix: np.ndarray, limit: int) -> None:
    positive, unknown = (np.stack(np.nonzero(matrix == value)) for value in (1, -1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LARGEST_ARRAY", limit)
        repeated = np.concatenate([positive, positive], axis=1)
        # A label given as unknown too is positive.
        made = module.from_indices(repeated, np.concatenate([positive, unknown], axis=1), matrix.shape)
    assert issparse(made) == (limit == 0)
    assert made.dtype == np.int8
    assert np.array_equal(module.to_dense(made), matrix)


def test_the_largest_array_is_of_256_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._LARGEST_ARRAY == 256 * 2**20
    monkeypatch.setattr(module, "_LARGEST_ARRAY", 12)
    none = np.zeros((2, 0), dtype=np.int64)
    assert not issparse(module.from_indices(none, none, (4, 3)))
    assert issparse(module.from_indices(none, none, (13, 1)))


def test_rows_and_columns_far_beyond_32_bits_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_ARRAY", 0)
    shape = (70_000, 70_000)
    positive = np.array([[0, 69_999, 69_999, 3], [69_999, 0, 69_999, 5]])
    unknown = np.array([[69_998, 69_999, 3], [69_999, 1, 5]])
    made = module.from_indices(positive.astype(np.int32), unknown.astype(np.int32), shape)
    found = made.tocoo()
    entries = {(int(r), int(c)): int(v) for r, c, v in zip(found.row, found.col, found.data, strict=True)}
    expected = dict.fromkeys(map(tuple, positive.T.tolist()), 1)
    assert entries == {**expected, (69_998, 69_999): -1, (69_999, 1): -1}


def test_dense_and_sparse_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.array([[1, -1, 0]], dtype=np.int8)
    assert (module.is_sparse(matrix), module.is_sparse(csr_array(matrix))) == (False, True)
    assert module.to_dense(matrix) is matrix
    for layout in (np.asarray, csr_array):
        assert module.has_unknown(layout(matrix))
        assert not module.has_unknown(layout(np.abs(matrix)))
        assert [rows.tolist() for rows in module.rows_by_class(layout(matrix))] == [[0], [], []]
        assert [classes.tolist() for classes in module.classes_by_row(layout(matrix))] == [[0]]
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 2)
    tall = np.arange(8, dtype=np.int8).reshape(2, 4)
    assert [chunk.tolist() for chunk in module.dense_chunks(tall)] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]
    assert [chunk.shape for chunk in module.dense_chunks(np.zeros((3, 0), dtype=np.int8))] == [(2, 0), (1, 0)]


def test_a_chunk_has_sixteen_megabytes() -> None:
    chunks = module.dense_chunks(csr_array((5, 2**23), dtype=np.int8))
    assert next(chunks).shape == (2, 2**23)


def test_chunks_are_small_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 10)
    matrix = np.arange(42, dtype=np.int8).reshape(14, 3)
    chunks = list(module.dense_chunks(csr_array(matrix)))
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 3, 2]
    assert np.array_equal(np.concatenate(chunks), matrix)


def test_sparse_labels_build_the_same_subset_manifest_and_csv(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    matrix = (generator.random((200, 6)) < np.geomspace(0.6, 0.05, 6)).astype(np.int8)
    matrix[generator.random(matrix.shape) < 0.05] = -1
    names = tuple("abcdef")
    written = []
    for layout, limit in ((np.asarray, 2**20), (csr_array, 0)):
        monkeypatch.setattr(module, "_LARGEST_ARRAY", limit)
        data = Dataset(
            names=tuple(f"{i}.jpg" for i in range(200)),
            inputs=Files(tmp_path),
            targets=layout(matrix),
            class_names=names,
            splits=("",) * 200,
            lines=tuple(range(2, 202)),
            source=tmp_path / "labels.csv",
        )
        subset = build_long_tail(data.targets, names, num_max=40, seed=1)
        csv_file, manifest_file = tmp_path / f"{limit}.csv", tmp_path / f"{limit}.json"
        write_csv(csv_file, {"train": data.subset(subset.indices)})
        write_manifest(manifest_file, subset, data)
        back = read_csv(csv_file, classes=names)
        assert np.array_equal(module.to_dense(back.targets), matrix[subset.indices])
        assert np.array_equal(module.to_dense(read_manifest(manifest_file).targets), matrix[subset.indices])
        written.append((csv_file.read_bytes(), manifest_file.read_bytes(), labels_digest(data)))
    assert written[0] == written[1]
