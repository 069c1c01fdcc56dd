"""Average precision against scikit-learn, class by class, in each way there is to compute it."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from sklearn.metrics import average_precision_score

from tailwise.metrics import average_precision
from tailwise.metrics.ranking_loops import count_by_placing

# The function has the name of its module in the package.
MODULE = sys.modules["tailwise.metrics.average_precision"]

# Compiled and in threads as for many scores, likewise without Numba, as for few scores, and in tensor operations.
WAYS = ["compiled", "sorting", "small", "device"]

# 0 and 1 labels with a few unknown ones, and scores with many ties.
LABELS = st.sampled_from([0, 0, 0, 1, 1, -1])
TIED = st.integers(-3, 3).map(float)
LAYOUTS = [
    np.ascontiguousarray,
    np.asfortranarray,
    lambda values: np.repeat(np.repeat(values, 2, axis=0), 3, axis=1)[::2, ::3],
    lambda values: values[::-1, ::-1].copy()[::-1, ::-1],
    lambda values: torch.from_numpy(values.T.copy()).T,
]
SHAPES = st.tuples(st.integers(0, 30), st.integers(1, 6))


def reference(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """scikit-learn on the known labels of each class; NaN where they are of one kind, which it scores 0 or 1."""
    result = np.full(scores.shape[1], np.nan)
    for k in range(scores.shape[1]):
        known = np.isin(targets[:, k], (0, 1))
        if set(targets[known, k].tolist()) == {0, 1}:
            # scikit-learn refuses infinite scores; average precision depends on their ranks alone.
            ranks = np.unique(scores[known, k], return_inverse=True)[1]
            result[k] = average_precision_score(targets[known, k], ranks)
    return result


def compute(way: str, scores: Any, targets: Any) -> torch.Tensor:
    if way == "device":
        values = scores if isinstance(scores, torch.Tensor) else torch.from_numpy(np.array(scores))
        return MODULE._on_device(values, targets)
    if way == "small":
        return average_precision(scores, targets)
    with mock.patch.object(MODULE, "_MANY_SCORES", 0), nullcontext() if way == "compiled" else without_numba():
        return average_precision(scores, targets)


@contextmanager
def without_numba() -> Iterator[None]:
    with mock.patch.dict(sys.modules, {"numba": None}):
        sys.modules.pop("tailwise.metrics.ranking_loops", None)
        yield


@contextmanager
def limits(block_scores: int, table_bytes: int, threads: int, positives: int = 5) -> Iterator[None]:
    """Read at most this much at once, in this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with mock.patch.multiple(
            MODULE, _BLOCK_SCORES=block_scores, _TABLE_BYTES=table_bytes, _POSITIVES_AT_ONCE=positives
        ):
            yield
    finally:
        torch.set_num_threads(before)


def assert_agrees(way: str, scores: np.ndarray, targets: np.ndarray) -> None:
    ours = compute(way, scores, targets)
    assert ours.dtype == torch.float64
    np.testing.assert_allclose(ours.numpy(), reference(scores, targets), rtol=0, atol=1e-12)


@given(st.data())
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize(
    "values", [TIED, st.floats(width=32, allow_nan=False), st.sampled_from([-np.inf, 0.0, np.inf])]
)
@pytest.mark.parametrize("way", WAYS)
def test_equals_scikit_learn(way: str, values: st.SearchStrategy[float], data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    scores = data.draw(hnp.arrays(np.float32, shape, elements=values))
    targets = data.draw(hnp.arrays(np.int8, shape, elements=LABELS))
    assert_agrees(way, scores, targets)


@pytest.mark.parametrize("positive_rate", [0.002, 0.05, 0.6])
@pytest.mark.parametrize("way", WAYS)
def test_equals_scikit_learn_on_many_samples(way: str, positive_rate: float) -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((5000, 18)) < positive_rate).astype(np.int64)
    assert_agrees(way, rng.normal(size=(5000, 18)) + targets, targets)


@given(st.data())
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("way", ["compiled", "sorting"])
def test_no_bit_depends_on_threads_blocks_layout_or_the_order_of_rows(way: str, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    scores = rng.integers(-9, 10, shape).astype(np.float32) / 8
    targets = rng.choice([0, 0, 0, 1, -1], shape).astype(np.int8)
    expected = average_precision(scores, targets)
    order = rng.permutation(len(scores))
    scores, targets = (data.draw(st.sampled_from(LAYOUTS))(values[order]) for values in (scores, targets))
    with limits(data.draw(st.integers(1, 300)), data.draw(st.integers(1, 400)), data.draw(st.integers(1, 3))):
        result = compute(way, scores, targets)
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


def test_a_gpu_is_given_a_few_classes_at_a_time() -> None:
    rng = np.random.default_rng(1)
    scores, targets = rng.integers(0, 9, (40, 7)).astype(np.float32), rng.integers(-1, 2, (40, 7))
    targets[:, 2] = np.where(targets[:, 2] == 0, -1, targets[:, 2])
    for scores_at_once in (1, 40 * 3, 40 * 7):
        with mock.patch.object(MODULE, "_SCORES_AT_ONCE", scores_at_once):
            assert_agrees("device", scores, targets)


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool],
)
@pytest.mark.parametrize("way", WAYS)
def test_every_real_dtype(way: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    scores = torch.randint(0, 100, (60, 4), generator=generator).to(dtype)
    targets = torch.randint(0, 2, (60, 4), generator=generator)
    expected = reference(scores.double().numpy(), targets.numpy())
    np.testing.assert_allclose(compute(way, scores, targets).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", ">f8", "<i2", "<u2", ">i4", "<u4", ">i8", "<u8"])
@pytest.mark.parametrize("way", ["compiled", "sorting"])
def test_every_real_dtype_of_numpy(way: str, dtype: str) -> None:
    rng = np.random.default_rng(2)
    scores, targets = rng.integers(0, 100, (60, 4)).astype(dtype), rng.integers(0, 2, (60, 4))
    assert_agrees(way, scores, targets)
    assert_agrees(way, scores, targets.astype(dtype))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randint(0, 500, (3000, 70), generator=generator).float()
    targets = torch.randint(-1, 2, (3000, 70), generator=generator)
    result = average_precision(scores.cuda(), targets)
    assert result.is_cuda
    torch.testing.assert_close(result.cpu(), average_precision(scores, targets), rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("way", WAYS)
def test_scores_are_compared_in_their_own_precision(way: str) -> None:
    targets = np.array([[1], [0]])
    apart = np.array([[1.0 + 1e-12], [1.0]])
    assert compute(way, apart, targets).item() == 1.0
    assert compute(way, apart.astype(np.float32), targets).item() == 0.5
    large = np.array([[2**60 + 1], [2**60]])
    assert compute(way, large, targets).item() == 1.0
    assert average_precision(large.astype(np.uint64) + 2**63, targets).item() == 1.0


@pytest.mark.parametrize("way", WAYS)
def test_the_two_zeros_are_equal(way: str) -> None:
    scores = np.array([[0.0], [-0.0], [0.0], [-0.0]], np.float32)
    assert compute(way, scores, np.array([[1], [1], [0], [0]])).item() == 0.5
    halves = torch.from_numpy(scores).bfloat16()
    assert compute(way, halves, halves + torch.tensor([[1.0], [1.0], [0.0], [-0.0]])).item() == 0.5


@pytest.mark.parametrize("extreme", [-np.inf, np.inf, np.iinfo(np.int16).min, np.iinfo(np.int16).max])
@pytest.mark.parametrize("way", WAYS)
def test_extreme_scores_tie_only_with_known_labels(way: str, extreme: float) -> None:
    """Three known labels tie, one positive: AP 1/3. The unknown label does not count."""
    scores = np.full((4, 1), extreme).astype(np.float32 if np.isinf(extreme) else np.int16)
    assert compute(way, scores, np.array([[1], [0], [-1], [0]])).item() == pytest.approx(1 / 3, abs=1e-15)


@pytest.mark.parametrize("target_dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("way", WAYS)
def test_every_target_dtype(way: str, target_dtype: torch.dtype) -> None:
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6]])
    targets = torch.tensor([[0], [1], [0], [1]]).to(target_dtype)
    assert compute(way, scores, targets).item() == 0.5


@pytest.mark.parametrize(
    "targets", [[[1], [1], [1]], [[1], [-1], [1]], [[-1], [1], [-1]], [[0], [-1], [0]], [[-1]] * 3]
)
@pytest.mark.parametrize("way", WAYS)
def test_known_labels_of_one_kind_have_no_average_precision(way: str, targets: list[list[int]]) -> None:
    """Beside classes with both kinds, which keep theirs: all scores would rank the others without a mistake."""
    scores = np.array([[0.1, 0.1, 0.1], [0.9, 0.9, 0.9], [0.5, 0.5, 0.5]])
    both = np.array([[1], [0], [0]])
    result = compute(way, scores, np.concatenate([both, np.array(targets), 1 - both], axis=1))
    assert result[[0, 2]].tolist() == [pytest.approx(1 / 3), 1.0]
    assert result[1].isnan()


@pytest.mark.parametrize("way", WAYS)
def test_nan_targets_are_unknown(way: str) -> None:
    scores = np.array([[3.0], [2.0], [1.0]])
    assert compute(way, scores, np.array([[np.nan], [1.0], [0.0]])).item() == 1.0


def to_torch_csr(targets: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(targets).to_sparse_csr()


def to_csr_with_stored_zeros(targets: np.ndarray) -> sparse.csr_array:
    rows, columns = (places.ravel() for places in np.indices(targets.shape))
    return sparse.coo_array((targets.ravel(), (rows, columns)), targets.shape).tocsr()


def to_csr_with_repeated_entries(targets: np.ndarray) -> sparse.csr_array:
    """Each entry stored as a 2 and the rest, which add up to it."""
    values = np.stack([np.full(targets.size, 2), targets.ravel() - 2], axis=1).ravel()
    columns = np.tile(np.repeat(np.arange(targets.shape[1]), 2), targets.shape[0])
    starts = np.arange(targets.shape[0] + 1) * 2 * targets.shape[1]
    return sparse.csr_array((values, columns, starts), targets.shape)


@given(st.data())
@settings(max_examples=30, deadline=None)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize(
    "to_sparse",
    [to_torch_csr, sparse.csr_array, sparse.coo_matrix, to_csr_with_stored_zeros, to_csr_with_repeated_entries],
)
@pytest.mark.parametrize("way", ["compiled", "small", "device"])
def test_sparse_targets_are_those_that_they_stand_for(way: str, to_sparse: Any, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    scores = data.draw(hnp.arrays(np.float32, shape, elements=TIED))
    targets = data.draw(hnp.arrays(np.int8, shape, elements=LABELS, fill=st.just(0)))
    with limits(data.draw(st.integers(1, 300)), data.draw(st.integers(1, 400)), data.draw(st.integers(1, 2))):
        result = compute(way, scores, to_sparse(targets))
    np.testing.assert_allclose(result.numpy(), reference(scores, targets), rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", ["compiled", "small", "device"])
def test_a_hundred_thousand_sparse_classes(way: str) -> None:
    rng = np.random.default_rng(4)
    scores = rng.standard_normal((20, 100_000), dtype=np.float32)
    rows, columns = rng.integers(0, 20, 100), np.sort(rng.choice(100_000, 100, replace=False))
    targets = sparse.coo_array((np.ones(100, np.int8), (rows, columns)), scores.shape)
    result = compute(way, scores, targets).numpy()
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(result)), columns)
    rank = (scores[:, columns] >= scores[rows, columns]).sum(axis=0)
    np.testing.assert_allclose(result[columns], 1 / rank, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("order", "positive_rate"), [("C", 0.02), ("F", 0.02), ("C", 0.5)])
def test_mapped_files_are_read_in_little_memory(tmp_path: Path, order: str, positive_rate: float) -> None:
    shape = (8000, 1000)
    rng = np.random.default_rng(5)
    targets = rng.random(shape, dtype=np.float32) < positive_rate
    scores = rng.standard_normal(shape, dtype=np.float32)
    for name, values, dtype in (("scores", scores, np.float32), ("targets", targets, np.int64)):
        mapped = np.memmap(tmp_path / name, dtype, "w+", shape=shape, order=order)
        mapped[:] = values
        mapped.flush()
    expected = average_precision(torch.from_numpy(scores), torch.from_numpy(targets))
    del scores, targets, mapped, values
    mapped = [
        np.memmap(tmp_path / name, dtype, "r", shape=shape, order=order)
        for name, dtype in (("scores", np.float32), ("targets", np.int64))
    ]
    # A block of 16,384 scores, and the scores and counts of 87,381 positives: 100 MB of files do not fit in there.
    with limits(1 << 14, 1 << 20, threads=2, positives=1 << 12):
        tracemalloc.start()
        try:
            result = average_precision(*mapped)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)
    assert peak < 6 << 20


def test_the_small_cases() -> None:
    assert average_precision(np.zeros((0, 3)), np.zeros((0, 3))).isnan().all()
    assert average_precision(np.zeros((3, 0)), np.zeros((3, 0))).shape == (0,)
    one_row = average_precision(np.array([[0.1, 0.2, 0.3]]), np.array([[1, 0, -1]]))
    assert one_row.isnan().all()
    all_tied = average_precision(np.zeros((10, 1)), np.arange(10)[:, None] < 3)
    assert all_tied.item() == pytest.approx(0.3, abs=1e-15)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_order_of_samples_and_increasing_maps_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, targets = rng.integers(-4, 5, (25, 3)).astype(np.float64), rng.integers(-1, 2, (25, 3))
    order = rng.permutation(25)
    expected = average_precision(scores, targets)
    for same in (average_precision(scores[order], targets[order]), average_precision(np.exp(scores) - 7, targets)):
        torch.testing.assert_close(same, expected, rtol=0, atol=0, equal_nan=True)


def test_inputs_keep_their_values_and_graph() -> None:
    scores = torch.tensor([[0.2], [0.1]], requires_grad=True)
    targets = np.array([[1.0], [np.nan]])
    targets.flags.writeable = False
    assert not average_precision(scores * 2, targets).requires_grad
    assert scores.tolist() == [[pytest.approx(0.2)], [pytest.approx(0.1)]]
    assert np.isnan(targets[1, 0])


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.array([[0.0, 1.0], [0.0, np.nan]]), np.zeros((2, 2)), "class 1 in row 1 is NaN"),
        (np.zeros((2, 2)), np.array([[0.0, 0.0], [0.5, 0.0]]), "target of class 0 in row 1 is 0.5"),
        (np.zeros((2, 2)), np.array([[0, 2], [0, 0]]), "target of class 1 in row 0 is 2"),
        (np.zeros((2, 2)), np.array([[0, 0], [255, 0]], np.uint8), "target of class 0 in row 1 is 255"),
        (np.zeros((2, 2)), sparse.csr_array([[0, 0], [-2, 0]]), "target of class 0 in row 1 is -2"),
        (np.zeros((2, 2), dtype=np.complex64), np.zeros((2, 2)), "real numbers"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_unusable_inputs_are_refused(way: str, scores: np.ndarray, targets: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute(way, scores, targets)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3)), r"got \(2, 2\) and \(2, 3\)"),
        (np.zeros((2, 2)), np.array([[0, 0], [255, 0]], np.uint8), "target of class 0 in row 1 is 255"),
        (np.zeros((2, 2)), sparse.csr_array((3, 2)), r"got \(2, 2\) and \(3, 2\)"),
        (np.zeros(2), np.zeros(2), r"must both be \(N, K\)"),
        (np.zeros((2, 2), dtype=np.longdouble), np.zeros((2, 2)), "real numbers, got "),
    ],
)
def test_what_has_another_form_is_refused(scores: np.ndarray, targets: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average_precision(scores, targets)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_unusable_is_named_wherever_it_is(way: str) -> None:
    scores, targets = np.zeros((60, 50)), np.zeros((60, 50))
    scores[41, 33], targets[52, 44] = np.nan, 3
    with limits(70, 100, threads=2), mock.patch.object(MODULE, "_SCORES_AT_ONCE", 200):
        with pytest.raises(ValueError, match="the score of class 33 in row 41 is NaN"):
            compute(way, scores, np.zeros((60, 50)))
        with pytest.raises(ValueError, match="the target of class 44 in row 52 is 3"):
            compute(way, np.zeros((60, 50)), targets)


def test_many_scores_are_counted_by_compiled_code_where_numba_is() -> None:
    assert MODULE._fastest_count() is count_by_placing
    with without_numba():
        assert MODULE._fastest_count() is MODULE._count_by_sorting


def test_the_functions_need_torch_and_numpy_only() -> None:
    program = (
        "import sys\nfor name in ('torchmetrics', 'jaxtyping', 'numba'): sys.modules[name] = None\n"
        "import tailwise.metrics as m, numpy as np\n"
        "assert m.average_precision(np.eye(2), np.eye(2)).tolist() == [1, 1]\n"
        "assert (m.average_precision(np.eye(1100), np.eye(1100)) == 1).all()\n"
        "assert not {'sklearn', 'scipy', 'lightning'} & set(sys.modules)\n"
        "try:\n    m.MultilabelAP\nexcept ImportError as error:\n    assert 'tailwise[train]' in str(error), error\n"
        "else:\n    raise AssertionError('no error')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)})
