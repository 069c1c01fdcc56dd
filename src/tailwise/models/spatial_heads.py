"""Heads on feature maps, for networks that are fine-tuned: residual attention by class, and ML-Decoder."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers.ml_decoder import MLDecoder
from torch import Tensor, nn
from torch.nn import functional

from tailwise.shapes import Float


class AttentionHead(nn.Module):
    r"""Class-specific residual attention (CSRA; Zhu and Wu, "Residual Attention", ICCV 2021).

    With the features :math:`x_1, \dots, x_L` of the locations of an image and the unit-norm classifier :math:`m` of a
    class, the scores are :math:`s_j = m \cdot x_j`. The logit of a head with temperature :math:`T` is their mean and
    :math:`\lambda` times their mean under attention:

    .. math:: \frac 1 L \sum_j s_j + \lambda \sum_j \frac{e^{T s_j}}{\sum_l e^{T s_l}} s_j

    Several heads, each with classifiers of its own, are added up; their temperatures are 1, 2, ... and at last
    :math:`T = \infty`, the maximum of the scores. A bias is added, which the paper does not have: rare classes start
    with few images.

    Args:
        num_features: F.
        num_classes: K.
        heads: their number.
        attention: :math:`\lambda`.

    >>> head = AttentionHead(3, 2, heads=1, attention=0.5)
    >>> _ = head.weight.data.copy_(torch.eye(3)[:2])
    >>> head(torch.tensor([[[2.0, 2.0], [4.0, 4.0], [1.0, 5.0]]])).tolist()  # every location has the same scores
    [[3.0, 6.0]]
    """

    def __init__(self, num_features: int, num_classes: int, *, heads: int, attention: float) -> None:
        super().__init__()
        self.attention = attention
        self.temperatures = (*range(1, heads), math.inf if heads > 1 else 1)
        self.weight = nn.Parameter(torch.empty(heads, num_classes, num_features))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, features: Float[Tensor, "B F L"]) -> Float[Tensor, "B C"]:
        """Return the (B, K) logits of the features of L locations."""
        logits = self.bias
        for weight, temperature in zip(functional.normalize(self.weight, dim=-1), self.temperatures, strict=True):
            scores = weight @ features
            if math.isinf(temperature):
                attended = scores.amax(-1)
            else:
                attended = (scores * torch.softmax(temperature * scores, dim=-1)).sum(-1)
            logits = logits + scores.mean(-1) + self.attention * attended
        return logits


class DecoderHead(nn.Module):
    """ML-Decoder (Ridnik et al., WACV 2023), timm's layer: queries of groups of classes attend to the locations.

    Args:
        num_features: F.
        num_classes: K.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        layer: Any = MLDecoder(num_classes, initial_num_features=num_features)  # type: ignore[no-untyped-call]
        # Its only block, without the stack around it: newer versions of torch take that for one of their own blocks.
        layer.decoder = layer.decoder.layers[0]
        self.decoder = layer

    def forward(self, features: Float[Tensor, "B F L"]) -> Float[Tensor, "B C"]:
        """Return the (B, K) logits of the features of L locations."""
        logits: Tensor = self.decoder(features.transpose(1, 2))
        return logits
