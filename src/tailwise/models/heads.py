"""The classifier: a timm backbone, a neck, and one output per class."""

from __future__ import annotations

import os
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from tailwise.errors import InputError
from tailwise.models.backbone import (
    create_backbone,
    feature_width,
    freeze_stages,
    input_statistics,
    locations,
    seeded,
)
from tailwise.models.gcn import GraphHead, LabelGraph
from tailwise.models.model_config import PUBLISHED_FROZEN_STAGES, ModelConfig
from tailwise.models.spatial_heads import AttentionHead, DecoderHead
from tailwise.shapes import Float

TransformName: TypeAlias = Literal["sqrt", "none", "standardize"]
TRANSFORMS: tuple[TransformName, ...] = get_args(TransformName)

# Weights, gradient and momentum, four bytes each.
_BYTES_PER_WEIGHT = 12


class FeatureTransform(nn.Module):
    """Signed powers of features, scaled to unit norm, and then shifted and scaled by dimension.

    Args:
        power: exponent of the absolute values; 1/2 evens out features that a few large values dominate.
        mean: (F,) subtracted from the unit-norm features.
        std: (F,) divisor of the difference.
    """

    power: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, power: float, mean: Float[Tensor, "F"], std: Float[Tensor, "F"]) -> None:
        super().__init__()
        for name, value in (("power", torch.tensor(power)), ("mean", mean), ("std", std)):
            self.register_buffer(name, value)

    @classmethod
    def fit(cls, name: TransformName, features: Float[Tensor, "N F"]) -> FeatureTransform:
        """A transform for training features.

        Args:
            name: ``"none"`` for unit norm alone, ``"sqrt"`` for signed square roots before it, ``"standardize"`` for
                mean 0 and variance 1 of each dimension after it; a dimension that never changes keeps its scale.
            features: of the training rows.
        """
        mean, std = torch.zeros_like(features[0]), torch.ones_like(features[0])
        if name == "standardize":
            std, mean = torch.std_mean(functional.normalize(features.double(), dim=1), dim=0, correction=0)
            mean, std = mean.float(), torch.where(std > 0, std, 1.0).float()
        return cls(0.5 if name == "sqrt" else 1.0, mean, std)

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """Transform a batch of features."""
        features = features.sign() * features.abs() ** self.power
        return (functional.normalize(features, dim=1) - self.mean) / self.std


class Head(nn.Module):
    """Pooled features to logits: ``linear(neck(features))``.

    Args:
        neck: (B, F) to (B, D).
        linear: (B, D) to (B, K); its weight is the other input of a label-chunked loss, with ``neck(features)``.
    """

    def __init__(self, neck: nn.Module, linear: nn.Linear) -> None:
        super().__init__()
        self.neck = neck
        self.linear = linear

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return the (B, K) logits of (B, F) pooled features."""
        logits: Tensor = self.linear(self.neck(features))
        return logits


class Classifier(nn.Module):
    """Images to one logit per class.

    Args:
        backbone: (B, 3, H, W) images to (B, F) pooled features.
        head: (B, F) features to (B, K) logits: a :class:`Head`, a :class:`~tailwise.models.gcn.GraphHead`, or any other
            module.
        is_spatial: whether the head takes the (B, F, L) features of all L locations instead.
        mirrors: whether logits in evaluation mode are means over the image and its mirror image.
        mean: channel means with which images in [0, 1] must be normalised.
        std: channel standard deviations with which they must be normalised.
        running_stats: batch norms of the backbone use running statistics in training too. Those of frozen stages
            always do.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        running_stats: bool = True,
        is_spatial: bool = False,
        mirrors: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.mean = mean
        self.std = std
        self.running_stats = running_stats
        self.is_spatial = is_spatial
        self.mirrors = mirrors
        self.train(self.training)

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F ..."]:
        """Return the features of normalised images that the head takes."""
        found: Tensor = self.backbone(images)
        return locations(self.backbone, found) if self.is_spatial else found

    def classify(self, features: Float[Tensor, "B F ..."]) -> Float[Tensor, "B C"]:
        """Return the logits of features."""
        logits: Tensor = self.head(features)
        return logits

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Return the (B, K) logits of (B, 3, H, W) normalised images."""
        logits = self.classify(self.features(images))
        if self.training or not self.mirrors:
            return logits
        return (logits + self.classify(self.features(images.flip(-1)))) / 2

    def train(self, mode: bool = True) -> Classifier:
        """Set training or evaluation mode, but keep in evaluation the batch norms that use running statistics."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, _BatchNorm) and (self.running_stats or _is_frozen(module)):
                module.eval()
        return self


def create_classifier(
    config: ModelConfig, num_classes: int, *, seed: int = 0, graph: LabelGraph | None = None
) -> Classifier:
    """Make the classifier that a configuration describes: a pure function of its arguments and of the weights.

    Args:
        config: the classifier.
        num_classes: K, at least 1.
        seed: of the random initialisation; the global random state does not change.
        graph: what a graph head needs, from :func:`~tailwise.models.gcn.create_graph`.

    Returns:
        The classifier in training mode, on the CPU, with the frozen stages frozen.

    Raises:
        InputError: as :func:`~tailwise.models.backbone.create_backbone`,
            :func:`~tailwise.models.backbone.freeze_stages`, :func:`~tailwise.models.backbone.input_statistics` and
            :func:`create_head`.
    """
    backbone = create_backbone(config, seed=seed)
    freeze_stages(backbone, PUBLISHED_FROZEN_STAGES if config.frozen_stages is None else config.frozen_stages)
    head = create_head(feature_width(backbone), num_classes, config, seed=seed, graph=graph)
    mean, std = input_statistics(backbone, config)
    return Classifier(
        backbone,
        head,
        mean=mean,
        std=std,
        running_stats=config.running_stats,
        is_spatial=config.is_spatial,
        mirrors=config.tta == "flip",
    )


def create_head(
    num_features: int, num_classes: int, config: ModelConfig, *, seed: int = 0, graph: LabelGraph | None = None
) -> Head | GraphHead | AttentionHead | DecoderHead:
    r"""Make the neck and the output layer, for a classifier or for features that were extracted before.

    The neck ``recipe`` is linear :math:`F \to D`, batch norm and dropout, without a nonlinearity; ``unit`` scales the
    features of each image to the root mean square 1. Weights of the recipe's neck are drawn from
    :math:`\mathcal N(0, 2/D)` (He et al., "Delving Deep into Rectifiers", ICCV 2015, fan-out), those of a linear output
    layer from :math:`\mathcal N(0, 0.01^2)`; biases are 0. Graph convolutions start as Glorot and Bengio (AISTATS 2010)
    describe, uniformly within :math:`\pm\sqrt{6 / (\text{in} + \text{out})}`.

    Args:
        num_features: F.
        num_classes: K, at least 1.
        config: what concerns neck and head is used.
        seed: of the initialisation; the global random state does not change.
        graph: what a graph head needs, from :func:`~tailwise.models.gcn.create_graph`.

    Returns:
        (B, F) features, or (B, F, L) for a head on feature maps, to (B, K) logits.

    Raises:
        InputError: ``num_classes`` is below 1.
        ValueError: a graph head is to be made without a graph.
    """
    if num_classes < 1:
        raise InputError(f"a classifier needs at least one class, got {num_classes}")
    with seeded(seed):
        if config.head == "csra":
            return AttentionHead(num_features, num_classes, heads=config.csra_heads, attention=config.csra_weight)
        if config.head == "ml-decoder":
            return DecoderHead(num_features, num_classes)
        neck, width = _create_neck(num_features, config)
        if config.head == "gcn":
            if graph is None:
                raise ValueError("a graph head needs a graph: make it of training labels with create_graph")
            return GraphHead(neck, graph, config.graph_hidden, width)
        linear = nn.Linear(width, num_classes)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
    return Head(neck, linear)


def require_memory(config: ModelConfig, num_features: int, num_classes: int) -> None:
    """Check that this machine has enough memory to train a head.

    Args:
        config: the widths of the head.
        num_features: F.
        num_classes: K.

    Raises:
        InputError: its weights, their gradient and momentum are larger than the memory.
    """
    width = config.neck_width if config.has_neck else num_features
    weights = num_features * width if config.has_neck else 0
    if config.head == "gcn":
        weights += config.label_width * (config.graph_hidden + num_classes) + config.graph_hidden * width
    else:
        weights += width * num_classes * (config.csra_heads if config.head == "csra" else 1)
    needed = weights * _BYTES_PER_WEIGHT
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else needed
    if needed > memory:
        raise InputError(
            f"the head needs {needed / 1e9:.0f} GB of memory in training and this machine has {memory / 1e9:.0f} GB: "
            f"lower model.neck_width ({config.neck_width})"
            + (
                f", model.label_width ({config.label_width}) or model.graph_hidden ({config.graph_hidden})"
                if config.head == "gcn"
                else ""
            )
        )


def _create_neck(num_features: int, config: ModelConfig) -> tuple[nn.Module, int]:
    if not config.has_neck:
        unit = nn.RMSNorm(num_features, elementwise_affine=False)
        return unit if config.neck == "unit" else nn.Identity(), num_features
    linear = nn.Linear(num_features, config.neck_width)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.BatchNorm1d(config.neck_width), nn.Dropout(config.dropout)), config.neck_width


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
