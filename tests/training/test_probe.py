"""Probing: features against timm, scaling against scikit-learn, and the files they are kept in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.preprocessing import StandardScaler, normalize

from tailwise.data.pixels.augment import prepare
from tailwise.models.heads import FeatureTransform
from tailwise.models.model_config import ModelConfig
from tailwise.training import probe
from tailwise.training.config import TrainConfig
from tailwise.training.inputs import open_images, read_run
from tailwise.training.run import train

CPU = torch.device("cpu")


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
    np.testing.assert_allclose(FeatureTransform.fit("standardize", features)(features), expected, rtol=1e-4, atol=1e-5)


def test_features_are_computed_once(tiny: Callable[..., TrainConfig], weights: Path) -> None:
    config = tiny(mode="probe", model=ModelConfig("test_resnet", weights=weights), cache=str(weights.parent / "cache"))
    splits = read_run(config)
    first = probe.new_task(config, splits, CPU)
    files = sorted((config.cache_folder / "features").glob("*.npy"))
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
    for path in (config.cache_folder / "features").glob("*.npy"):
        path.write_bytes(damage)
    again = probe.new_task(config, splits, CPU).train.table.batch(torch.arange(46))
    assert torch.equal(first, again)
    assert "damaged features" in caplog.text


def test_key_follows_everything_that_changes_features(tiny: Callable[..., TrainConfig], weights: Path) -> None:
    base = tiny(mode="probe", model=ModelConfig("test_resnet", weights=weights))
    other = weights.with_name("other.safetensors")
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), other)

    def key(model: ModelConfig = base.model, **options: Any) -> str:
        return probe.Backbone.new(replace(base, model=model, **options), CPU).key

    random = replace(base.model, weights=None, pretrained=False)
    keys = [
        key(),
        key(replace(base.model, options={"in_chans": 3})),
        key(replace(base.model, mean=(0.1, 0.5, 0.5))),
        key(replace(base.model, std=(0.1, 0.5, 0.5))),
        key(replace(base.model, weights=other)),
        key(random),
        key(random, seed=1),
        key(replace(random, backbone="test_vit")),
        key(precision="bf16"),
    ]
    assert len(set(keys)) == len(keys)
    assert key(replace(base.model, dropout=0.1, frozen_stages=0), seed=7) == keys[0]
    # What is timm's default may as well be said, and a tag of other weights is none of these.
    assert key(replace(base.model, backbone="test_resnet.r160_in1k", mean=(0.5,) * 3, std=(0.5,) * 3)) == keys[0]


@pytest.mark.parametrize("standardize", [True, False])
def test_only_the_head_is_trained(tiny: Callable[..., TrainConfig], standardize: bool) -> None:
    config = tiny(mode="probe", standardize_features=standardize, optim={"epochs": 1})
    train(config)
    state = torch.load(Path(config.output) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("model.head.") for name in state)
    assert not any("backbone." in name for name in state)
    assert ("model.scale.mean" in state) == standardize
