"""Runs with the graph head: learnt, recorded, tested again from the checkpoint alone, resumed, shared by processes."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tailwise.cli import main
from tailwise.data.formats.digits import digits
from tailwise.data.pixels.augment import Augmentation
from tailwise.errors import InputError
from tailwise.models.gcn import label_adjacency
from tailwise.models.model_config import ModelConfig
from tailwise.training.config import TrainConfig, load
from tailwise.training.resolution import resolve
from tailwise.training.run import Result, evaluate, train
from tests.formats import read_csv
from tests.training.conftest import Interruption

Tiny = Callable[..., TrainConfig]
WIDTH = 6
GCN = ModelConfig(backbone="test_resnet", pretrained=False, head="gcn", label_width=WIDTH, graph_hidden=16)


def run(config: TrainConfig) -> Result:
    result = train(config)
    assert result is not None
    return result


def state_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """A file of word vectors with the four classes of the tiny data."""
    generator = np.random.default_rng(0)
    rows = {word: generator.normal(size=WIDTH) for word in ("the", "green", "red", "dark", "blue")}
    path = tmp_path / "vectors.txt"
    path.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in rows.items()))
    return path


@pytest.mark.parametrize("mode", ["finetune", "probe"])
def test_the_checkpoint_is_enough_to_test_again(tiny: Tiny, labels: Path, vectors: Path, mode: str) -> None:
    config = tiny(mode=mode, model=replace(GCN, label_embeddings=vectors))
    result = run(config)
    assert (result.metrics["head"], result.metrics["label_embeddings"]) == ("gcn", str(vectors))
    folder = Path(config.output)
    state = state_of(folder)
    train_rows = read_csv(labels).select("train")
    adjacency = label_adjacency(train_rows.targets, threshold=0.4, reweight=0.25)
    assert torch.equal(state["model.head.adjacency"], adjacency)
    assert (adjacency > 0).sum() > len(adjacency)
    assert state["model.head.embeddings"].shape == (4, WIDTH)
    assert not any(name.startswith("model.head.neck") for name in state)

    # Neither the word vectors nor the training rows are needed any more.
    vectors.unlink()
    rows = read_csv(labels).select("test")
    other = labels.parent / f"gcn-{mode}.csv"
    with other.open("w", newline="") as file:
        cells = [["" if label < 0 else label for label in row] for row in rows.targets]
        lines = [[image, *row] for image, row in zip(rows.names, cells, strict=True)]
        csv.writer(file).writerows([["image", *rows.class_names], *lines])
    again = evaluate(folder, data=str(other))
    assert again.metrics["AP"] == result.metrics["AP"]


@pytest.mark.parametrize("mode", ["finetune", "probe"])
def test_training_learns(tiny: Tiny, mode: str) -> None:
    config = tiny(
        mode=mode,
        sampler="uniform",
        model=GCN,
        augment=Augmentation(photometric=False),
        optim={"epochs": 20, "lr": 0.05, "warmup_steps": 10},
    )
    trained = run(config).metrics["AP"]
    # By chance it would be below 60.
    assert np.mean([trained[name] for name in ("red", "green", "blue")]) > 80


def test_digits_are_learnt_and_the_random_vectors_said(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        result = run(
            tiny(
                data="digits",
                mode="probe",
                batch_size=32,
                model=ModelConfig("test_resnet", pretrained=False, head="gcn"),
            )
        )
    chance = 100 * (digits().test_targets == 1).mean()
    assert result.metrics["mAP"]["total"] > 1.3 * chance
    assert result.metrics["label_embeddings"] == "random orthogonal, seed 0"
    assert "label embeddings: random orthogonal, seed 0" in caplog.text


@pytest.mark.parametrize("mode", ["finetune", "probe"])
def test_interrupted_run_resumes_to_the_same_end(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: Interruption, mode: str
) -> None:
    monkeypatch.setattr("tailwise.training.trainer._STEPS_BETWEEN_PROBE_CHECKPOINTS", 1)
    options: dict[str, Any] = {"mode": mode, "model": GCN, "optim": {"epochs": 2}}
    whole = run(tiny(output=str(tmp_path / "whole"), **options))
    config = tiny(output=str(tmp_path / "parts"), **options)
    with interruption(lambda module: module.current_epoch == 1):
        run(config)
    resumed = run(replace(config, resume=True))
    assert resumed.metrics["AP"] == whole.metrics["AP"]
    first, second = (state_of(tmp_path / name) for name in ("whole", "parts"))
    tensors = [name for name, value in first.items() if isinstance(value, torch.Tensor)]
    assert {"model.head.adjacency", "model.head.first.weight"} <= set(tensors)
    assert all(torch.equal(first[name], second[name]) for name in tensors)


def test_bf16_trains_close_to_fp32(tiny: Tiny, tmp_path: Path) -> None:
    scores = [
        run(tiny(output=str(tmp_path / precision), model=GCN, precision=precision, optim={"epochs": 1})).metrics["mAP"]
        for precision in ("fp32", "bf16")
    ]
    assert scores[0]["total"] == pytest.approx(scores[1]["total"], abs=10)


def test_a_graph_head_has_no_neck_and_a_probe_then_does_not_standardise(tiny: Tiny) -> None:
    for model, neck, standardize in (
        (ModelConfig(), "recipe", True),
        (ModelConfig(neck="none"), "none", False),
        (GCN, "none", False),
        (replace(GCN, neck="recipe"), "recipe", True),
    ):
        resolved = resolve(tiny(mode="probe", model=model))
        assert (resolved.model.neck, resolved.standardize_features) == (neck, standardize)
        other = resolve(tiny(mode="probe", model=model, standardize_features=not standardize))
        assert other.standardize_features != standardize


@pytest.mark.parametrize(("loss", "sampler"), [("asl", "uniform"), ("pg", "repeat-factor"), ("bce", "class-aware")])
def test_head_loss_and_sampler_combine_on_the_command_line_and_in_files(
    labels: Path, tmp_path: Path, vectors: Path, capsys: pytest.CaptureFixture[str], loss: str, sampler: str
) -> None:
    (tmp_path / "model.yaml").write_text(
        f"model:\n  head: gcn\n  label_embeddings: {vectors}\n  label_width: {WIDTH}\n  label_words:\n    dark: the\n"
        "  backbone: test_resnet\n  pretrained: false\n"
    )
    line = f"train --config {tmp_path / 'model.yaml'} --data {labels} --output {tmp_path / 'run'} --mode probe "
    line += f"--cache {tmp_path / 'cache'} --image-size 32 --batch-size 8 --accelerator cpu --epochs 1 "
    line += f"--loss {loss} --sampler {sampler} --thresholds [10,20] --graph-threshold 0.3"
    assert main(line.split()) == 0
    recorded = load(tmp_path / "run" / "config.yaml")
    assert (recorded.loss, recorded.sampler) == (loss, sampler)
    assert recorded.model == replace(
        GCN,
        label_embeddings=vectors,
        label_words={"dark": "the"},
        graph_threshold=0.3,
        graph_hidden=256,
        frozen_stages=1,
        neck="none",
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["loss"], metrics["head"]) == (loss, "gcn")
    assert f"label embeddings: {vectors}" in capsys.readouterr().err


def test_embeddings_that_cannot_be_used_stop_before_anything_is_written(tiny: Tiny, vectors: Path) -> None:
    config = tiny(mode="probe", model=replace(GCN, label_embeddings=vectors, label_width=7))
    with pytest.raises(InputError, match=r"vectors.txt:1: a vector of 6 values, expected 7"):
        run(config)
    assert not Path(config.output).exists()


def test_two_processes_train_the_model_of_one(labels: Path, tmp_path: Path) -> None:
    # With a loss that is a mean over samples, two processes with half the batch take the steps of one.
    line = f"train --data {labels} --cache {tmp_path / 'cache'} --mode probe --image-size 32 --accelerator cpu "
    line += "--backbone test_resnet --no-pretrained --model.head gcn --loss-options.reduction batchmean "
    line += "--epochs 1 --lr 0.01 --thresholds [10,20] "
    assert main(f"{line}--output {tmp_path / 'one'} --batch-size 8".split()) == 0
    source = str(Path(sys.modules["tailwise"].__file__ or "").parents[1])
    finished = subprocess.run(
        [sys.executable, "-m", "tailwise", *f"{line}--output {tmp_path / 'two'} --batch-size 4 --devices 2".split()],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    first, second = (pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("one", "two"))
    pd.testing.assert_frame_equal(first, second, atol=1e-5)


def test_real_photographs_are_probed_far_above_chance(photos: Path, backbone_weights: Path, tmp_path: Path) -> None:
    data = read_csv(photos, classes=photos.with_name("classes.json"))
    chosen = data.select("train_lt").subset(range(0, 1205, 3)), data.select("test").subset(range(200))
    path = tmp_path / "some.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", "labels"])
        for split, rows in zip(("train", "test"), chosen, strict=True):
            for image, row in zip(rows.names, rows.targets, strict=True):
                writer.writerow([image, split, "|".join(np.array(data.class_names)[row == 1])])
    model = ModelConfig(
        backbone="mobilenetv2_100",
        weights=backbone_weights,
        options={"pad_type": "same"},
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        head="gcn",
    )
    config = TrainConfig(
        data=str(path),
        root=str(photos.parent),
        classes=str(photos.with_name("classes.json")),
        output=str(tmp_path / "run"),
        cache=str(tmp_path / "cache"),
        mode="probe",
        loss="bce",
        image_size=96,
        model=model,
        accelerator="cpu",
        quiet=True,
    )
    result = run(config)
    positive = chosen[1].targets == 1
    chance = 100 * positive.mean(axis=0)[positive.any(axis=0)].mean()
    assert result.metrics["mAP"]["total"] > 2 * chance
