"""Probing: features against timm, scaling against scikit-learn, and the files they are kept in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.preprocessing import StandardScaler, normalize

from tailwise.config import TrainConfig
from tailwise.data.augment import prepare
from tailwise.errors import InputError
from tailwise.models.config import ModelConfig
from tailwise.training import probe
from tailwise.training.inputs import open_images, read_run
from tailwise.training.run import evaluate, train

CPU = torch.device("cpu")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights file of a timm model, with batch norm statistics that are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = timm.create_model("test_resnet", pretrained=False)
        model.train()(torch.randn(16, 3, 32, 32))
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path


def test_features_are_those_of_timm(tiny: Callable[..., TrainConfig], weights: Path) -> None:
    config = tiny(mode="probe", model=ModelConfig("test_resnet", weights=weights))
    splits = read_run(config)
    split = splits.train
    task = probe.new_task(config, splits, CPU)
    model = timm.create_model(
        "test_resnet", pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": str(weights)}
    ).eval()
    images = open_images(split, config.image_size, config).table.batch(torch.arange(len(split)))
    with torch.inference_mode():
        expected = model(prepare(images, 32, model.pretrained_cfg["mean"], model.pretrained_cfg["std"]))
    torch.testing.assert_close(task.train.table.batch(torch.arange(len(split))), expected, rtol=1e-4, atol=1e-5)


def test_scaling_is_unit_norm_then_standard_scores() -> None:
    features = torch.rand(50, 7) + 0.1
    features[:, 3] = 0
    expected = StandardScaler().fit_transform(normalize(features.numpy()))
    np.testing.assert_allclose(probe.Standardize.fit(features)(features), expected, rtol=1e-4, atol=1e-5)


def test_features_are_computed_once(tiny: Callable[..., TrainConfig], weights: Path) -> None:
    config = tiny(mode="probe", model=ModelConfig("test_resnet", weights=weights), cache=str(weights.parent / "cache"))
    splits = read_run(config)
    first = probe.new_task(config, splits, CPU)
    files = sorted((config.cache_folder / "features").iterdir())
    assert len(files) == 2
    for path in files:
        np.save(path, np.load(path) + 1)
    again = probe.new_task(config, splits, CPU)
    rows = torch.arange(5)
    torch.testing.assert_close(again.train.table.batch(rows), first.train.table.batch(rows) + 1)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY garbage"])
def test_damaged_features_are_computed_again(
    tiny: Callable[..., TrainConfig], weights: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(mode="probe", model=ModelConfig("test_resnet", weights=weights), cache=str(weights.parent / "cache"))
    splits = read_run(config)
    first = probe.new_task(config, splits, CPU).train.table.batch(torch.arange(46))
    for path in (config.cache_folder / "features").iterdir():
        path.write_bytes(damage)
    again = probe.new_task(config, splits, CPU).train.table.batch(torch.arange(46))
    assert torch.equal(first, again)
    assert "damaged features" in caplog.text


def test_key_follows_everything_that_changes_features(weights: Path) -> None:
    base = ModelConfig("test_resnet", weights=weights)
    keys = {probe.Backbone(base, "fp32", 0, CPU).key}
    for changed in (
        replace(base, backbone="test_vit"),
        replace(base, options={"in_chans": 3}),
        replace(base, mean=(0.5, 0.5, 0.5)),
        replace(base, weights=None),
        replace(base, weights=None, pretrained=False),
    ):
        keys.add(probe.Backbone(changed, "fp32", 0, CPU).key)
    keys.add(probe.Backbone(base, "bf16", 0, CPU).key)
    keys.add(probe.Backbone(replace(base, weights=None, pretrained=False), "fp32", 1, CPU).key)
    assert len(keys) == 8
    assert probe.Backbone(replace(base, dropout=0.1, frozen_stages=0), "fp32", 7, CPU).key in keys


def test_head_refuses_another_backbone(tiny: Callable[..., TrainConfig], weights: Path) -> None:
    config = tiny(mode="probe", model=ModelConfig("test_resnet", weights=weights), optim={"epochs": 1})
    train(config)
    other = timm.create_model("test_resnet", pretrained=False)
    save_file(other.state_dict(), weights)
    with pytest.raises(InputError, match="no longer what it was trained with"):
        evaluate(Path(config.output))


@pytest.mark.parametrize("standardize", [True, False])
def test_only_the_head_is_trained(tiny: Callable[..., TrainConfig], standardize: bool) -> None:
    config = tiny(mode="probe", standardize_features=standardize, optim={"epochs": 1})
    train(config)
    state = torch.load(Path(config.output) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("model.head.") for name in state)
    assert not any("backbone." in name for name in state)
    assert ("model.scale.mean" in state) == standardize
