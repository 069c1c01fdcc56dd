"""Runs and the backbone they began with: tested without its file or download, and never with another."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tailwise.errors import InputError
from tailwise.models import backbone as backbones
from tailwise.models.model_config import ModelConfig
from tailwise.training import probe
from tailwise.training.config import TrainConfig
from tailwise.training.run import evaluate, train
from tests.training.conftest import Interruption

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def probing(tiny: Tiny, weights: Path, tmp_path: Path) -> TrainConfig:
    """A run on features of the backbone in a weights file, with a cache of its own."""
    model = ModelConfig("test_resnet", weights=weights)
    return tiny(mode="probe", model=model, cache=str(tmp_path / "cache"), optim={"epochs": 1})


def other_weights(path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(9)
        save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), path)


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 as the record has it, from NumPy's bytes."""
    whole = b""
    for name in sorted(tensors):
        values = tensors[name].numpy()
        whole += f"{name} {tensors[name].dtype} {tuple(values.shape)}\n".encode() + values.tobytes()
    return hashlib.sha256(whole).hexdigest()


def assert_tests_as_before(folder: Path, again: Path) -> None:
    """An evaluation gives the scores and predictions of the run, bit for bit."""
    before = json.loads((folder / "metrics.json").read_text())
    metrics = evaluate(folder, output=again).metrics
    for name in ("mAP", "AP", "F1", "calibration_error_by_class"):
        assert metrics[name] == before[name]
    first, second = (pd.read_parquet(place / "predictions.parquet") for place in (folder, again))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_a_probe_is_tested_when_the_weights_file_and_all_caches_are_gone(
    probing: TrainConfig, weights: Path, tmp_path: Path, computed: list[str]
) -> None:
    train(probing)
    shutil.rmtree(tmp_path / "cache")
    weights.unlink()
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert computed == ["features of train", "features of test"]
    assert_tests_as_before(moved, tmp_path / "again")
    assert computed[2:] == ["features of test"]


def test_the_folder_says_what_and_where_the_weights_were(probing: TrainConfig, weights: Path, tmp_path: Path) -> None:
    train(probing)
    record = json.loads((tmp_path / "run" / "backbone.json").read_text())
    kept = load_file(tmp_path / "run" / "backbone.safetensors")
    original = {name: value for name, value in load_file(weights).items() if not name.startswith("fc.")}
    assert kept.keys() == original.keys()
    assert all(torch.equal(value, original[name]) for name, value in kept.items())
    assert record == {
        "format": "tailwise-backbone-1",
        "name": "test_resnet.r160_in1k",
        "options": {},
        "source": str(weights),
        "sha256": digest(original),
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }


def test_without_its_own_weights_a_run_takes_those_at_their_address_and_no_others(
    probing: TrainConfig, weights: Path, tmp_path: Path
) -> None:
    train(replace(probing, keep_backbone=False))
    folder = tmp_path / "run"
    assert not (folder / "backbone.safetensors").exists()
    aside = weights.rename(tmp_path / "aside.safetensors")
    evaluate(folder)  # the features are there
    shutil.rmtree(tmp_path / "cache")
    expected = digest({name: value for name, value in load_file(aside).items() if not name.startswith("fc.")})
    with pytest.raises(InputError, match=rf"{weights}, SHA-256 {expected}\) cannot be had: .*no such file"):
        evaluate(folder)
    other_weights(weights)
    found = digest({name: value for name, value in load_file(weights).items() if not name.startswith("fc.")})
    with pytest.raises(InputError, match=rf"^{weights}: .* SHA-256 {found}; expected {expected}, those of {weights}"):
        evaluate(folder)
    aside.replace(weights)
    assert_tests_as_before(folder, tmp_path / "again")


def test_weights_in_the_folder_that_have_changed_are_refused(probing: TrainConfig, tmp_path: Path) -> None:
    train(probing)
    kept = tmp_path / "run" / "backbone.safetensors"
    shutil.rmtree(tmp_path / "cache")
    other_weights(kept)
    with pytest.raises(InputError, match=rf"^{kept}: the backbone's weights have the SHA-256 \w+; expected \w+"):
        evaluate(tmp_path / "run")
    (tmp_path / "run" / "backbone.json").write_text('{"format": "tailwise-backbone-1", "name": "test_resnet"}')
    with pytest.raises(InputError, match=r"backbone\.json is not a record of a backbone.*restore it"):
        evaluate(tmp_path / "run")


def test_features_are_found_again_whatever_versions_and_places(
    probing: TrainConfig,
    weights: Path,
    labels: Path,
    tmp_path: Path,
    computed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(probing)
    assert len(computed) == 2
    monkeypatch.setattr(probe, "version", lambda name: "999.0")
    assert_tests_as_before(tmp_path / "run", tmp_path / "again")
    # The same weights in a file of another kind, the same images in another folder.
    shutil.copytree(labels.parent / "images", tmp_path / "elsewhere" / "images")
    shutil.copy(labels, tmp_path / "elsewhere")
    torch.save(load_file(weights), tmp_path / "weights.pth")
    weights.unlink()
    model = replace(probing.model, weights=tmp_path / "weights.pth")
    data = str(tmp_path / "elsewhere" / labels.name)
    train(replace(probing, data=data, model=model, output=str(tmp_path / "second")))
    assert len(computed) == 2
    first, second = (pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("run", "second"))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_other_pixels_have_other_features(
    probing: TrainConfig, labels: Path, tmp_path: Path, computed: list[str]
) -> None:
    shutil.copytree(labels.parent / "images", tmp_path / "elsewhere" / "images")
    shutil.copy(labels, tmp_path / "elsewhere")
    config = replace(probing, data=str(tmp_path / "elsewhere" / labels.name))
    train(config)
    images = sorted((tmp_path / "elsewhere" / "images").iterdir())
    images[0].write_bytes(images[1].read_bytes())
    train(replace(config, output=str(tmp_path / "second")))
    assert len(computed) == 3


def test_notes_of_backbones_are_not_trusted_blindly(probing: TrainConfig, tmp_path: Path) -> None:
    train(probing)
    (note,) = (tmp_path / "cache" / "backbones").iterdir()
    features = tmp_path / "cache" / "features"
    note.write_text("{damaged")
    train(replace(probing, output=str(tmp_path / "second")))
    note.write_text(note.read_text().replace(json.loads(note.read_text())["sha256"], "0" * 64))
    with pytest.raises(InputError, match=r"expected 0{64}"):
        train(replace(probing, output=str(tmp_path / "third")))
    before = {path.name for path in features.iterdir()}
    train(replace(probing, output=str(tmp_path / "fourth")))
    assert {path.name for path in features.iterdir()} == before


def test_without_its_record_a_run_takes_the_weights_that_it_was_trained_with_and_no_others(
    probing: TrainConfig, weights: Path, tmp_path: Path
) -> None:
    train(probing)
    folder = tmp_path / "run"
    (folder / "backbone.json").unlink()
    (folder / "backbone.safetensors").unlink()
    assert_tests_as_before(folder, tmp_path / "again")
    other_weights(weights)
    with pytest.raises(InputError, match="no longer what it was trained with: the weights file has changed"):
        evaluate(folder)


@pytest.mark.parametrize("mode", ["finetune", "probe"])
def test_going_on_and_testing_read_and_download_no_weights(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: Interruption, mode: str
) -> None:
    downloads: list[str] = []

    def downloaded(name: str, options: dict[str, Any]) -> nn.Module:
        downloads.append(name)
        return timm.create_model(name, pretrained=False, num_classes=0, **options)

    monkeypatch.setattr(backbones, "_from_download", downloaded)
    model = ModelConfig("test_resnet", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    config = tiny(mode=mode, model=model, cache=str(tmp_path / "cache"), checkpoint_minutes=1e-9)
    train(replace(config, output=str(tmp_path / "whole")))
    with interruption(lambda module: module.current_epoch == 1):
        train(config)
    count = len(downloads)
    assert downloads == ["test_resnet"] * count
    train(replace(config, resume=True))
    evaluate(tmp_path / "run", output=tmp_path / "again")
    shutil.rmtree(tmp_path / "cache")
    assert_tests_as_before(tmp_path / "run", tmp_path / "more")
    assert len(downloads) == count
    for name in ("run", "again"):
        one, two = (pd.read_parquet(tmp_path / place / "predictions.parquet") for place in ("whole", name))
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    record = json.loads((tmp_path / "run" / "backbone.json").read_text())
    assert (record["source"], record["mean"]) == ("hf-hub:timm/test_resnet.r160_in1k", [0.4, 0.5, 0.6])


def test_a_tag_that_timm_has_no_more_is_done_without(probing: TrainConfig, tmp_path: Path) -> None:
    train(probing)
    folder = tmp_path / "run"
    record = json.loads((folder / "backbone.json").read_text())
    (folder / "backbone.json").write_text(json.dumps({**record, "name": "test_resnet.gone_in1k"}))
    shutil.rmtree(tmp_path / "cache")
    assert_tests_as_before(folder, tmp_path / "again")
