"""Folders of runs and comparisons as training and comparing leave them, made without either."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from PIL import Image

from tailwise.labels import LabelStats
from tailwise.metrics import CurveRecorder, average_precision, f1_scores, group_means
from tailwise.training.config import HeadConfig, TrainConfig, save
from tailwise.training.folder import write_json, write_predictions
from tailwise.training.resolution import resolve
from tailwise.training.testing import score

CLASSES = (
    "person",
    "</script><script>boom()</script>",
    '"><img src=x onerror=boom()>',
    "a & b <b>bold</b> {{ 7 * 7 }}",
    "العربية",
    '🦊 fox\'s "den"',
    "never tested",
)
METHODS = {"bce": 0.6, "db-focal": 0.9, "pg": 1.2, "<i>odd</i>": 0.3}
"""Methods by how well their scores go with the labels."""
SEEDS = (0, 1)
THRESHOLDS = (8, 30)
NUM_TRAIN, NUM_TEST = 60, 90


@dataclass(frozen=True)
class Data:
    """Labels in a file, with images beside it.

    Attributes:
        path: the file.
        stats: of the training split.
        images: references of the test split.
        targets: labels of the test split, with unknown ones.
    """

    path: Path
    stats: LabelStats
    images: tuple[str, ...]
    targets: np.ndarray

    def config(self, output: Path, **options: Any) -> TrainConfig:
        classes = self.path.with_name("classes.json")
        return resolve(
            TrainConfig(
                data=str(self.path),
                classes=str(classes),
                output=str(output),
                thresholds=THRESHOLDS,
                mode="probe",
                head=HeadConfig(solver="sgd"),
                **options,
            )
        )


def make_data(folder: Path, classes: Sequence[str] = CLASSES) -> Data:
    """Labels with classes of every group, and small images of several shapes."""
    generator = np.random.default_rng(3)
    share = np.geomspace(0.7, 0.08, len(classes))
    train = (generator.random((NUM_TRAIN, len(classes))) < share).astype(np.int8)
    test = (generator.random((NUM_TEST, len(classes))) < np.maximum(share, 0.15)).astype(np.int8)
    test[:5, 1] = -1
    test[:, -1] = 0
    lines = []
    for split, targets in (("train", train), ("test", test)):
        for row, labels in enumerate(targets):
            image = f"{split}{row}.png"
            pixels = generator.integers(0, 255, (30 if row % 2 else 50, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / image)
            named = {name: None if y < 0 else int(y) for name, y in zip(classes, labels.tolist(), strict=True) if y}
            lines.append(json.dumps({"image": image, "labels": named, "split": split}))
    path = folder / "labels.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    (folder / "classes.json").write_text(json.dumps(list(classes)), encoding="utf-8")
    stats = LabelStats.from_targets(train, classes, THRESHOLDS)
    return Data(path, stats, tuple(f"test{row}.png" for row in range(NUM_TEST)), test)


def make_logits(data: Data, skill: float, seed: int) -> torch.Tensor:
    noise = np.random.default_rng([seed, int(100 * skill)]).normal(size=data.targets.shape)
    return torch.from_numpy((noise + 2 * skill * (data.targets == 1) - 1).astype(np.float32))


def make_run(folder: Path, data: Data, logits: torch.Tensor, **options: Any) -> dict[str, Any]:
    """The folder of a finished run, with these predictions."""
    folder.mkdir(parents=True)
    config = data.config(folder, **options)
    save(config, folder / "config.yaml")
    data.stats.save(folder / "stats.json")
    write_predictions(folder / "predictions.parquet", data.images, data.stats.class_names, logits)
    recorder = CurveRecorder(data.stats, every=2)
    for step in range(20):
        recorder.update(logits * step / 20, torch.from_numpy(data.targets))
    recorder.curves().save(folder / "curves.npz")
    metrics = {
        "split": "test",
        "num_images": len(data.images),
        **score(logits, data.targets, data.stats),
        "seed": config.seed,
        "seconds": 1.5 + config.seed,
        "versions": {"tailwise": "0", "torch": "2"},
    }
    write_json(folder / "metrics.json", metrics)
    return metrics


def make_comparison(folder: Path, data: Data, skills: Mapping[str, float] = METHODS) -> dict[str, Any]:
    """The folder of a comparison of these methods, and of one that failed; returns the content of results.json."""
    logits = {name: [make_logits(data, skill, seed) for seed in SEEDS] for name, skill in skills.items()}
    for name, by_seed in logits.items():
        for seed, scores in zip(SEEDS, by_seed, strict=True):
            loss = name if name in ("bce", "db-focal", "pg") else "focal"
            make_run(folder / "runs" / name / f"seed{seed}", data, scores, loss=loss, seed=seed)
    means = {}
    for name, by_seed in logits.items():
        precision = np.mean([average_precision(scores, data.targets).numpy() for scores in by_seed], axis=0)
        means[name] = group_means(precision, data.stats.groups)
    best = max(means, key=lambda name: means[name]["total"])
    stats = data.stats
    results = {
        "format": "tailwise-comparison-1",
        "data": {
            "source": data.path.name,
            "train_split": "train",
            "test_split": "test",
            "num_train": stats.num_samples,
            "num_test": len(data.images),
            "class_names": list(stats.class_names),
            "class_counts": stats.class_counts.tolist(),
            "test_counts": (data.targets == 1).sum(0).tolist(),
            "groups": {name: members.tolist() for name, members in stats.groups.items()},
        },
        "mode": "probe",
        "seeds": list(SEEDS),
        "folds": 3,
        "baseline": "bce",
        "bootstrap": {"replicates": 50, "level": 0.95},
        "shared": {"mode": "probe", "recipe": None, "thresholds": list(THRESHOLDS)},
        "methods": [
            *(_method(name, by_seed, data, means, best) for name, by_seed in logits.items()),
            {
                "name": "apaf",
                "options": {"loss": "apaf"},
                "chosen": None,
                "failed": {"run": "runs/apaf/seed1", "reason": "the loss is <no number>: lower optim.lr"},
                "test": None,
                "validation": None,
            },
        ],
        "best": {"test": best, "validation": None},
        "recommendation": {"methods": [best], "text": [f"Take {best} & <b>nothing</b> else."]},
    }
    write_json(folder / "results.json", results)
    return results


def _method(
    name: str, by_seed: Sequence[torch.Tensor], data: Data, means: Mapping[str, Mapping[str, float]], best: str
) -> dict[str, Any]:
    per_run = [100 * average_precision(scores, data.targets).numpy() for scores in by_seed]
    by_group = [group_means(values, data.stats.groups) for values in per_run]
    f1 = [f1_scores(scores, data.targets) for scores in by_seed]

    def against(other: str) -> dict[str, Any]:
        gaps = {group: 100 * (means[name][group] - means[other][group]) for group in means[name]}
        return {group: {"difference": gap, "low": gap - 2, "high": gap + 2} for group, gap in gaps.items()}

    def shifted(by: float) -> list[float | None]:
        return [None if np.isnan(value) else float(value) + by for value in np.mean(per_run, axis=0)]

    test = {
        "mean": {group: fmean(run[group] for run in by_group) for group in by_group[0]},
        "std": {group: stdev([run[group] for run in by_group]) for group in by_group[0]},
        "CF1": 100 * fmean(scores.cf1 for scores in f1),
        "OF1": 100 * fmean(scores.of1 for scores in f1),
        "CF1_tuned": 61.25,
        "OF1_tuned": 62.5,
        "calibration_error": 4.75,
        "calibration_error_calibrated": 1.25,
        "AP": shifted(0),
        "AP_low": shifted(-3),
        "AP_high": shifted(4),
        "runs": [
            {"seed": seed, "mAP": run, "AP": [None if np.isnan(value) else float(value) for value in values]}
            for seed, run, values in zip(SEEDS, by_group, per_run, strict=True)
        ],
        "against_best": against(best),
        "against_baseline": against("bce"),
    }
    options = {"loss": name, "loss_options": {"gamma": 1.0}}
    return {
        "name": name,
        "title": name,
        "options": options,
        "chosen": None,
        "failed": None,
        "test": test,
        "validation": None,
    }
