"""A prepared backbone gives the features of the plain one."""

from __future__ import annotations

import logging

import pytest
import timm
import torch
from timm.layers import StdConv2d
from torch import nn

from tailwise.models.inference import prepare_for_inference


def plain_backbone(name: str, **options: object) -> nn.Module:
    """A backbone whose batch norms do something, as after training."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=0, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.1, generator=generator)
    return model


def inputs(model: nn.Module) -> torch.Tensor:
    return torch.randn(2, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(1))


def batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "options", "left"),
    [
        ("mobilenetv2_050", {"pad_type": "same"}, 0),
        ("test_resnet", {}, 0),
        ("test_efficientnet", {}, 0),
        ("test_maxvit", {}, 4),  # some of its batch norms come before a convolution
        ("test_vit", {}, 0),
    ],
)
def test_features_are_the_plain_backbone_s(name: str, options: dict, left: int) -> None:
    model = plain_backbone(name, **options)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    prepared = prepare_for_inference(model)
    images = inputs(model)
    with torch.no_grad():
        torch.testing.assert_close(prepared(images), model(images), rtol=1e-4, atol=1e-5)
    assert batch_norms(prepared) == left
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


class _Untraceable(nn.Module):
    """What it does depends on the values it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x if x.mean() > 0 else -x)).mean(dim=(2, 3))


def test_a_backbone_that_cannot_be_traced_is_not_folded_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = _Untraceable().eval()
    with caplog.at_level(logging.WARNING):
        prepared = prepare_for_inference(model)
    assert "batch norms of _Untraceable are not folded" in caplog.text
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(prepared(images), model(images))
    assert batch_norms(prepared) == 1


class _NotFoldable(nn.Module):
    """Convolutions with another use beside their batch norm, called twice, or computing their weight on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv3, self.bn3 = StdConv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = self.conv1(x)
        twice = self.bn2(self.conv2(self.conv2(once + self.bn1(once))))
        return self.bn3(self.conv3(twice)).mean(dim=(2, 3))


def test_only_pairs_that_nothing_else_uses_are_folded() -> None:
    model = _NotFoldable().eval()
    for bn in (model.bn1, model.bn2, model.bn3):
        bn.running_mean.fill_(0.3)
        bn.running_var.fill_(2.0)
    prepared = prepare_for_inference(model)
    assert batch_norms(prepared) == 3
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(prepared(images), model(images))


def test_half_precision_gives_float32_features_close_to_the_plain_ones() -> None:
    model = plain_backbone("test_resnet")
    images = inputs(model)
    features = prepare_for_inference(model, torch.bfloat16)(images)
    assert features.dtype == torch.float32
    with torch.no_grad():
        expected = model(images)
    assert torch.cosine_similarity(features, expected).min() > 0.999


def test_features_carry_no_graph() -> None:
    model = plain_backbone("test_resnet")
    features = prepare_for_inference(model)(inputs(model).requires_grad_())
    assert not features.requires_grad
    assert all(parameter.requires_grad for parameter in model.parameters())
