"""Solved heads: against scikit-learn, and by the gradient that autograd finds at the solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from torch import Tensor, nn

from tailwise import LabelStats, losses
from tailwise.errors import InputError
from tailwise.models.ridge import Ridge
from tailwise.models.solver import Design, Head, Problem, solve_in_chunks

ROWS, WIDTH, CLASSES = 120, 9, 5
ALPHA = 0.7


@pytest.fixture(scope="module")
def features() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    # Directions of very different variance, and a mean that is not 0.
    return torch.randn(ROWS, WIDTH, generator=generator) * torch.logspace(0, -1.5, WIDTH) + 0.3


@pytest.fixture(scope="module")
def targets(features: Tensor) -> NDArray[np.int8]:
    generator = np.random.default_rng(1)
    directions = generator.normal(size=(WIDTH, CLASSES)) * 2
    noise = generator.logistic(size=(ROWS, CLASSES))
    return (features.numpy() @ directions + noise > np.array([0, 1, 2, 3, 4])).astype(np.int8)


def solved(
    features: Tensor,
    targets: NDArray[np.number],
    loss: nn.Module,
    alpha: float = ALPHA,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Head]:
    """Weight and bias for the features themselves."""
    design = Design.of(features)
    head = Problem(design.rows.float(), torch.from_numpy(targets), loss, weights).solve(alpha)
    assert head.converged
    return *design.linear(head), head


def create(name: str, targets: NDArray[np.number], **options: object) -> losses.Loss:
    hard = np.where(targets >= 0.5, 1, np.where(targets < 0, -1, 0)).astype(np.int8)
    return losses.create(name, LabelStats.from_targets(hard, thresholds=(12, 40)), reduction="none", **options)


def logistic(features: NDArray[np.floating], labels: NDArray[np.number], weights: NDArray[np.floating] | None = None):
    model = LogisticRegression(C=1 / ALPHA, tol=1e-10, max_iter=10_000)
    return model.fit(features, labels, sample_weight=weights)


def test_bce_is_the_logistic_regression_of_scikit_learn(features: Tensor, targets: NDArray[np.int8]) -> None:
    weight, bias, _ = solved(features, targets, create("bce", targets))
    for k in range(CLASSES):
        expected = logistic(features.numpy(), targets[:, k])
        np.testing.assert_allclose(weight[k], expected.coef_[0], atol=5e-3)
        np.testing.assert_allclose(bias[k], expected.intercept_[0], atol=5e-3)


def test_image_weights_are_sample_weights(features: Tensor, targets: NDArray[np.int8]) -> None:
    weights = np.random.default_rng(3).uniform(0, 3, ROWS).astype(np.float32)
    weight, bias, _ = solved(features, targets, create("bce", targets), weights=torch.from_numpy(weights))
    expected = logistic(features.numpy(), targets[:, 2], weights)
    np.testing.assert_allclose(weight[2], expected.coef_[0], atol=5e-3)
    np.testing.assert_allclose(bias[2], expected.intercept_[0], atol=5e-3)


@pytest.mark.parametrize("unknown", [-1, np.nan])
def test_unknown_labels_are_as_rows_left_out(features: Tensor, targets: NDArray[np.int8], unknown: float) -> None:
    is_unknown = np.random.default_rng(4).random(targets.shape) < 0.3
    given = targets.astype(np.int8 if unknown == -1 else np.float32)
    given[is_unknown] = unknown
    weight, _, _ = solved(features, given, create("bce", np.where(is_unknown, -1, targets)))
    for k in range(CLASSES):
        kept = ~is_unknown[:, k]
        expected = logistic(features.numpy()[kept], targets[kept, k])
        np.testing.assert_allclose(weight[k], expected.coef_[0], atol=5e-3)


def test_a_soft_label_is_a_positive_and_a_negative_of_less_weight(features: Tensor, targets: NDArray[np.int8]) -> None:
    soft = np.where(targets == 1, 0.8, 0.1).astype(np.float32)
    weight, _, _ = solved(features, soft, create("bce", soft))
    rows = np.concatenate([features.numpy()] * 2)
    for k in range(CLASSES):
        labels = np.repeat([1, 0], ROWS)
        expected = logistic(rows, labels, np.concatenate([soft[:, k], 1 - soft[:, k]]))
        np.testing.assert_allclose(weight[k], expected.coef_[0], atol=5e-3)


@pytest.mark.parametrize("name", [name for name in losses.available() if name not in ("formula", "splc")])
def test_the_gradient_of_every_loss_vanishes(name: str, features: Tensor, targets: NDArray[np.int8]) -> None:
    """On all rows at once, adaptive factors are those of the solution; autograd takes them for constants."""
    loss = create(name, targets) if name != "two-way" else losses.create(name, LabelStats.from_targets(targets))
    alpha = 20.0 if name in ("pg", "apaf") else ALPHA
    weight, bias, _ = solved(features, targets, loss, alpha)
    layer = nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    value = loss.eval()(layer(features), torch.from_numpy(targets)).sum() * (ROWS if name == "two-way" else 1)
    value.backward()
    at_zero = losses_at_zero(loss, features, targets, ROWS if name == "two-way" else 1)
    assert float((layer.weight.grad + alpha * weight).abs().max()) < 0.01 * at_zero
    assert float(layer.bias.grad.abs().max()) < 0.01 * at_zero


def losses_at_zero(loss: losses.Loss, features: Tensor, targets: NDArray[np.int8], factor: int) -> float:
    """The largest derivative by a weight where all are 0: the scale of the gradient."""
    layer = nn.Linear(WIDTH, CLASSES)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    (loss(layer(features), torch.from_numpy(targets)).sum() * factor).backward()
    return float(layer.weight.grad.abs().max())


def test_a_loss_of_ones_own_is_solved_by_its_mean(features: Tensor, targets: NDArray[np.int8]) -> None:
    class Own(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())

    weight, _, _ = solved(features, targets, Own(), alpha=ALPHA / CLASSES)  # the mean is over the classes too
    expected, _, _ = solved(features, targets, create("bce", targets))
    torch.testing.assert_close(weight, expected, atol=1e-2, rtol=1e-2)
    with pytest.raises(InputError, match=r"Own has no loss of each image.*--sampler uniform"):
        Problem(features, torch.from_numpy(targets), Own(), torch.arange(ROWS) + 1.0)


def test_classes_of_one_kind_have_the_log_odds_of_their_labels(features: Tensor, targets: NDArray[np.int8]) -> None:
    one_sided = targets.copy()
    one_sided[:, 1], one_sided[:, 3] = 0, 1
    weight, bias, _ = solved(features, one_sided, create("bce", one_sided))
    expected, _, _ = solved(features, targets, create("bce", targets))
    assert not weight[[1, 3]].any()
    assert float(bias[1]) == pytest.approx(np.log(0.5 / (ROWS + 0.5)))
    assert float(bias[3]) == pytest.approx(np.log((ROWS + 0.5) / 0.5))
    torch.testing.assert_close(weight[[0, 2, 4]], expected[[0, 2, 4]], atol=5e-3, rtol=5e-3)


def test_the_same_bits_every_time_and_the_same_head_from_any_start(features: Tensor, targets: NDArray[np.int8]) -> None:
    design, labels = Design.of(features), torch.from_numpy(targets)
    rows = design.rows.float()
    first, second = (Problem(rows, labels, create("asl", targets)).solve(ALPHA) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    problem = Problem(rows, labels, create("asl", targets))
    later = problem.solve(ALPHA, problem.solve(100 * ALPHA))
    torch.testing.assert_close(later.weight, first.weight, atol=2e-2, rtol=2e-2)


def gram(features: Tensor) -> Tensor:
    centered = features.double() - features.double().mean(0)
    return centered @ centered.T


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(1, 40), st.integers(0, 10**6))
def test_axes_keep_products_and_scores(rows: int, width: int, seed: int) -> None:
    features = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    design = Design.of(features)
    assert design.rows.shape[1] <= min(rows, width)
    torch.testing.assert_close(design.rows @ design.rows.T, gram(features), atol=1e-9, rtol=0)
    head = Head(torch.randn(design.rows.shape[1], 3).double(), torch.randn(3).double())
    weight, bias = design.linear(head)
    torch.testing.assert_close(features @ weight.T + bias, head.logits(design.rows).float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_ridge_is_that_of_scikit_learn(targets: NDArray[np.int8], weighted: bool, wide: bool) -> None:
    features = torch.randn(ROWS, 200 if wide else 8, generator=torch.Generator().manual_seed(5)).double()
    weights = np.random.default_rng(3).uniform(0.1, 3, ROWS) if weighted else None
    design = Design.of(features)
    ridge = Ridge(design.rows, torch.from_numpy(targets), None if weights is None else torch.from_numpy(weights))
    weight, bias = design.linear(ridge.solve(ALPHA))
    expected = SklearnRidge(alpha=ALPHA).fit(features.numpy(), 2.0 * targets - 1, sample_weight=weights)
    np.testing.assert_allclose(weight, expected.coef_, atol=1e-5)
    np.testing.assert_allclose(bias, expected.intercept_, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_of_rows_left_out_are_those_of_heads_without_them(targets: NDArray[np.int8], weighted: bool) -> None:
    features = torch.randn(25, 40, generator=torch.Generator().manual_seed(6)).double()
    labels = torch.from_numpy(targets[:25]).clone()
    labels[3, 1] = labels[7, 1] = labels[7, 2] = -1
    weights = torch.from_numpy(np.random.default_rng(3).uniform(0.1, 3, 25)) if weighted else None
    found = Ridge(Design.of(features).rows, labels, weights).left_out(ALPHA)
    for row in range(25):
        kept = torch.arange(25) != row
        design = Design.of(features[kept])
        weight, bias = design.linear(
            Ridge(design.rows, labels[kept], None if weights is None else weights[kept]).solve(ALPHA)
        )
        torch.testing.assert_close(found[row].float(), features[row].float() @ weight.T + bias, atol=1e-4, rtol=1e-4)


def test_ridge_leaves_unknown_labels_out(targets: NDArray[np.int8]) -> None:
    features = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(5)).double()
    unknown = np.random.default_rng(4).random(targets.shape) < 0.3
    design = Design.of(features)
    ridge = Ridge(design.rows, torch.from_numpy(np.where(unknown, -1, targets).astype(np.int8)))
    weight, _ = design.linear(ridge.solve(ALPHA))
    for k in range(CLASSES):
        kept = ~unknown[:, k]
        expected = SklearnRidge(alpha=ALPHA).fit(features.numpy()[kept], 2.0 * targets[kept, k] - 1)
        np.testing.assert_allclose(weight[k], expected.coef_, atol=1e-5)


@pytest.mark.parametrize("name", ["bce", "db-focal", "rw", "pg", "asl"])
def test_chunks_of_classes_have_the_heads_of_all(name: str, features: Tensor, targets: NDArray[np.int8]) -> None:
    alpha = 20.0 if name == "pg" else ALPHA
    weight, bias, _ = solved(features, targets, create(name, targets), alpha)
    labels = torch.from_numpy(targets).to_sparse_csr()
    found = solve_in_chunks(Design.of(features), labels, create(name, targets), alpha, size=2)
    scale = float(weight.abs().max())
    torch.testing.assert_close(found, (weight, bias), atol=0.01 * scale, rtol=0)


def test_factors_of_all_classes_cannot_be_solved_in_chunks(features: Tensor, targets: NDArray[np.int8]) -> None:
    labels = torch.from_numpy(targets)
    with pytest.raises(InputError, match="pg-auto depend on all classes"):
        solve_in_chunks(Design.of(features), labels, create("pg-auto", targets), ALPHA)
