"""The graph head against the paper's formulas, written out with loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import nn

from tailwise.models.gcn import GraphHead, LabelGraph, blank_graph, create_graph, label_adjacency
from tailwise.models.heads import create_classifier, create_head
from tailwise.models.model_config import ModelConfig

GCN = ModelConfig(backbone="test_resnet", pretrained=False, head="gcn", label_width=12, graph_hidden=5)


def make_targets(num_rows: int = 200, num_classes: int = 9) -> np.ndarray:
    """Classes that pull each other along, one without positives, one that is always there, one label in ten unknown."""
    generator = np.random.default_rng(0)
    common = generator.random((num_rows, 3)) < 0.3
    targets = (generator.random((num_rows, num_classes)) < 0.15 + 0.4 * common[:, np.arange(num_classes) % 3]).astype(
        np.int8
    )
    targets[generator.random(targets.shape) < 0.1] = -1
    targets[:, 3] = np.where(targets[:, 3] == 1, 0, targets[:, 3])
    targets[:, 4] = 1
    return targets


def naive_adjacency(targets: np.ndarray, threshold: float, reweight: float) -> np.ndarray:
    num_classes = targets.shape[1]
    rows = [{k for k in range(num_classes) if row[k] == 1} for row in targets]
    weights = np.zeros((num_classes, num_classes))
    for i in range(num_classes):
        having = [row for row in rows if i in row]
        tied = [
            j
            for j in range(num_classes)
            if j != i and having and sum(j in row for row in having) / len(having) >= threshold
        ]
        weights[i, i] = 1
        for j in tied:
            weights[i, j] = reweight / len(tied)
    normalised = np.zeros_like(weights)
    for i in range(num_classes):
        for j in range(num_classes):
            normalised[i, j] = weights[i, j] / math.sqrt(weights[i].sum() * weights[j].sum())
    return normalised


@pytest.mark.parametrize("convert", [np.asarray, csr_array])
@pytest.mark.parametrize(("threshold", "reweight"), [(0.4, 0.25), (0.2, 1.5), (1.0, 0.25), (0.3, 0.0)])
def test_adjacency_is_the_paper_s(convert: Callable, threshold: float, reweight: float) -> None:
    targets = make_targets()
    expected = naive_adjacency(targets, threshold, reweight)
    found = label_adjacency(convert(targets), threshold=threshold, reweight=reweight)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    tied = (expected > 0).sum() - len(expected)
    assert tied == 0 if reweight == 0 else tied > 0
    # The class without positives is tied to itself only.
    np.testing.assert_array_equal(expected[3], np.eye(9)[3])


def test_threshold_is_reached_by_an_equal_share() -> None:
    targets = np.zeros((10, 2), dtype=np.int8)
    targets[:, 0] = 1
    targets[:7, 1] = 1
    ties = [label_adjacency(targets, threshold=value, reweight=0.5)[0, 1] > 0 for value in (0.7, 0.71)]
    assert ties == [True, False]


def test_published_weights_of_ties_give_the_same_adjacency() -> None:
    # The paper has p' = .2 for all ties of a class, and 1 - p' for the class itself.
    targets = make_targets()
    ties = label_adjacency(targets, threshold=0.4, reweight=1.0).numpy() > 0
    np.fill_diagonal(ties, False)
    weights = 0.2 * ties / np.maximum(ties.sum(1, keepdims=True), 1) + 0.8 * np.eye(len(ties))
    degrees = weights.sum(1)
    np.testing.assert_allclose(
        label_adjacency(targets, threshold=0.4, reweight=0.25),
        weights / np.sqrt(degrees[:, None] * degrees),
        rtol=1e-6,
    )


def make_head(neck: nn.Module | None = None, width: int = 7) -> GraphHead:
    graph = create_graph(GCN, make_targets(), [f"class {index}" for index in range(9)], seed=1)
    assert graph is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GraphHead(neck or nn.Identity(), graph, GCN.graph_hidden, width).double()


def test_logits_are_features_times_classifiers_of_two_layers() -> None:
    head = make_head()
    adjacency, z = head.adjacency.numpy(), head.embeddings.numpy()
    w1, w2 = head.first.weight.detach().numpy(), head.second.weight.detach().numpy()
    x = np.random.default_rng(1).normal(size=(4, 7))

    def layer(nodes: np.ndarray, weight: np.ndarray) -> np.ndarray:
        out = np.zeros((len(nodes), weight.shape[1]))
        for i in range(len(nodes)):
            for j in range(len(nodes)):
                for o in range(weight.shape[1]):
                    out[i, o] += adjacency[i, j] * sum(nodes[j, k] * weight[k, o] for k in range(len(weight)))
        return out

    hidden = layer(z, w1)
    classifiers = layer(np.where(hidden > 0, hidden, 0.2 * hidden), w2)
    np.testing.assert_allclose(head.classifiers().detach(), classifiers, atol=1e-12)
    expected = [[sum(features * row) for row in classifiers] for features in x]
    np.testing.assert_allclose(head(torch.from_numpy(x)).detach(), expected, atol=1e-12)


def test_gradients_are_those_of_the_formula() -> None:
    head = make_head()
    x = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def logits(features: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(head, {"first.weight": first, "second.weight": second}, features)

    assert torch.autograd.gradcheck(logits, (x, head.first.weight, head.second.weight))


def test_what_is_trained_and_what_is_state() -> None:
    head = make_head()
    assert [name for name, _ in head.named_parameters()] == ["first.weight", "second.weight"]
    assert head.state_dict().keys() == {"adjacency", "embeddings", "first.weight", "second.weight"}


@pytest.mark.parametrize("neck", [None, "none", "recipe"])
def test_state_alone_restores_the_head(neck: str | None) -> None:
    config = ModelConfig(**{**vars(GCN), "neck": neck})
    graph = create_graph(config, make_targets(), [f"class {index}" for index in range(9)], seed=1)
    head = create_head(96, 9, config, seed=3, graph=graph).eval()
    assert isinstance(head.neck, nn.Sequential if neck == "recipe" else nn.Identity)
    again = create_head(96, 9, config, graph=blank_graph(config, 9)).eval()
    again.load_state_dict(head.state_dict())
    x = torch.randn(4, 96, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(x), head(x))
    assert head(x).abs().min() > 0


def test_weights_start_as_glorot_has_it_and_by_the_seed_alone() -> None:
    config = ModelConfig(head="gcn")
    graph = LabelGraph(torch.eye(18), torch.zeros(18, 300))
    first, again, other = (create_head(1280, 18, config, seed=seed, graph=graph).state_dict() for seed in (5, 5, 6))
    for name, fans in (("first.weight", 300 + 256), ("second.weight", 256 + 1280)):
        assert first[name].abs().max().item() == pytest.approx(math.sqrt(6 / fans), rel=0.01)
        assert first[name].std().item() == pytest.approx(math.sqrt(2 / fans), rel=0.01)
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_classifier_has_the_head_of_its_configuration() -> None:
    graph = create_graph(GCN, make_targets(), [f"class {index}" for index in range(9)], seed=5)
    model = create_classifier(GCN, 9, seed=5, graph=graph).eval()
    alone = create_head(96, 9, GCN, seed=5, graph=graph).state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in model.head.state_dict().items())
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images), model.features(images) @ model.head.classifiers().T)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), model(images), rtol=0.05, atol=0.05)


def test_a_linear_head_needs_no_graph_and_a_graph_head_does() -> None:
    assert create_graph(ModelConfig(), make_targets(), ["a"] * 9) is None
    assert blank_graph(ModelConfig(), 9) is None
    with pytest.raises(ValueError, match="needs a graph"):
        create_head(96, 9, GCN)
