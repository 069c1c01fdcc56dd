"""Backbones by name, from checked weights, frozen by stages, and prepared for inference."""

from __future__ import annotations

import csv
import logging
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.layers import StdConv2d
from torch import nn

from tailwise.errors import InputError
from tailwise.models.backbone import create_backbone, feature_width, freeze_stages
from tailwise.models.extractor import prepare_for_inference
from tailwise.models.model_config import ModelConfig

RANDOM = ModelConfig(backbone="test_resnet", pretrained=False)


@pytest.mark.parametrize(
    ("name", "stages", "frozen"),
    [
        ("resnet50", -1, ()),
        ("resnet50", 0, ("conv1.", "bn1.")),
        ("resnet50", 1, ("conv1.", "bn1.", "layer1.")),
        ("mobilenetv2_100", 1, ("conv_stem.", "bn1.", "blocks.0.")),
        ("test_vit", 1, ("cls_token", "pos_embed", "patch_embed.", "blocks.0.")),
        ("test_convnext", 2, ("stem.", "stages.0.", "stages.1.")),
    ],
)
def test_the_stem_and_the_first_stages_are_frozen(name: str, stages: int, frozen: tuple[str, ...]) -> None:
    backbone = create_backbone(replace(RANDOM, backbone=name))
    freeze_stages(backbone, stages)
    for parameter, value in backbone.named_parameters():
        assert value.requires_grad != parameter.startswith(frozen), parameter


def test_stages_that_do_not_exist_are_refused() -> None:
    backbone = create_backbone(RANDOM)
    freeze_stages(backbone, 4)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    with pytest.raises(InputError, match="--frozen-stages 5: ResNet has 4 stages after its stem"):
        freeze_stages(backbone, 5)
    with pytest.raises(InputError, match="--frozen-stages -1"):
        freeze_stages(nn.Linear(2, 2), 0)


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("test_resnet", "own"),
        ("test_resnet", "fewer classes"),
        ("test_resnet", "absent"),
        ("test_vit", "own"),
        ("test_convnext", "fewer classes"),
        ("mobilenetv3_small_050", "own"),
        ("levit_128s", "own"),  # its classifier is more than the layers timm names
    ],
)
def test_a_weights_file_fills_the_whole_backbone(name: str, classifier: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    weights = create_weights(name, {"own": 1000, "fewer classes": 20, "absent": 0}[classifier])
    save_file(weights, path)
    backbone = create_backbone(replace(RANDOM, backbone=name, weights=path), seed=1)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, weights[key]), key
    assert not any(isinstance(value, torch.Tensor) for value in backbone.pretrained_cfg.values())
    assert backbone.pretrained_cfg.get("state_dict") is None


def create_weights(name: str, num_classes: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(77)
        return timm.create_model(name, num_classes=num_classes).state_dict()


def test_a_torch_file_of_weights_is_read_too(tmp_path: Path) -> None:
    weights = create_weights("test_resnet", 0)
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "checkpoint.pth")
    backbone = create_backbone(replace(RANDOM, weights=tmp_path / "checkpoint.pth"))
    assert torch.equal(backbone.state_dict()["layer4.0.conv1.weight"], weights["layer4.0.conv1.weight"])


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet34.safetensors"
    save_file(create_weights("resnet34", 1000), path)
    with pytest.raises(
        InputError, match=r"does not fit --backbone resnet18: .* unexpected \(layer1.2.bn1.bias"
    ) as error:
        create_backbone(replace(RANDOM, backbone="resnet18", weights=path))
    assert "missing" not in str(error.value)
    with pytest.raises(
        InputError, match=r"test_resnet: .* missing \(conv1.0.weight, .*shape \(bn1.weight \(64,\) instead"
    ):
        create_backbone(replace(RANDOM, weights=path))
    with pytest.raises(InputError, match=r"test_vit: .* missing \(cls_token"):
        create_backbone(replace(RANDOM, backbone="test_vit", weights=path))


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        create_backbone(replace(RANDOM, weights=tmp_path / "absent.safetensors"))
    for name in ("text.safetensors", "text.pth"):
        (tmp_path / name).write_text("not weights")
        with pytest.raises(InputError, match=f"{name} cannot be read as weights: .* Expected a .safetensors"):
            create_backbone(replace(RANDOM, weights=tmp_path / name))
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(InputError, match="does not hold a state dict"):
        create_backbone(replace(RANDOM, weights=tmp_path / "epoch.pth"))
    torch.save(RANDOM, tmp_path / "pickled.pth")
    with pytest.raises(InputError, match="cannot be read as weights"):
        create_backbone(replace(RANDOM, weights=tmp_path / "pickled.pth"))


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(InputError, match=r"has no model 'resnet5O' \(did you mean 'resnet50'"):
        create_backbone(replace(RANDOM, backbone="resnet5O.tv_in1k"))
    with pytest.raises(InputError, match=r"has no such weights; it has: .*resnet50\.tv_in1k"):
        create_backbone(replace(RANDOM, backbone="resnet50.tv_in2k"))
    with pytest.raises(InputError, match=r"does not take --model.options \{'pad': 'same'\}"):
        create_backbone(replace(RANDOM, options={"pad": "same"}))
    with pytest.raises(InputError, match="'num_classes' is set by this program"):
        create_backbone(replace(RANDOM, options={"num_classes": 3}))


def test_downloads_that_fail_say_what_else_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    empty_cache = {"cache_dir": str(tmp_path)}
    with pytest.raises(InputError, match=r"could not be downloaded .*--weights FILE.*--no-pretrained"):
        create_backbone(ModelConfig(backbone="resnet50.tv_in1k", options=empty_cache))
    with pytest.raises(InputError, match=r"has no weights for this model.*--no-pretrained"):
        create_backbone(ModelConfig(backbone="coatnet_0_224"))


def test_a_hub_that_cannot_be_reached_is_asked_once(
    tmp_path: Path, unreachable: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, reason = unreachable
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(timm, "create_model", None)
    empty_cache = {"cache_dir": str(tmp_path)}
    with pytest.raises(InputError, match=rf"{endpoint} cannot be reached: .*{reason}.*--no-pretrained"):
        create_backbone(ModelConfig(backbone="resnet50.tv_in1k", options=empty_cache))


def test_weights_on_this_machine_need_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = timm.create_model("test_resnet", pretrained=False)
    snapshot = tmp_path / "models--timm--test_resnet.r160_in1k"
    (snapshot / "snapshots" / "0").mkdir(parents=True)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("0")
    save_file(reference.state_dict(), snapshot / "snapshots" / "0" / "model.safetensors")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("tailwise.models.backbone.why_unreachable", None)
    backbone = create_backbone(ModelConfig(backbone="test_resnet", options={"cache_dir": str(tmp_path)}))
    torch.testing.assert_close(backbone.conv1[0].weight, reference.conv1[0].weight, rtol=0, atol=0)


def test_features_of_real_photographs_are_timm_s(backbone_weights: Path, photos: Path) -> None:
    with photos.open(newline="") as file:
        rows = [row["image"] for row in csv.DictReader(file) if row["split"] == "test"][:3]
    pixels = [Image.open(photos.parent / row).convert("RGB").resize((160, 160)) for row in rows]
    images = torch.from_numpy(np.stack([np.asarray(p) for p in pixels])).permute(0, 3, 1, 2).float() / 127.5 - 1
    options = {"pad_type": "same"}
    config = ModelConfig(backbone="mobilenetv2_100", weights=backbone_weights, options=options)
    backbone = create_backbone(config).eval()
    plain = timm.create_model(
        "mobilenetv2_100", pretrained=True, pretrained_cfg_overlay={"file": str(backbone_weights)}, **options
    ).eval()
    with torch.no_grad():
        features, expected = backbone(images), plain.forward_head(plain.forward_features(images), pre_logits=True)
    torch.testing.assert_close(features, expected)
    assert features.shape == (3, feature_width(backbone)) == (3, 1280)
    assert features.std(dim=0).mean() > 0.1


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
