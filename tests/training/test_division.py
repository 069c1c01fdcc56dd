"""Data that give no splits are divided by a run, and the division is kept with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tailwise.data.dataset import Dataset
from tailwise.data.splits import split_by_ratio
from tailwise.training.config import TrainConfig, load
from tailwise.training.inputs import with_division
from tailwise.training.run import evaluate, train
from tests.formats import read_csv
from tests.training.conftest import CLASSES, Interruption


@pytest.fixture
def unsplit(labels: Path, tmp_path: Path) -> Path:
    """The labels without their column of splits."""
    path = tmp_path / "unsplit.csv"
    pd.read_csv(labels, dtype=str).drop(columns="split").to_csv(path, index=False)
    return path


@pytest.fixture
def config(tiny: Callable[..., TrainConfig], unsplit: Path, labels: Path) -> TrainConfig:
    """A probe of them."""
    return tiny(data=str(unsplit), root=str(labels.parent), mode="probe")


def test_a_run_divides_them_and_whatever_reads_its_data_again_does_the_same(
    config: TrainConfig, unsplit: Path, interruption: Interruption, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(config.output)
    with caplog.at_level(logging.INFO, "tailwise"), interruption(lambda module: module.global_step == 3):
        train(config)
    said = "unsplit.csv has no splits, and is divided, evenly in every class: 80% train, 20% test (change it by"
    assert caplog.text.count(said) == 1
    resumed = train(replace(config, resume=True))
    assert resumed is not None
    assert load(folder / "config.yaml").split_ratios == {"train": 0.8, "test": 0.2}

    table = pd.read_csv(unsplit).set_index("image")[list(CLASSES)]
    tested = pd.read_parquet(folder / "predictions.parquet")["image"]
    assert len(tested) == pytest.approx(len(table) / 5, abs=2)
    share = (table.loc[tested] == 1).sum() / (table == 1).sum()
    assert np.allclose(share, 0.2, atol=0.1)
    assert evaluate(folder).metrics["AP"] == resumed.metrics["AP"]
    again = train(replace(config, resume=True))
    assert again is not None
    assert again.metrics == resumed.metrics


def labeled(path: Path, **changes: Any) -> Dataset:
    return replace(read_csv(path), **changes)


@pytest.mark.parametrize(
    ("options", "ratios"),
    [
        ({}, {"train": 0.8, "test": 0.2}),
        ({"train_split": "mine", "split_seed": 4}, {"mine": 0.8, "test": 0.2}),
        ({"val_split": "val"}, {"train": 0.7, "test": 0.2, "val": 0.1}),
        ({"test_split": "none"}, {"train": 1.0}),
        ({"test_split": "none", "val_split": "val"}, {"train": 0.9, "val": 0.1}),
    ],
)
def test_the_splits_of_the_run_are_those_divided_into(
    tiny: Callable[..., TrainConfig], unsplit: Path, options: dict[str, Any], ratios: dict[str, float]
) -> None:
    config, data = with_division(tiny(**options), labeled(unsplit))
    assert config == replace(tiny(**options), split_ratios=ratios)
    assert data.splits == split_by_ratio(data.targets, ratios, seed=config.split_seed)


@pytest.mark.parametrize(
    "options",
    [
        {"split_ratios": {"train": 0.5, "test": 0.5}},
        {"split_file": "splits.csv"},
        {"train_split": "train+val"},
    ],
)
def test_what_says_how_to_divide_is_left_alone(
    tiny: Callable[..., TrainConfig], unsplit: Path, options: dict[str, Any]
) -> None:
    config, data = tiny(**options), labeled(unsplit)
    assert with_division(config, data) == (config, data)


def test_data_of_which_one_row_has_a_split_are_left_alone(tiny: Callable[..., TrainConfig], unsplit: Path) -> None:
    data = labeled(unsplit)
    data = replace(data, splits=("train", *data.splits[1:]))
    assert with_division(tiny(), data) == (tiny(), data)
