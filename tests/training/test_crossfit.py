"""Thresholds from all training images, each scored by a model that has not seen it: against folds run one by one."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

from tailwise.errors import InputError
from tailwise.metrics import f1_scores, fit_decisions
from tailwise.models.model_config import ModelConfig
from tailwise.training import run as running
from tailwise.training.config import TrainConfig, load
from tailwise.training.folder import load_thresholds
from tailwise.training.resolution import resolve
from tailwise.training.run import evaluate, train
from tailwise.training.trainer import MultiLabelModule
from tests.formats import read_csv
from tests.training.conftest import Interruption

Tiny = Callable[..., TrainConfig]


def run(config: TrainConfig) -> dict[str, Any]:
    result = train(config)
    assert result is not None
    return result.metrics


def assert_same_model(first: Path, second: Path) -> None:
    one, two = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in (first, second)
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]) if isinstance(value, torch.Tensor) else value == two[name], name


def labels_of(data: Path, images: list[str]) -> np.ndarray:
    rows = read_csv(data)
    label_of = dict(zip(rows.names, rows.targets, strict=True))
    return np.array([label_of[image] for image in images])


@pytest.mark.parametrize(("mode", "folds"), [("probe", 3), ("finetune", 2)])
def test_all_folds_at_once_are_the_folds_one_by_one_and_the_model_of_the_whole_split(
    tiny: Tiny, labels: Path, tmp_path: Path, computed: list[str], mode: str, folds: int
) -> None:
    base = tiny(mode=mode, cache=str(tmp_path / "cache"), optim={"epochs": 1})
    metrics = run(replace(base, val_folds=folds, val_fold="all"))
    assert computed == (["features of train", "features of test"] if mode == "probe" else [])
    folder = tmp_path / "run"
    by_hand = []
    for fold in range(folds):
        run(replace(base, val_folds=folds, val_fold=fold, output=str(tmp_path / f"fold{fold}")))
        by_hand.append(pd.read_parquet(tmp_path / f"fold{fold}" / "validation.parquet"))
        assert_same_model(tmp_path / f"fold{fold}", folder / "folds" / str(fold))
    plain = run(replace(base, output=str(tmp_path / "plain")))
    assert_same_model(tmp_path / "plain", folder)
    assert (metrics["AP"], metrics["CF1"]) == (plain["AP"], plain["CF1"])

    whole = read_csv(labels).select("train")
    expected = pd.concat(by_hand).set_index("image").loc[list(whole.names)].reset_index()
    found = pd.read_parquet(folder / "validation.parquet")
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    pooled = expected.iloc[:, 1:].to_numpy()
    decisions, fitted = load_thresholds(folder), fit_decisions(pooled, whole.targets, whole.class_names)
    assert decisions is not None
    for one, two in zip(
        (decisions.thresholds, *decisions.calibration), (fitted.thresholds, *fitted.calibration), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    validation = metrics["validation"]
    assert (validation["split"], validation["folds"]) == (f"train, cross-validated in {folds} folds", folds)
    assert validation["num_images"] == 46
    precision = []
    for index, name in enumerate(whole.class_names):
        known = whole.targets[:, index] >= 0
        precision.append(100 * average_precision_score(whole.targets[known, index], expected[name][known]))
        assert validation["AP"][name] == pytest.approx(precision[-1])
    assert validation["mAP"]["total"] == pytest.approx(np.mean(precision))
    assert "CF1_tuned" not in validation
    test = pd.read_parquet(folder / "predictions.parquet")
    tuned = f1_scores(test.iloc[:, 1:].to_numpy(), labels_of(labels, list(test["image"])), fitted.thresholds)
    assert metrics["CF1_tuned"] == pytest.approx(100 * tuned.cf1)
    assert evaluate(folder).metrics["CF1_tuned"] == metrics["CF1_tuned"]


def is_in_the_second_epoch_of(folder: Path, module: MultiLabelModule) -> bool:
    return Path(module.trainer.default_root_dir) == folder and module.current_epoch == 1 and module.global_step % 2 == 1


def test_a_run_killed_anywhere_goes_on_to_the_same_bytes(
    tiny: Tiny, tmp_path: Path, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(mode="probe", val_folds=2, val_fold="all", checkpoint_minutes=1e-9, optim={"epochs": 2})
    monkeypatch.setattr("tailwise.training.trainer._STEPS_BETWEEN_LOOKS", 2)
    whole = run(replace(config, output=str(tmp_path / "whole")))
    folder = tmp_path / "run"
    for resume, place in enumerate((folder / "folds" / "0", folder / "folds" / "1", folder)):
        with interruption(lambda module, place=place: is_in_the_second_epoch_of(place, module)):
            train(replace(config, resume=bool(resume)))
    assert (folder / "folds" / "1" / "metrics.json").is_file()
    assert not (folder / "metrics.json").is_file()
    # And one that was killed before it was a run.
    shutil.rmtree(folder / "folds" / "1")
    (folder / "folds" / "1" / "checkpoints").mkdir(parents=True)
    finished = (folder / "folds" / "0" / "metrics.json").stat().st_mtime_ns
    again = run(replace(config, resume=True))
    assert (folder / "folds" / "0" / "metrics.json").stat().st_mtime_ns == finished
    for name in ("validation.parquet", "thresholds.json", "predictions.parquet", "stats.json"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    for place in ("", "folds/0", "folds/1"):
        assert_same_model(folder / place, tmp_path / "whole" / place)
    assert again["validation"] == whole["validation"]
    assert run(replace(config, resume=True)) == again


def test_a_probe_goes_on_with_its_folds_when_the_weights_file_is_gone(
    tiny: Tiny, weights: Path, tmp_path: Path, interruption: Interruption
) -> None:
    model = ModelConfig("test_resnet", weights=weights)
    config = tiny(mode="probe", model=model, val_folds=2, val_fold="all", optim={"epochs": 2})
    with interruption(lambda module: is_in_the_second_epoch_of(tmp_path / "run" / "folds" / "0", module)):
        train(config)
    weights.unlink()
    assert run(replace(config, resume=True))["validation"]["num_images"] == 46
    assert [path.name for path in sorted((tmp_path / "run").rglob("backbone.safetensors"))] == ["backbone.safetensors"]


def test_without_a_test_split_all_images_are_trained_on_and_thresholds_are_cross_fitted(
    tiny: Tiny, labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pd.read_csv(labels)
    table["split"] = "train"
    data = labels.parent / "all-for-training.csv"
    table.to_csv(data, index=False)
    config = tiny(data=str(data), mode="probe", test_split="none", val_folds=2, val_fold="all", optim={"epochs": 1})
    with caplog.at_level(logging.INFO, "tailwise"):
        metrics = run(config)
    assert [line for line in caplog.messages if "holding out" in line] == [
        "holding out fold 0 of 2 (from 0)",
        "holding out fold 1 of 2 (from 0)",
    ]
    assert "training without fold 1 of 2, epoch 1 of 1" in caplog.text
    assert (metrics["split"], metrics["num_images"], metrics["validation"]["num_images"]) == (None, 0, 76)
    assert "mAP" not in metrics
    folder = tmp_path / "run"
    assert not (folder / "predictions.parquet").exists()
    assert load(folder / "config.yaml") == resolve(config)
    with pytest.raises(InputError, match=r"has no test split: say what to test it on with --split or --data"):
        evaluate(folder)
    assert evaluate(folder, split="train").metrics["num_images"] == 76
    assert evaluate(folder, data=str(labels)).metrics["CF1_tuned"] is not None


def test_none_is_no_name_of_a_split_then(tiny: Tiny, labels: Path, tmp_path: Path) -> None:
    table = pd.read_csv(labels)
    table.loc[60:, "split"] = "none"
    data = labels.parent / "called-none.csv"
    table.to_csv(data, index=False)
    with pytest.raises(InputError, match=r"--test-split none means to test on nothing, and .*called-none.csv has a"):
        train(tiny(data=str(data), test_split="none"))
    assert not (tmp_path / "run").exists()
    # As what it is called, it serves.
    config = tiny(data=str(data), mode="probe", val_split="none", optim={"epochs": 1})
    assert run(config)["validation"]["num_images"] == 16
    assert evaluate(tmp_path / "run", split="none").metrics["num_images"] == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fold": "all"}, "--val-fold all holds out every part in turn: give their number, such as --val-folds 5"),
        (
            {"val_fold": "all", "val_folds": 3, "devices": 2},
            "--val-fold all trains one model after the other on one dev",
        ),
        ({"val_fold": "all", "val_folds": 3, "val_split": "val"}, "--val-split and --val-folds are both given"),
        ({"val_fold": "all", "val_folds": 60}, "too few images, 46, for 60 folds"),
    ],
)
def test_options_that_do_not_go_with_all_folds_are_refused(
    tiny: Tiny, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(tiny(mode="probe", **options))
    assert not (tmp_path / "run" / "folds").exists()


def test_a_fold_that_says_nothing_is_refused_before_any_is_trained(tiny: Tiny, labels: Path, tmp_path: Path) -> None:
    data = labels.parent / "two-positives.csv"
    with data.open("w", newline="") as file:
        rows = [[f"images/{index}.jpg", "train", int(index < 2)] for index in range(12)]
        csv.writer(file).writerows([["image", "split", "red"], *rows, ["images/50.jpg", "test", 1]])
    config = tiny(data=str(data), mode="probe", val_folds=3, val_fold="all", thresholds=(1, 2), epoch_reduce=1.0)
    with pytest.raises(InputError, match=r"no image of split 'train, fold \d of 3' has a positive label"):
        train(config)
    assert not (tmp_path / "run" / running.FOLDS_FOLDER).exists()


def test_folds_on_images_some_of_which_cannot_be_read(tiny: Tiny, labels: Path, tmp_path: Path) -> None:
    content = (labels.parent / "images" / "0.jpg").read_bytes()
    (labels.parent / "cut.jpg").write_bytes(content[: len(content) // 2])
    data = labels.parent / "one-cut.csv"
    data.write_text(labels.read_text() + "cut.jpg,train,1,1,0,0\n")
    config = tiny(data=str(data), mode="probe", on_error="skip", val_folds=2, val_fold="all", optim={"epochs": 1})
    assert run(config)["validation"]["num_images"] == 46
    listed = json.loads((tmp_path / "run" / "thresholds.json").read_text())["classes"]
    known = read_csv(labels).select("train").targets
    assert [entry["positives"] for entry in listed.values()] == (known == 1).sum(axis=0).tolist()
