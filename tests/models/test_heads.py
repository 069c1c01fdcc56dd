"""The classifier is the recipe: what is frozen, what batch norms do, how the head starts, what the seed decides."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tailwise.errors import InputError
from tailwise.models.heads import Classifier, create_classifier, create_head
from tailwise.models.model_config import ModelConfig

SMALL = ModelConfig(backbone="test_resnet", pretrained=False, neck_width=16)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext", "mobilenetv3_small_050"])
@pytest.mark.parametrize("neck", ["recipe", "none"])
def test_logits_are_the_head_of_the_pooled_features(backbone: str, neck: str) -> None:
    model = create_classifier(replace(SMALL, backbone=backbone, neck=neck), 7).eval()
    size = 160 if backbone == "test_vit" else 64
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    features = model.features(images)
    assert features.ndim == 2
    torch.testing.assert_close(features, model.backbone(images))
    torch.testing.assert_close(model(images), model.classify(features))
    assert model(images).shape == (2, 7)


def test_the_neck_is_linear_batch_norm_dropout_without_a_nonlinearity() -> None:
    head = create_head(96, 5, ModelConfig(dropout=0.4)).eval()
    assert [type(layer) for layer in head.neck] == [nn.Linear, nn.BatchNorm1d, nn.Dropout]
    assert head.neck[2].p == 0.4
    x = torch.randn(3, 96, generator=torch.Generator().manual_seed(0))
    scaled = (x @ head.neck[0].weight.T) / math.sqrt(1 + head.neck[1].eps)
    torch.testing.assert_close(head(x), scaled @ head.linear.weight.T)


def test_initial_weights_have_the_recipe_s_spread() -> None:
    head = create_head(512, 400, ModelConfig())
    assert head.neck[0].weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.02)
    assert head.linear.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.neck[0].bias.count_nonzero() == head.linear.bias.count_nonzero() == 0
    bare = create_head(512, 400, ModelConfig(neck="none"))
    assert isinstance(bare.neck, nn.Identity)
    assert bare.linear.weight.shape == (400, 512)
    assert bare.linear.weight.std().item() == pytest.approx(0.01, rel=0.02)


def test_batch_norms_of_the_backbone_stay_in_evaluation_and_the_neck_s_train(images: torch.Tensor) -> None:
    model = create_classifier(SMALL, 3)
    assert not any(m.training for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert model.head.neck[1].training
    assert model.head.neck[2].training
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    scale = model.backbone.layer4[0].bn2.weight.detach().clone()
    frozen = model.backbone.layer1[0].bn1.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(images).square().sum().backward()
    optimizer.step()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]) == name.startswith("backbone."), name
    assert not torch.equal(model.backbone.layer4[0].bn2.weight, scale)
    assert torch.equal(model.backbone.layer1[0].bn1.weight, frozen)


def test_batch_statistics_train_everywhere_but_in_frozen_stages(images: torch.Tensor) -> None:
    model = create_classifier(replace(SMALL, running_stats=False), 3)
    before = {name: buffer.clone() for name, buffer in model.backbone.named_buffers()}
    model.train()(images)
    for name, buffer in model.backbone.named_buffers():
        if name.endswith("num_batches_tracked"):
            moved = int(buffer - before[name])
            assert moved == (not name.startswith(("conv1.", "bn1.", "layer1."))), name
    assert not any(module.training for module in model.eval().modules())


def test_the_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(1)
    first = create_classifier(SMALL, 3, seed=5).state_dict()
    torch.manual_seed(2)
    second = create_classifier(SMALL, 3, seed=5).state_dict()
    other = create_classifier(SMALL, 3, seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["backbone.conv1.0.weight"], other["backbone.conv1.0.weight"])
    assert not torch.equal(first["head.linear.weight"], other["head.linear.weight"])


def test_a_head_alone_starts_as_the_classifier_s() -> None:
    whole = create_classifier(SMALL, 3, seed=5)
    alone = create_head(96, 3, SMALL, seed=5).state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in whole.head.state_dict().items())


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_the_global_random_state_is_left_alone(backbone: str) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    create_classifier(replace(SMALL, backbone=backbone), 3, seed=9)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


def test_the_normalisation_is_the_backbone_s_unless_configured() -> None:
    assert create_classifier(SMALL, 3).mean == timm.get_pretrained_cfg("test_resnet").mean
    configured = create_classifier(replace(SMALL, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5)), 3)
    assert (configured.mean, configured.std) == ((0.5, 0.5, 0.5), (0.5, 0.25, 0.5))
    with pytest.raises(InputError, match="one value per channel"):
        create_classifier(replace(SMALL, mean=(0.5,)), 3)


def test_any_module_can_be_the_head(images: torch.Tensor) -> None:
    backbone = timm.create_model("test_resnet", num_classes=0)
    model = Classifier(backbone, nn.Linear(96, 2), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert model(images).shape == (4, 2)
    assert not backbone.bn1.training


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"frozen_stages": -2}, "--frozen-stages must be at least -1"),
        ({"neck": "mlp"}, "neck must be one of 'recipe', 'unit', 'none' or null"),
        ({"head": "tree"}, "head must be one of 'linear', 'gcn', 'csra', 'ml-decoder'"),
        ({"label_width": 0}, "--label-width must be at least 1"),
        ({"graph_hidden": 0}, "--graph-hidden must be at least 1"),
        ({"graph_threshold": 0.0}, r"--graph-threshold must be above 0 and at most 1"),
        ({"graph_threshold": 1.1}, r"--graph-threshold must be above 0 and at most 1"),
        ({"graph_threshold": math.nan}, "--graph-threshold must be"),
        ({"graph_reweight": -0.1}, "--graph-reweight must be at least 0"),
        ({"graph_reweight": math.inf}, "--graph-reweight must be a finite number"),
        ({"neck_width": 0}, "--neck-width must be at least 1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"std": (0.5, 0.0, 0.5)}, "--model.std must be above 0"),
    ],
)
def test_impossible_options_are_refused(option: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelConfig(**option)


def test_a_classifier_needs_a_class() -> None:
    with pytest.raises(InputError, match="at least one class, got 0"):
        create_classifier(SMALL, 0)


def test_mirror_images_are_averaged_in_evaluation_only(images: torch.Tensor) -> None:
    plain, both = (create_classifier(replace(SMALL, neck="none", tta=tta), 3) for tta in ("none", "flip"))
    torch.testing.assert_close(both(images), plain(images))
    plain.eval()
    expected = (plain(images) + plain(images.flip(-1))) / 2
    torch.testing.assert_close(both.eval()(images), expected)
    assert not torch.allclose(expected, plain(images), atol=1e-4)
