"""Pooling, and heads on the features of all locations, beside plain loops and timm's own models."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import nn

from tailwise.errors import InputError
from tailwise.models.backbone import create_backbone, feature_width, locations, try_backbone
from tailwise.models.heads import create_classifier, create_head
from tailwise.models.model_config import ModelConfig
from tailwise.models.spatial_heads import AttentionHead

SMALL = ModelConfig(backbone="test_resnet", pretrained=False, frozen_stages=-1)
BACKBONES = {"test_resnet": 64, "test_vit": 160, "test_convnext": 64, "mobilenetv3_small_050": 64}


def images(size: int) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("heads", [1, 2, 4])
@torch.no_grad()
def test_residual_attention_is_the_formula_written_as_loops(heads: int) -> None:
    generator = torch.Generator().manual_seed(1)
    head = AttentionHead(5, 3, heads=heads, attention=0.3).double()
    head.weight.data = torch.randn(heads, 3, 5, generator=generator, dtype=torch.float64)
    head.bias.data = torch.randn(3, generator=generator, dtype=torch.float64)
    features = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    temperatures = {1: [1], 2: [1, None], 4: [1, 2, 3, None]}[heads]
    for b in range(2):
        for k in range(3):
            logit = head.bias[k].item()
            for h, temperature in enumerate(temperatures):
                classifier = head.weight[h, k] / head.weight[h, k].norm()
                scores = [float(classifier @ features[b, :, location]) for location in range(7)]
                if temperature is None:
                    attended = max(scores)
                else:
                    shares = [math.exp(temperature * score) for score in scores]
                    attended = sum(share * score for share, score in zip(shares, scores, strict=True)) / sum(shares)
                logit += sum(scores) / 7 + 0.3 * attended
            assert head(features)[b, k].item() == pytest.approx(logit)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", ["csra", "ml-decoder"])
def test_spatial_heads_take_the_locations_of_every_kind_of_network(backbone: str, head: Any) -> None:
    config, size = replace(SMALL, backbone=backbone, head=head), BACKBONES[backbone]
    model = create_classifier(config, 4)
    assert try_backbone(config, size) == feature_width(model.backbone)
    logits = model(images(size))
    assert logits.shape == (2, 4)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_locations_leave_out_the_token_of_the_image_and_know_the_layout() -> None:
    vit: Any = create_backbone(replace(SMALL, backbone="test_vit", head="csra")).eval()
    with torch.no_grad():
        tokens = vit(images(160))
        torch.testing.assert_close(locations(vit, tokens), tokens[:, 1:].mT)
    assert vit.num_prefix_tokens == 1
    maps = torch.rand(2, 3, 4, 5)
    plain = nn.Identity()
    torch.testing.assert_close(locations(plain, maps)[1, :, 5], maps[1, :, 1, 0])
    plain.output_fmt = "NHWC"
    torch.testing.assert_close(locations(plain, maps)[1, :, 5], maps[1, 1, 1])


@pytest.mark.parametrize("backbone", ["test_resnet", "mobilenetv3_small_050"])
@pytest.mark.parametrize("pool", ["max", "catavgmax"])
def test_pooling_is_that_of_timm(backbone: str, pool: Any) -> None:
    config = replace(SMALL, backbone=backbone, pool=pool, neck="none")
    model = create_classifier(config, 4, seed=3).eval()
    plain = timm.create_model(backbone, num_classes=0, global_pool=pool).eval()
    plain.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        features = model.features(images(64))
        torch.testing.assert_close(features, plain(images(64)))
        assert features.shape == (2, feature_width(model.backbone)) == (2, try_backbone(config, 64))
        assert model(images(64)).shape == (2, 4)


def test_catavgmax_is_both_side_by_side() -> None:
    maps, both = (
        create_backbone(config).eval() for config in (replace(SMALL, head="csra"), replace(SMALL, pool="catavgmax"))
    )
    with torch.no_grad():
        found = locations(maps, maps(images(64)))
        torch.testing.assert_close(both(images(64)), torch.cat([found.mean(-1), found.amax(-1)], dim=1))


def test_unit_neck_scales_every_image_to_one_norm() -> None:
    head = create_head(16, 3, replace(SMALL, neck="unit"))
    features = torch.rand(4, 16) * torch.tensor([[0.1], [1.0], [10.0], [100.0]])
    scaled = 4 * features / features.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(features), scaled @ head.linear.weight.T)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "catavgmax"}, "--model.head csra sees the features of all locations: leave out --pool catavgmax"),
        ({"neck": "recipe"}, "leave out --neck recipe"),
        ({"csra_heads": 0}, "--csra-heads must be at least 1"),
        ({"csra_weight": -1.0}, "--csra-weight must be at least 0"),
    ],
)
def test_options_that_do_not_go_with_a_spatial_head_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, head="csra", **options)


def test_a_pooling_that_a_network_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match=r"--backbone test_vit .*cannot be made"):
        try_backbone(replace(SMALL, backbone="test_vit", pool="catavgmax"), 160)
