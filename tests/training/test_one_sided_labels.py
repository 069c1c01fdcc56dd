"""Labels of one kind, from files to the end: what is refused, what is left out, and that nothing scores 100."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tailwise.cli import main
from tailwise.commands.output import show_metrics
from tailwise.data.reading import ReadOptions
from tailwise.errors import InputError
from tailwise.report.mistakes import read_test_rows
from tailwise.report.results_page import write_report
from tailwise.training.config import TrainConfig, differences, load
from tailwise.training.resolution import resolve
from tailwise.training.run import Result, evaluate, train
from tests.training.conftest import CLASSES, SIDE

Tiny = Callable[..., TrainConfig]


def run(config: TrainConfig) -> Result:
    result = train(config)
    assert result is not None
    return result


def without_negatives(labels: Path, split: str, classes: list[str], name: str) -> Path:
    """The labels, with every 0 of these classes in a split taken out."""
    table = pd.read_csv(labels)
    rows = table["split"] == split
    table.loc[rows, classes] = table.loc[rows, classes].replace(0, np.nan)
    table.to_csv(labels.parent / name, index=False)
    return labels.parent / name


def test_class_without_a_negative_in_the_test_is_left_out_of_the_mean(
    tiny: Tiny, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = without_negatives(labels, "test", ["red"], "never-denied.csv")
    metrics = run(tiny(data=str(data), mode="probe", optim={"epochs": 1})).metrics
    whole = run(tiny(mode="probe", optim={"epochs": 1}, output=str(labels.parent / "whole"))).metrics
    assert metrics["AP"] == {**whole["AP"], "red": None}
    assert metrics["F1"] == {**whole["F1"], "red": None}
    assert metrics["classes_left_out"]["total"] == 1
    assert metrics["mAP"]["total"] == pytest.approx(np.mean([whole["AP"][name] for name in CLASSES[1:]]))
    show_metrics(metrics, None)
    told = " ".join(capsys.readouterr().out.split())
    assert "1 of 4 classes have no positive or no judged negative in test and are left out of the means: red." in told


def test_a_test_without_negatives_measures_nothing(
    tiny: Tiny, labels: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    data = without_negatives(labels, "test", list(CLASSES), "one-sided.csv")
    config = tiny(data=str(data), mode="probe", optim={"epochs": 1})
    metrics = run(config).metrics
    assert "no class of split 'test' has both a positive and a judged negative, so mAP is undefined" in caplog.text
    undefined = ("CF1", "OF1", "calibration_error", *metrics["mAP"])
    assert [{**metrics, **metrics["mAP"]}[name] for name in undefined] == [None] * 7
    assert metrics["AP"] == dict.fromkeys(CLASSES)
    assert metrics["classes_left_out"]["total"] == 4
    assert evaluate(Path(config.output)).metrics["mAP"] == metrics["mAP"]
    show_metrics(metrics, None)
    told = " ".join(capsys.readouterr().out.split())
    assert "No class has both a positive and a judged negative in test, so that mAP is undefined." in told
    assert "100.00" not in told
    page = write_report(Path(config.output)).read_text(encoding="utf-8")
    assert "No class has both a positive and a judged negative in the test split, so that mAP is undefined." in page


def test_classes_without_a_negative_to_train_on_are_told_of_and_refused_altogether(
    tiny: Tiny, labels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = without_negatives(labels, "train", ["red", "dark"], "two.csv")
    run(tiny(data=str(data), mode="probe", optim={"epochs": 1}))
    assert "2 of 4 classes have no judged negative in split 'train'" in caplog.text
    assert "predict them for every image: red, dark" in caplog.text
    data = without_negatives(labels, "train", list(CLASSES), "all.csv")
    with pytest.raises(InputError, match="no class of split 'train' has both a positive and a judged negative"):
        run(tiny(data=str(data), mode="probe", output=str(labels.parent / "all")))
    assert not (labels.parent / "all").exists()


CODINGS = [("negative", "-1", -1), ("blank", "negative", None)]
"""An option, its value, and what stands for "absent" in files that need it."""


def coded(labels: Path, absent: int | None) -> Path:
    """The labels, all of them judged, with another cell for "absent"."""
    table = pd.read_csv(labels)
    table[list(CLASSES)] = table[list(CLASSES)].fillna(0).astype(object).replace(0, "" if absent is None else absent)
    path = labels.parent / f"absent-{absent}.csv"
    table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(("option", "value", "absent"), CODINGS)
def test_other_cells_for_absent_are_asked_about_and_train_to_the_same_numbers(
    tiny: Tiny, labels: Path, tmp_path: Path, option: str, value: str, absent: int | None
) -> None:
    quick = {"mode": "probe", "optim": {"epochs": 1}}
    plain = run(tiny(data=str(coded(labels, 0)), output=str(tmp_path / "plain"), **quick)).metrics
    config = tiny(data=str(coded(labels, absent)), **quick)
    with pytest.raises(InputError, match=rf"absent-{absent}\.csv: 4 columns \('red', .* --{option} {value} for absent"):
        run(config)
    assert not Path(config.output).exists()
    config = tiny(data=config.data, **quick, **{option: value})
    metrics = run(config).metrics
    assert 0 < metrics["mAP"]["total"] < 100
    for name in ("mAP", "AP", "F1", "calibration_error"):
        assert metrics[name] == plain[name]
    # The choice is kept with the run, whose data are read again; other data take their own.
    recorded = load(Path(config.output) / "config.yaml")
    assert getattr(recorded, option) == value
    other = tiny(data=config.data, **quick)
    assert differences(recorded, resolve(other)) == [f"--{option}: {value!r}, now None"]
    again = evaluate(Path(config.output))
    assert again.metrics["mAP"] == metrics["mAP"]
    assert (read_test_rows(recorded, CLASSES).targets >= 0).all()
    assert len(write_report(Path(config.output)).read_bytes())
    with pytest.raises(InputError, match=f"--{option} {value} for absent"):
        evaluate(Path(config.output), data=config.data, split="test")
    options = ReadOptions(**{option: value})  # type: ignore[arg-type]
    same = evaluate(Path(config.output), data=config.data, split="test", options=options)
    assert same.metrics["mAP"] == metrics["mAP"]


@pytest.mark.parametrize(("option", "value", "absent"), CODINGS)
def test_a_comparison_asks_before_it_starts(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, absent: int | None
) -> None:
    assert compare(coded(labels, absent), tmp_path / "comparison") == 2
    assert f"--{option} {value} for absent" in capsys.readouterr().err
    assert not (tmp_path / "comparison").exists()


def compare(labels: Path, output: Path, *added: str) -> int:
    options = {
        **{"output": output, "cache": labels.parent / "cache", "methods": "bce@uniform,bce", "seeds": 1, "folds": 2},
        **{"replicates": 20, "workers": 1, "image_size": SIDE, "batch_size": 8, "thresholds": "[10,20]"},
        **{"model.backbone": "test_resnet", "model.pretrained": "false", "optim.epochs": 1, "quiet": "true"},
    }
    return main(["compare", str(labels), *(f"--{name}={value}" for name, value in options.items()), *added])


def test_a_comparison_chooses_by_real_numbers_only(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training labels are 1 and -1 for absent, those of the test 1 and unknown."""
    table = pd.read_csv(coded(labels, -1))
    rows = table["split"] == "test"
    table.loc[rows, list(CLASSES)] = table.loc[rows, list(CLASSES)].replace(-1, np.nan)
    data = labels.parent / "one-sided-test.csv"
    table.to_csv(data, index=False)
    choice = ("--negative", "-1")
    assert compare(data, tmp_path / "refused", *choice, "--folds=0") == 2
    told = capsys.readouterr().err
    assert "no class of split 'test' has both a positive and a judged negative" in told
    assert not (tmp_path / "refused").exists()
    # Folds have negatives: they may choose, and the test says nothing.
    assert compare(data, tmp_path / "chosen", *choice) == 0
    assert "100.0" not in capsys.readouterr().out
    results = json.loads((tmp_path / "chosen" / "results.json").read_text())
    assert results["shared"]["negative"] == "-1"
    assert results["best"]["test"] is None
    assert results["best"]["validation"] == results["recommendation"]["methods"][0]
    for method in results["methods"]:
        assert method["test"]["mean"]["total"] is None
        assert 0 < method["validation"]["mAP"]["total"] < 100
    assert "so the choice cannot be confirmed." in " ".join(results["recommendation"]["text"])
    page = (tmp_path / "chosen" / "report.html").read_text(encoding="utf-8")
    assert "No class has both a positive and a judged negative in the test split, so that mAP is undefined." in page
    assert "--negative -1" in page
