"""Numbers that nobody means, given to every numeric option: a result or one line, and neither a traceback nor hours."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from tailwise.cli import main
from tailwise.data.long_tail import read_manifest

HUGE = str(10**30)
INTEGERS = ("-1", "0", HUGE, "1e308")
FLOATS = ("-1", "0", HUGE, "1e308", ".nan", ".inf", "1e-9", "1e-320")
NUMBERS = {
    "inspect {labels}": {"split-seed": INTEGERS, "workers": INTEGERS},
    "build {labels} --output {folder}/x.csv": {
        "num-max": INTEGERS,
        "num-min": INTEGERS,
        "pareto-b": FLOATS,
        "seed": INTEGERS,
    },
}
REFUSED = {
    "compare {labels} --output {folder}/c": {
        "seeds": ("-1", HUGE),
        "folds": ("-1", "1"),
        "replicates": ("-1", HUGE),
        "level": ("-1", "1", ".nan", HUGE),
        "workers": ("-1", HUGE),
    },
    "reproduce photos --data {labels} --output {folder}/r": {
        "seeds": ("-1", HUGE),
        "workers": ("-1", HUGE),
        "epochs": ("-1", HUGE),
        "num-max": ("-1", "0"),
    },
    "demo --output {folder}/d": {"seeds": ("-1", HUGE), "workers": ("-1", HUGE)},
}
THRESHOLDS = ("[100,20]", "[-1,5]", "[1,2,3]", "5", "[.nan,1]")
COMMANDS_WITH_THRESHOLDS = (
    "inspect {labels}",
    "compare {labels} --output {folder}/c",
    "reproduce photos --data {labels} --output {folder}/r --table 2",
    "train --data {labels} --output {folder}/t",
)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Labels of 40 images, which are there in name only."""
    generator = np.random.default_rng(0)
    path = tmp_path / "labels.csv"
    rows = [
        f"{index}.jpg,{'train' if index < 30 else 'test'},{'|'.join(generator.choice(list('abc'), 2, replace=False))}"
        for index in range(40)
    ]
    path.write_text("\n".join(["image,split,labels", *rows]) + "\n")
    for index in range(40):
        (tmp_path / f"{index}.jpg").touch()
    return path


def run(line: str, labels: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The exit code of a command line, and its errors."""
    code = main(shlex.split(line.format(labels=labels, folder=labels.parent)))
    return code, [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]


def cases(table: dict[str, dict[str, tuple[str, ...]]]) -> list[str]:
    return [
        f"{command} --{option}={value}"
        for command, options in table.items()
        for option, values in options.items()
        for value in values
    ]


@pytest.mark.parametrize("line", cases(NUMBERS))
def test_any_number_gives_a_result_or_one_line(line: str, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, errors = run(f'{line} --split-ratios \'{{{{"train": 0.5, "test": 0.5}}}}\'', labels, capsys)
    assert (code, len(errors)) in ((0, 0), (2, 1))
    if code == 2:
        assert re.search(r"--([\w-]+)=", line)[1] in errors[0]  # type: ignore[index]
    elif line.startswith("build"):
        subset = read_manifest(labels.with_name("x.json")).subset
        assert subset.reference.min() >= 1
        assert subset.reference.max() == subset.num_max


@pytest.mark.parametrize("line", cases(REFUSED))
def test_numbers_of_runs_that_nobody_means_are_refused(
    line: str, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = run(line, labels, capsys)
    assert (code, len(errors)) == (2, 1)
    assert re.search(r"--([\w-]+)=", line)[1] in errors[0]  # type: ignore[index]


@pytest.mark.parametrize("command", COMMANDS_WITH_THRESHOLDS)
@pytest.mark.parametrize("thresholds", THRESHOLDS)
def test_thresholds_that_are_no_two_rising_counts_are_refused(
    command: str, thresholds: str, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = run(f"{command} --thresholds {thresholds}", labels, capsys)
    assert (code, len(errors)) == (2, 1)
    assert "thresholds" in errors[0]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("labels.csv", "labels.csv exists; remove it, or give another output"),
        ("nowhere/x.csv", "there is no folder .*nowhere to write x.csv into; make it first"),
        ("x.json", r"x.json: a .json file is for class names and counts; give a name that ends in .csv"),
        ("labels.csv/x.csv", "there is no folder"),
    ],
)
def test_outputs_of_a_build_that_cannot_be_are_refused(
    output: str, message: str, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = labels.read_bytes()
    code, errors = run(f"build {{labels}} --output {{folder}}/{output}", labels, capsys)
    assert (code, len(errors)) == (2, 1)
    assert re.search(message, errors[0])
    assert labels.read_bytes() == before
    assert not (labels.parent / "x.json").exists()


def test_a_folder_that_may_not_be_written_into_is_named(as_nobody: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = as_nobody / "labels.csv"
    labels.write_text("image,labels\na.jpg,x\n")
    as_nobody.chmod(0o500)
    try:
        for line in ("build {labels} --output {folder}/x.csv", "inspect {labels} --page {folder}/x.html"):
            code, errors = run(line, labels, capsys)
            assert (code, len(errors)) == (2, 1)
            assert "cannot be written" in errors[0]
    finally:
        as_nobody.chmod(0o700)


@pytest.mark.parametrize("line", ["build {labels} --output {folder}/x.csv", "inspect {labels} --page {folder}/x.html"])
def test_a_disk_that_fills_up_is_named_and_nothing_is_left(
    line: str, labels: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    before = sorted(labels.parent.iterdir())
    monkeypatch.setattr(Path, "replace", full)
    code, errors = run(line, labels, capsys)
    assert (code, len(errors)) == (2, 1)
    assert re.search(r"x\.\w+ cannot be written \(No space left on device\); make room, or give another", errors[0])
    assert sorted(labels.parent.iterdir()) == before
