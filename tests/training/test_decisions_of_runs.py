"""Thresholds and calibration of runs: what is written, what tests do with it, and on real photographs."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score

from tailwise.cli import main
from tailwise.errors import InputError
from tailwise.metrics import calibration_error, f1_scores, fit_decisions
from tailwise.models.model_config import ModelConfig
from tailwise.training.config import OptimConfig, TrainConfig
from tailwise.training.folder import load_thresholds
from tailwise.training.resolution import resolve
from tailwise.training.run import evaluate, train
from tests.formats import read_csv

Tiny = Callable[..., TrainConfig]


def run(config: TrainConfig) -> dict[str, Any]:
    result = train(config)
    assert result is not None
    return result.metrics


def predicted(path: Path, data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a predictions file, and the labels of its images."""
    table = pd.read_parquet(path)
    rows = read_csv(data).select(split)
    label_of = dict(zip(rows.names, rows.targets, strict=True))
    return table.iloc[:, 1:].to_numpy(), np.array([label_of[image] for image in table["image"]])


def same_decisions(one: Any, two: Any) -> bool:
    return one.untuned == two.untuned and all(
        np.array_equal(first, second)
        for first, second in zip((one.thresholds, *one.calibration), (two.thresholds, *two.calibration), strict=True)
    )


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("probe", {}),
        ("finetune", {"threshold_objective": "recall", "threshold_target": 0.9, "calibration": "temperature"}),
    ],
)
def test_a_run_with_validation_images_fits_decisions_and_is_tested_with_them(
    tiny: Tiny, labels: Path, tmp_path: Path, mode: str, options: dict[str, Any]
) -> None:
    config = tiny(mode=mode, val_folds=2, **options)
    metrics = run(config)
    folder = Path(config.output)
    logits, targets = predicted(folder / "validation.parquet", labels, "train")
    names = read_csv(labels).class_names
    decisions = load_thresholds(folder)
    assert decisions is not None
    expected = fit_decisions(
        logits,
        targets,
        names,
        config.threshold_objective,
        target=config.threshold_target,
        method=config.calibration,
    )
    assert same_decisions(decisions, expected)
    logits, targets = predicted(folder / "predictions.parquet", labels, "test")
    tuned = f1_scores(logits, targets, expected.thresholds)
    assert (metrics["CF1_tuned"], metrics["OF1_tuned"]) == pytest.approx((100 * tuned.cf1, 100 * tuned.of1))
    for name, thresholds, probabilities in (
        ("", np.zeros(4), expit(logits.astype(float))),
        ("_tuned", expected.thresholds, expected.calibrate(logits).numpy()),
    ):
        suffix = "_calibrated" if name else ""
        errors = 100 * calibration_error(probabilities, targets)
        assert metrics[f"calibration_error{suffix}"] == pytest.approx(float(errors.mean()))
        for k, class_name in enumerate(names):
            known = targets[:, k] >= 0
            f1 = f1_score(targets[known, k], logits[known, k] >= thresholds[k], zero_division=0)
            assert metrics[f"F1{name}"][class_name] == pytest.approx(100 * f1)
            assert metrics[f"calibration_error{suffix}_by_class"][class_name] == pytest.approx(float(errors[k]))
    assert "CF1_tuned" not in metrics["validation"]
    again = evaluate(folder, output=tmp_path / "again").metrics
    assert {name: value for name, value in again.items() if name in metrics and name != "versions"} == {
        name: metrics[name] for name in again if name in metrics and name != "versions"
    }


def test_evaluation_uses_the_thresholds_in_the_folder_of_the_run(tiny: Tiny, labels: Path) -> None:
    config = tiny(mode="probe", optim={"epochs": 1})
    folder = Path(config.output)
    assert "CF1_tuned" not in run(config)
    assert load_thresholds(folder) is None
    logits, targets = predicted(folder / "predictions.parquet", labels, "test")
    # As from the pooled folds of a cross-validation.
    decisions = fit_decisions(logits, targets, read_csv(labels).class_names)
    decisions.save(folder / "thresholds.json")
    metrics = evaluate(folder).metrics
    assert metrics["OF1_tuned"] == pytest.approx(100 * f1_scores(logits, targets, decisions.thresholds).of1)
    assert metrics["OF1_tuned"] > metrics["OF1"]
    fit_decisions(logits, targets, ("a", "b", "c", "d")).save(folder / "thresholds.json")
    with pytest.raises(InputError, match=r"thresholds\.json has other classes than the run"):
        evaluate(folder)
    (folder / "thresholds.json").write_text("{}")
    with pytest.raises(InputError, match=r"thresholds\.json is not a file of thresholds.*remove it"):
        evaluate(folder)


def test_classes_without_a_threshold_are_told_of(tiny: Tiny, labels: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = pd.read_csv(labels)
    table.loc[60:, "split"] = "val"
    table.loc[60:, "dark"] = 0
    data = labels.parent / "no-dark.csv"
    table.to_csv(data, index=False)
    config = tiny(data=str(data), mode="probe", val_split="val", optim={"epochs": 1})
    with caplog.at_level(logging.WARNING):
        run(config)
    assert "1 of 4 classes keep the threshold of probability 1/2" in caplog.text
    assert "no threshold good enough: dark" in caplog.text
    record = json.loads((Path(config.output) / "thresholds.json").read_text())["classes"]["dark"]
    assert (record["threshold"], record["tuned"], record["positives"], record["slope"]) == (0, False, 0, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"threshold_objective": "precision"},
        {"threshold_objective": "recall", "threshold_target": 0.0},
        {"threshold_objective": "recall", "threshold_target": 1.5},
        {"threshold_target": 0.5},
    ],
)
def test_targets_must_belong_to_the_objective(tiny: Tiny, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"--threshold-target must be above 0 and at most 1, or null for f1, got"):
        resolve(tiny(**options))


def test_photographs_of_one_fold_decide_on_the_test(
    photos: Path, backbone_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some of the photographs, small, with a network that knows photographs."""
    source = read_csv(photos)
    data = tmp_path / "some.csv"
    with data.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", "labels"])
        for split, name, number in (("train_lt", "train", 80), ("test", "test", 150)):
            rows = source.select(split)
            # Every image of a rare class, so that all classes can be learnt, and some others.
            rare = rows.targets[:, rows.stats().class_counts < 30].any(axis=1)
            rows = rows.subset(np.flatnonzero(rare | (np.arange(len(rows)) < number)))
            for image, targets in zip(rows.names, rows.targets, strict=True):
                writer.writerow([image, name, "|".join(np.array(rows.class_names)[targets == 1])])
    run_folder = tmp_path / "run"
    config = TrainConfig(
        data=str(data),
        root=str(photos.parent),
        output=str(run_folder),
        cache=str(tmp_path / "cache"),
        mode="probe",
        val_folds=5,
        val_fold=3,
        image_size=96,
        thresholds=(5, 20),
        model=ModelConfig(
            backbone="mobilenetv2_100",
            weights=backbone_weights,
            options={"pad_type": "same"},
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
        ),
        optim=OptimConfig(epochs=4, warmup_steps=20),
        accelerator="cpu",
        quiet=True,
    )
    metrics = run(config)
    assert {"validation.parquet", "thresholds.json", "predictions.parquet", "metrics.json"} <= {
        path.name for path in run_folder.iterdir()
    }
    assert metrics["validation"]["num_images"] == len(pd.read_parquet(run_folder / "validation.parquet"))
    assert metrics["CF1_tuned"] != metrics["CF1"]
    # DB-Focal with class-aware sampling makes rare classes far too likely.
    assert metrics["calibration_error_calibrated"] < metrics["calibration_error"] / 2
    assert main(["evaluate", str(run_folder)]) == 0
    printed = capsys.readouterr().out
    for name in ("CF1", "CF1_tuned", "OF1", "OF1_tuned", "calibration_error", "calibration_error_calibrated"):
        assert f"{metrics[name]:.2f}" in printed
    assert "traffic light" in printed
