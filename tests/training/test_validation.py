"""Validation images: held out of the training split or a split of their own, and what is written about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler, normalize

from tailwise import LabelStats
from tailwise.errors import InputError
from tailwise.training import finetune, probe
from tailwise.training.config import TrainConfig
from tailwise.training.inputs import open_images, read_run
from tailwise.training.resolution import resolve
from tailwise.training.run import create_loss, evaluate, train
from tests.formats import read_csv
from tests.training.conftest import Interruption

Tiny = Callable[..., TrainConfig]
CPU = torch.device("cpu")
FOLDS = 4


def run(config: TrainConfig) -> dict[str, Any]:
    result = train(config)
    assert result is not None
    return result.metrics


def validated(folder: Path) -> tuple[str, ...]:
    return tuple(pd.read_parquet(folder / "validation.parquet")["image"])


def add_rows(labels: Path, name: str, rows: list[str]) -> Path:
    data = labels.parent / name
    data.write_text("\n".join([*labels.read_text().splitlines(), *rows]) + "\n")
    return data


@pytest.mark.parametrize("mode", ["finetune", "probe"])
def test_a_fold_is_validated_on_and_the_rest_trained_on(tiny: Tiny, labels: Path, mode: str) -> None:
    config = tiny(mode=mode, val_folds=FOLDS, val_fold=1, optim={"epochs": 1})
    metrics = run(config)
    folder = Path(config.output)
    whole = read_csv(labels).select("train")
    held_out = np.isin(whole.names, validated(folder))
    assert validated(folder) == tuple(np.array(whole.names)[held_out])
    rest = whole.subset(~held_out)
    assert LabelStats.load(folder / "stats.json") == LabelStats.from_targets(rest.targets, whole.class_names, (10, 20))
    found = metrics["validation"]
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert (found["split"], found["num_images"]) == (f"train, fold 1 of {FOLDS}", held_out.sum())
    predictions = pd.read_parquet(folder / "validation.parquet")
    targets = whole.targets[held_out]
    for index, name in enumerate(whole.class_names):
        known = targets[:, index] >= 0
        expected = 100 * average_precision_score(targets[known, index], predictions[name][known])
        assert found["AP"][name] == pytest.approx(expected)
    assert found["mAP"]["total"] == pytest.approx(np.mean(list(found["AP"].values())))
    # The test is that of any run, and so is a later one.
    assert metrics["num_images"] == 30
    assert evaluate(folder).metrics["AP"] == metrics["AP"]


def test_folds_cover_the_training_split_once_whatever_the_seed_and_spread_classes_evenly(tiny: Tiny) -> None:
    parts = [read_run(tiny(val_folds=FOLDS, val_fold=fold)) for fold in range(FOLDS)]
    whole = parts[0].whole
    assert sorted(sum((part.validation.names for part in parts if part.validation), ())) == sorted(whole.names)
    for part in parts:
        assert part.validation is not None
        assert {*part.train.names, *part.validation.names} == {*whole.names}
        assert len(part.train) + len(part.validation) == len(whole)
    counts = np.array([(part.whole.targets[part.held_out] == 1).sum(axis=0) for part in parts])
    assert (counts.max(axis=0) - counts.min(axis=0) <= 3).all()
    other = read_run(tiny(val_folds=FOLDS, seed=7, loss="bce", batch_size=4))
    assert np.array_equal(other.held_out, parts[0].held_out)


def test_a_split_of_its_own_is_validated_on(tiny: Tiny, labels: Path) -> None:
    table = pd.read_csv(labels)
    table.loc[60:, "split"] = "val"
    data = labels.parent / "with-val.csv"
    table.to_csv(data, index=False)
    config = tiny(data=str(data), mode="probe", val_split="val", optim={"epochs": 1})
    metrics = run(config)
    folder = Path(config.output)
    validation = metrics["validation"]
    assert (validation["split"], validation["num_images"], metrics["num_images"]) == ("val", 16, 14)
    assert validated(folder) == read_csv(data).select("val").names
    assert LabelStats.load(folder / "stats.json").num_samples == 46
    on_val = evaluate(folder, split="val", output=folder / "again")
    assert on_val.metrics["AP"] == validation["AP"]
    first, second = (pd.read_parquet(folder / name) for name in ("validation.parquet", "again/predictions.parquet"))
    pd.testing.assert_frame_equal(first, second)


def test_without_validation_images_nothing_is_written_about_them(tiny: Tiny) -> None:
    config = tiny(mode="probe", optim={"epochs": 1})
    assert "validation" not in run(config)
    assert not (Path(config.output) / "validation.parquet").exists()


def test_features_are_computed_once_for_all_folds_and_scaled_by_the_training_rows(tiny: Tiny, tmp_path: Path) -> None:
    config = resolve(tiny(mode="probe", cache=str(tmp_path / "cache")))
    whole = probe.new_task(config, read_run(config), CPU).train.table.batch(torch.arange(46))
    files = set(config.cache_folder.rglob("*.npy"))
    for fold in range(FOLDS):
        splits = read_run(replace(config, val_folds=FOLDS, val_fold=fold))
        task = probe.new_task(config, splits, CPU)
        assert task.validation is not None
        rows = task.train.table.batch(torch.arange(len(task.train.split)))
        assert torch.equal(rows, whole[~splits.held_out])
        assert torch.equal(
            task.validation.table.batch(torch.arange(len(task.validation.split))), whole[splits.held_out]
        )
        expected = StandardScaler().fit(normalize(rows.numpy()))
        np.testing.assert_allclose(task.model.scale.mean, expected.mean_, rtol=1e-4, atol=1e-6)
    assert set(config.cache_folder.rglob("*.npy")) == files


def test_fine_tuning_sees_validation_images_at_the_size_of_the_network(tiny: Tiny) -> None:
    config = resolve(tiny(val_folds=FOLDS))
    splits = read_run(config)
    task = finetune.new_task(config, splits, torch.device("cpu"), create_loss)
    assert task.validation is not None
    assert splits.validation is not None
    expected = open_images(splits.validation, 32, config).table.batch(torch.arange(len(splits.validation)))
    assert torch.equal(task.validation.table.batch(torch.arange(len(splits.validation))), expected)
    whole = open_images(splits.whole, 40, config).table.batch(torch.arange(46))
    assert torch.equal(task.train.table.batch(torch.arange(len(splits.train))), whole[~splits.held_out])
    assert task.train.key != task.validation.key


@pytest.mark.parametrize("mode", ["finetune", "probe"])
def test_damaged_images_are_left_out_of_both_parts(tiny: Tiny, labels: Path, mode: str) -> None:
    whole = (labels.parent / "images" / "0.jpg").read_bytes()
    damaged = [f"images/half{index}.jpg" for index in range(8)]
    for name in damaged:
        (labels.parent / name).write_bytes(whole[: len(whole) // 2])
    data = add_rows(labels, "damaged-folds.csv", [f"{name},train,1,0,0,0" for name in damaged])
    config = tiny(data=str(data), mode=mode, on_error="skip", val_folds=2, optim={"epochs": 1})
    splits = read_run(config)
    assert 0 < splits.held_out[-8:].sum() < 8
    metrics = run(config)
    readable = ~np.isin(splits.whole.names, damaged)
    folder = Path(config.output)
    assert validated(folder) == tuple(np.array(splits.whole.names)[splits.held_out & readable])
    assert metrics["validation"]["num_images"] == (splits.held_out & readable).sum()
    stats = LabelStats.from_targets(
        splits.whole.targets[~splits.held_out & readable], splits.whole.class_names, (10, 20)
    )
    assert LabelStats.load(folder / "stats.json") == stats
    listed = (folder / "skipped.txt").read_text()
    assert [listed.count(name) for name in damaged] == [1] * 8


def test_a_fold_without_readable_image_is_refused(tiny: Tiny, labels: Path) -> None:
    (labels.parent / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(labels.parent / "good.jpg")
    (labels.parent / "good2.jpg").write_bytes((labels.parent / "good.jpg").read_bytes())
    data = labels.parent / "three.csv"
    data.write_text("image,split,red\nempty.jpg,train,1\ngood.jpg,train,1\ngood2.jpg,train,0\nimages/0.jpg,test,1\n")
    config = tiny(data=str(data), mode="probe", on_error="skip", val_folds=3, epoch_reduce=0.5)
    splits = [read_run(replace(config, val_fold=fold)) for fold in range(3)]
    (fold,) = [index for index, part in enumerate(splits) if part.held_out[0]]
    with pytest.raises(InputError, match=f"none of the images of split 'train, fold {fold} of 3' can be read"):
        train(replace(config, val_fold=fold))


def test_interrupted_run_resumes_with_its_fold_and_refuses_another(
    tiny: Tiny, tmp_path: Path, interruption: Interruption
) -> None:
    config = tiny(mode="probe", val_folds=FOLDS, val_fold=2, checkpoint_minutes=1e-9)
    whole = run(replace(config, output=str(tmp_path / "whole")))
    with interruption(lambda module: module.current_epoch == 1):
        train(config)
    with pytest.raises(InputError, match="--val-fold: 2, now 3"):
        train(replace(config, val_fold=3, resume=True))
    assert run(replace(config, resume=True))["validation"] == whole["validation"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_split": "val", "val_folds": 2}, "--val-split and --val-folds are both given"),
        ({"val_folds": 1}, "--val-folds must be 0, or 2 or more, got 1"),
        ({"val_folds": -2}, "--val-folds must be at least 0, got -2"),
        ({"val_folds": 3, "val_fold": 3}, "--val-fold must be 0 or more, and below --val-folds, got 3"),
        ({"val_fold": 1}, "--val-fold must be 0 or more, and below --val-folds, got 1"),
        ({"val_split": "train"}, "--train-split and --val-split both have 'train'"),
        ({"val_split": "test"}, "--test-split and --val-split both have 'test'"),
        ({"train_split": "train+val", "val_split": "val"}, "--train-split and --val-split both have 'val'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tiny: Tiny, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(tiny(**options))


def test_data_without_enough_to_validate_on_are_refused(tiny: Tiny, labels: Path) -> None:
    with pytest.raises(InputError, match="too few images, 46, for 60 folds"):
        read_run(tiny(val_folds=60, val_fold=59))
    table = pd.read_csv(labels)
    table.loc[70:, "split"] = "val"
    table.loc[70:, ["red", "green", "blue", "dark"]] = 0
    data = labels.parent / "empty-val.csv"
    table.to_csv(data, index=False)
    with pytest.raises(InputError, match="no image of split 'val' has a positive label"):
        train(tiny(data=str(data), mode="probe", val_split="val"))
