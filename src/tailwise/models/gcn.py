"""The graph head: classifiers from label embeddings, by a graph convolution over classes that occur together.

Chen et al., "Multi-Label Image Recognition with Graph Convolutional Networks" (ML-GCN), CVPR 2019.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailwise.labels import LabelStats
from tailwise.matrix import Targets
from tailwise.models.embeddings import label_embeddings
from tailwise.models.model_config import ModelConfig
from tailwise.shapes import Float

_NEGATIVE_SLOPE = 0.2
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LabelGraph:
    """The graph of a graph head, over its K classes.

    Attributes:
        adjacency: (K, K) normalised edges, from :func:`label_adjacency`.
        embeddings: (K, E) vectors of the class names, from :func:`~tailwise.models.embeddings.label_embeddings`.
    """

    adjacency: Float[Tensor, "K K"]
    embeddings: Float[Tensor, "K E"]


def create_graph(
    config: ModelConfig, targets: Targets, class_names: Sequence[str], *, seed: int = 0
) -> LabelGraph | None:
    """Make the graph of a configuration's head from training labels; None where the head has no graph.

    Args:
        config: ``head``, the ``label_`` options, ``graph_threshold`` and ``graph_reweight`` are used.
        targets: (N, K) training labels, dense or sparse: 1, 0, or -1 for unknown.
        class_names: K names.
        seed: of random label embeddings.

    Raises:
        InputError: as :func:`~tailwise.models.embeddings.label_embeddings`.
    """
    if config.head != "gcn":
        return None
    adjacency = label_adjacency(targets, threshold=config.graph_threshold, reweight=config.graph_reweight)
    linked = int((adjacency > 0).sum()) - len(adjacency)
    _logger.info("label graph: %d classes, %d edges at threshold %g", len(adjacency), linked, config.graph_threshold)
    return LabelGraph(adjacency, label_embeddings(config, class_names, seed=seed))


def blank_graph(config: ModelConfig, num_classes: int) -> LabelGraph | None:
    """A graph of zeros, for a head whose state is loaded afterwards; None where the head has no graph."""
    if config.head != "gcn":
        return None
    return LabelGraph(torch.zeros(num_classes, num_classes), torch.zeros(num_classes, config.label_width))


def label_adjacency(targets: Targets, *, threshold: float, reweight: float) -> Float[Tensor, "K K"]:
    r"""Edges between classes that occur together, normalised for a graph convolution.

    With :math:`P_{ij} = M_{ij} / n_i`, the share of the images of class i that have class j too,

    .. math::
        B_{ij} = [P_{ij} \ge t, \; i \ne j] \qquad
        A = I + p \, B_{ij} / \textstyle\sum_l B_{il} \qquad
        \hat A_{ij} = A_{ij} / \sqrt{d_i d_j}, \; d_i = \textstyle\sum_j A_{ij}

    (eq. 7 and 8 of the paper). The paper gives edges the weight p' and a class itself 1 - p'; that is this A with
    p = p' / (1 - p') but for a factor, which the normalisation takes out: its p' = .2 is p = .25 here.

    Args:
        targets: (N, K) training labels, dense or sparse. An unknown label (-1) counts as no positive one.
        threshold: t in (0, 1].
        reweight: p, at least 0; 0 leaves the identity.

    Returns:
        (K, K) float32. A class without positives, or that meets no other often enough, is linked to itself only.
    """
    pairs = LabelStats.from_targets(targets, cooccurrence=True).cooccurrence
    assert pairs is not None
    counts = np.diagonal(pairs)[:, None]
    edges = pairs / np.maximum(counts, 1) >= threshold
    np.fill_diagonal(edges, False)
    weights = np.eye(len(edges)) + reweight * edges / np.maximum(edges.sum(axis=1, keepdims=True), 1)
    degrees = weights.sum(axis=1)
    return torch.from_numpy(weights / np.sqrt(np.outer(degrees, degrees))).float()


class GraphConvolution(nn.Module):
    r"""One layer :math:`\hat A H W` (Kipf and Welling, ICLR 2017).

    Args:
        in_width: features of a class before.
        out_width: features of a class after.
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_width, out_width))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, adjacency: Float[Tensor, "K K"], nodes: Float[Tensor, "K I"]) -> Float[Tensor, "K O"]:
        """Return the (K, O) features of K classes."""
        return adjacency @ (nodes @ self.weight)


class GraphHead(nn.Module):
    r"""Pooled features to logits by generated classifiers.

    With label embeddings Z and the adjacency :math:`\hat A`, the classifiers are
    :math:`C = \hat A \, \mathrm{LeakyReLU}_{.2}(\hat A Z W_1) \, W_2` and the logits of features x are
    :math:`C \, \mathrm{neck}(x)`, without a bias.

    Args:
        neck: (B, F) to (B, D).
        graph: adjacency and embeddings; they are part of the head's state, and are not trained.
        hidden: features of a class between the two layers.
        width: D.
    """

    adjacency: Tensor
    embeddings: Tensor

    def __init__(self, neck: nn.Module, graph: LabelGraph, hidden: int, width: int) -> None:
        super().__init__()
        self.neck = neck
        self.register_buffer("adjacency", graph.adjacency)
        self.register_buffer("embeddings", graph.embeddings)
        self.first = GraphConvolution(graph.embeddings.shape[1], hidden)
        self.second = GraphConvolution(hidden, width)

    def classifiers(self) -> Float[Tensor, "K D"]:
        """Return the weights of each class."""
        hidden = functional.leaky_relu(self.first(self.adjacency, self.embeddings), _NEGATIVE_SLOPE)
        generated: Tensor = self.second(self.adjacency, hidden)
        return generated

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return the (B, K) logits of (B, F) pooled features."""
        logits: Tensor = self.neck(features) @ self.classifiers().T
        return logits
