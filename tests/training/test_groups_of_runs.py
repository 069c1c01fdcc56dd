"""Groups of rows in runs: whole in every fold and division, and told of where the splits given share them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.training.config import TrainConfig
from tailwise.training.inputs import check_labels, each_fold, read_run
from tailwise.training.run import evaluate, train


@pytest.fixture
def of_patients(labels: Path, tmp_path: Path) -> Path:
    """The labels with a column of patients: 4 of the 10 of the test images are in training as well."""
    table = pd.read_csv(labels, dtype=str)
    number = np.arange(len(table))
    is_test = (table["split"] == "test").to_numpy()
    table["patient"] = [f"p{n % 10 + 6 if test else n % 10}" for n, test in zip(number, is_test, strict=True)]
    path = tmp_path / "patients.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture
def config(tiny: Callable[..., TrainConfig], of_patients: Path, labels: Path) -> Callable[..., TrainConfig]:
    """Makes configurations of probes on them."""

    def make(**options: object) -> TrainConfig:
        return tiny(data=str(of_patients), root=str(labels.parent), mode="probe", group_column="patient", **options)

    return make


def test_held_out_folds_have_patients_of_their_own(config: Callable[..., TrainConfig]) -> None:
    splits = read_run(config())
    held_out = []
    for part in each_fold(splits, 5):
        assert part.validation is not None
        assert part.train.groups is not None
        assert part.validation.groups is not None
        assert not set(part.train.groups) & set(part.validation.groups)
        held_out += part.validation.names
    assert sorted(held_out) == sorted(splits.whole.names)
    with pytest.raises(InputError, match=r"split 'train' has too few groups, 10, for 11 folds"):
        read_run(config(val_folds=11))


def test_data_without_splits_are_divided_patient_by_patient(
    config: Callable[..., TrainConfig], of_patients: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pd.read_csv(of_patients, dtype=str)
    table.drop(columns="split").to_csv(of_patients, index=False)
    with caplog.at_level("INFO", "tailwise"):
        splits = read_run(config(val_split="val"))
    assert "is divided, evenly in every class and with groups whole: 70% train, 20% test, 10% val" in caplog.text
    assert splits.test is not None
    assert splits.validation is not None
    parts = [set(part.groups or ()) for part in (splits.train, splits.test, splits.validation)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(set(table["patient"]))
    table["patient"] = np.where(np.arange(len(table)) < 40, "a", "b")
    table.drop(columns="split").to_csv(of_patients, index=False)
    with pytest.raises(InputError, match=r"--split-ratios gives '\w+', .* in 2 groups that stay whole"):
        read_run(config(val_split="val"))


def test_shared_patients_are_told_of_before_training(
    config: Callable[..., TrainConfig], of_patients: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def check(options: TrainConfig, *, tell: bool = True) -> str:
        caplog.clear()
        splits = read_run(options)
        check_labels(splits, LabelStats.from_targets(splits.train.targets, splits.train.class_names), tell=tell)
        return caplog.text

    said = check(config())
    assert "4 of 10 groups of split 'test', with 40.0% of its rows, have rows in split 'train' too" in said
    assert "--split-ratios" in said
    assert "groups" not in check(config(), tell=False)
    assert "groups of split" not in check(config(split_ratios={"train": 0.6, "test": 0.4}))
    table = pd.read_csv(of_patients, dtype=str)
    table.loc[table["split"] == "test", "split"] = ["val", "test"] * 15
    table.to_csv(of_patients, index=False)
    said = check(config(val_split="val"))
    assert "groups of split 'val', with" in said
    assert "groups of split 'test', with" in said


def test_a_run_and_its_evaluation_tell_of_shared_patients(
    config: Callable[..., TrainConfig], caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(config().output)
    train(config(val_folds=3, val_fold=1, optim={"epochs": 1}))
    assert caplog.text.count("4 of 10 groups of split 'test', with 40.0% of its rows") == 1
    for split, told in ((None, 1), ("train", 0)):
        caplog.clear()
        evaluate(folder, split=split)
        assert caplog.text.count("4 of 10 groups of split 'test'") == told
