"""Average precision against scikit-learn, class by class."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score

from tailwise.metrics import average_precision

# The module: its name in the package is the function.
implementation = importlib.import_module("tailwise.metrics.average_precision")

# 0 and 1 labels with a few unknown ones, and scores with many ties.
LABELS = st.sampled_from([0, 0, 0, 1, 1, -1])
TIED = st.integers(-3, 3).map(float)
SHAPES = st.tuples(st.integers(0, 30), st.integers(1, 6))


def reference(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """scikit-learn on the known labels of each class; NaN without a positive."""
    result = np.full(scores.shape[1], np.nan)
    for k in range(scores.shape[1]):
        known = np.isin(targets[:, k], (0, 1))
        if (targets[known, k] == 1).any():
            # scikit-learn refuses infinite scores; average precision depends on their ranks alone.
            ranks = np.unique(scores[known, k], return_inverse=True)[1]
            result[k] = average_precision_score(targets[known, k], ranks)
    return result


def assert_agrees(scores: np.ndarray, targets: np.ndarray) -> None:
    ours = average_precision(scores, targets)
    assert ours.dtype == torch.float64
    np.testing.assert_allclose(ours.numpy(), reference(scores, targets), rtol=0, atol=1e-12)


@given(st.data())
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize(
    "values", [TIED, st.floats(width=32, allow_nan=False), st.sampled_from([-np.inf, 0.0, np.inf])]
)
def test_equals_scikit_learn(values: st.SearchStrategy[float], data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    scores = data.draw(hnp.arrays(np.float32, shape, elements=values))
    targets = data.draw(hnp.arrays(np.int8, shape, elements=LABELS))
    assert_agrees(scores, targets)


@pytest.mark.parametrize("positive_rate", [0.002, 0.05, 0.6])
def test_equals_scikit_learn_on_many_samples(positive_rate: float) -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((5000, 18)) < positive_rate).astype(np.int64)
    assert_agrees(rng.normal(size=(5000, 18)) + targets, targets)


def test_chunks_of_classes_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    scores, targets = rng.integers(0, 9, (40, 7)).astype(np.float32), rng.integers(-1, 2, (40, 7))
    whole = average_precision(scores, targets)
    for elements in (1, 40 * 3, 40 * 7):
        monkeypatch.setattr(implementation, "_CHUNK_ELEMENTS", elements)
        # Another chunk pads the sums differently: the last digit may move.
        torch.testing.assert_close(average_precision(scores, targets), whole, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool],
)
def test_every_real_dtype(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    scores = torch.randint(0, 100, (60, 4), generator=generator).to(dtype)
    targets = torch.randint(0, 2, (60, 4), generator=generator)
    expected = reference(scores.double().numpy(), targets.numpy())
    np.testing.assert_allclose(average_precision(scores, targets).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randint(0, 500, (3000, 70), generator=generator).float()
    targets = torch.randint(-1, 2, (3000, 70), generator=generator)
    result = average_precision(scores.cuda(), targets)
    assert result.is_cuda
    torch.testing.assert_close(result.cpu(), average_precision(scores, targets), rtol=0, atol=1e-12, equal_nan=True)


def test_scores_are_compared_in_their_own_precision() -> None:
    targets = np.array([[1], [0]])
    apart = np.array([[1.0 + 1e-12], [1.0]])
    assert average_precision(apart, targets).item() == 1.0
    assert average_precision(apart.astype(np.float32), targets).item() == 0.5
    large = np.array([[2**60 + 1], [2**60]])
    assert average_precision(large, targets).item() == 1.0


@pytest.mark.parametrize("lowest", [-np.inf, np.iinfo(np.int16).min])
def test_the_lowest_score_there_is_ties_only_with_known_labels(lowest: float) -> None:
    """Three known labels tie at the bottom, one positive: AP 1/3. The unknown label does not count."""
    scores = np.full((4, 1), lowest).astype(np.float32 if lowest == -np.inf else np.int16)
    assert average_precision(scores, np.array([[1], [0], [-1], [0]])).item() == pytest.approx(1 / 3, abs=1e-15)


@pytest.mark.parametrize("target_dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_every_target_dtype(target_dtype: torch.dtype) -> None:
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6]])
    targets = torch.tensor([[0], [1], [0], [1]]).to(target_dtype)
    assert average_precision(scores, targets).item() == 0.5


def test_nan_targets_are_unknown() -> None:
    scores = np.array([[3.0], [2.0], [1.0]])
    assert average_precision(scores, np.array([[np.nan], [1.0], [0.0]])).item() == 1.0


def test_the_small_cases() -> None:
    assert average_precision(np.zeros((0, 3)), np.zeros((0, 3))).isnan().all()
    assert average_precision(np.zeros((3, 0)), np.zeros((3, 0))).shape == (0,)
    one_row = average_precision(np.array([[0.1, 0.2, 0.3]]), np.array([[1, 0, -1]]))
    assert one_row[0].item() == 1.0
    assert one_row[1:].isnan().all()
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
        (np.zeros((2, 2)), np.zeros((2, 3)), r"got \(2, 2\) and \(2, 3\)"),
        (np.zeros(2), np.zeros(2), r"must both be \(N, K\)"),
        (np.zeros((2, 2), dtype=np.complex64), np.zeros((2, 2)), "real numbers"),
    ],
)
def test_unusable_inputs_are_refused(scores: np.ndarray, targets: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average_precision(scores, targets)


def test_the_functions_need_torch_and_numpy_only() -> None:
    program = (
        "import sys; sys.modules['torchmetrics'] = None; sys.modules['jaxtyping'] = None\n"
        "import tailwise.metrics as m, numpy as np\n"
        "assert m.average_precision(np.ones((1, 1)), np.ones((1, 1))).item() == 1\n"
        "assert not {'sklearn', 'scipy', 'lightning'} & set(sys.modules)\n"
        "try:\n    m.MultilabelAP\nexcept ImportError as error:\n    assert 'tailwise[train]' in str(error), error\n"
        "else:\n    raise AssertionError('no error')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)})
