"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tailwise import __version__
from tailwise.cli import main
from tailwise.data.long_tail import read_manifest
from tailwise.training.trainer import MultiLabelModule
from tests.formats import read_csv

CLASSES = ("cat", "dog", "bird")
Outcome = tuple[int, str, str]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command line in this process: (exit code, standard output, standard error)."""

    def run(line: str) -> Outcome:
        try:
            code = main(shlex.split(line))
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "images").mkdir()
    generator = np.random.default_rng(1)
    rows = []
    for index in range(40):
        name = f"images/{index}.jpg"
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name)
        present = generator.random(3) < 0.5
        present[index % 3] = True
        names = "|".join(name for name, here in zip(CLASSES, present, strict=True) if here)
        rows.append([name, "train" if index < 24 else "test", names])
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", "labels"], *rows])
    return path


@pytest.fixture
def train_line(labels: Path, tmp_path: Path) -> str:
    """A command line that trains in a second; options added to it win."""
    return (
        f"train --data {labels} --output {tmp_path / 'run'} --cache {labels.parent / 'cache'} --image-size 32 "
        "--batch-size 8 --accelerator cpu --backbone test_resnet --no-pretrained --epochs 2 "
        "--thresholds [5,13]"
    )


def test_training_prints_the_means_and_where_the_files_are(
    cli: Callable[..., Outcome], train_line: str, tmp_path: Path
) -> None:
    code, out, err = cli(train_line)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert code == 0
    assert all("-" in out if value is None else f"{value:.2f}" in out for value in metrics["mAP"].values())
    assert str(tmp_path / "run") in out
    assert "epoch 2 of 2" in err
    assert "\x1b" not in err
    assert not re.search("GPU available|litlogger|TPU|Tip", out + err)


def test_recorded_configuration_trains_the_same_model(
    cli: Callable[..., Outcome], train_line: str, tmp_path: Path
) -> None:
    cli(f"{train_line} --mode probe --loss pg --loss-options '{{\"mu\": 0.3}}' --lr 0.01")
    code, _, _ = cli(f"train --config {tmp_path / 'run' / 'config.yaml'} --output {tmp_path / 'again'}")
    assert code == 0
    first, second = (pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("run", "again"))
    pd.testing.assert_frame_equal(first, second)


def test_evaluate_repeats_the_metrics(cli: Callable[..., Outcome], train_line: str, tmp_path: Path) -> None:
    _, trained, _ = cli(f"{train_line} --mode probe --head.solver sgd")
    code, evaluated, _ = cli(f"evaluate {tmp_path / 'run'} --output {tmp_path / 'test'}")
    assert code == 0
    assert re.findall(r"\d+\.\d\d", evaluated) == re.findall(r"\d+\.\d\d", trained)
    code, _, err = cli(f"evaluate {tmp_path / 'run'} --output {tmp_path / 'test'}")
    assert (code, "has results already" in err) == (2, True)


def test_a_run_without_a_test_says_so_everywhere(
    cli: Callable[..., Outcome], train_line: str, labels: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    line = f"{train_line} --mode probe --head.solver sgd --test-split none"
    code, out, err = cli(f"{line} --val-folds 2 --val-fold all")
    validation = json.loads((run / "metrics.json").read_text())["validation"]
    score = f"{validation['mAP']['total']:.2f}"
    assert code == 0
    said = " ".join(out.split())  # a title is broken into lines
    assert all(text in said for text in ("tested on nothing", "cross-validated in 2 folds", score))
    assert f"cross-validated mAP: {score}" in err
    assert cli(f"{line} --val-folds 2 --val-fold all --resume")[1] == out
    assert cli(f"report {run}")[0] == 0
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "The run was not tested" in text
    assert f"<dd>{score}</dd>" in text
    assert "on train, cross-validated in 2 folds" in text
    assert "Probabilities during training" in text
    assert "Mistakes on rare classes" not in text
    assert f"tailwise evaluate {run} --data other.csv" in text
    assert cli(f"guide {run}")[0] == 0
    code, _, err = cli(f"evaluate {run}")
    assert (code, "has no test split: say what to test it on with --split or --data" in err) == (2, True)
    assert cli(f"evaluate {run} --split test --output {tmp_path / 'test'}")[0] == 0
    assert "CF1_tuned" in json.loads((tmp_path / "test" / "metrics.json").read_text())
    code, out, _ = cli(f"{line} --output {tmp_path / 'plain'} --epochs 1")
    assert (code, "tested on nothing" in out, "mAP" in out) == (0, True, False)
    assert cli(f"report {tmp_path / 'plain'}")[0] == 0
    for command in (f"compare {labels}", f"reproduce photos --data {labels} --mode probe --table 2"):
        code, _, err = cli(f"{command} --output {tmp_path / 'other'} --test-split none")
        assert (code, "methods are compared by their scores on a test split" in err) == (2, True)


def test_report_writes_the_page_of_a_run(
    cli: Callable[..., Outcome], train_line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli(f"{train_line} --mode probe --head.solver sgd")
    run = tmp_path / "run"
    for _ in range(2):  # its own page is replaced
        code, _, err = cli(f"report {run}")
        assert (code, err.strip()) == (0, f"page: {run / 'report.html'}")
    text = (run / "report.html").read_text(encoding="utf-8")
    mean = json.loads((run / "metrics.json").read_text())["mAP"]["total"]
    assert f"<dd>{mean:.2f}</dd>" in text
    assert "Probabilities during training" in text
    code, _, err = cli(f"report {run} --output {run / 'report.html'}")
    assert (code, "report.html exists; remove it, or give another output" in err) == (2, True)
    assert cli(f"report {run} --output {tmp_path / 'other.html'}")[0] == 0
    assert (tmp_path / "other.html").read_text(encoding="utf-8") == text
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    code, _, err = cli(f"report {run}")
    assert (code, f"{run} cannot be written into; give --output" in err) == (2, True)
    (run / "metrics.json").unlink()
    code, _, err = cli(f"report {run}")
    assert (code, "has nothing to report: its run is not finished" in err) == (2, True)


@pytest.mark.parametrize("split", [None, "train"])
def test_report_writes_the_page_of_an_evaluation(
    cli: Callable[..., Outcome], train_line: str, labels: Path, tmp_path: Path, split: str | None
) -> None:
    cli(f"{train_line} --mode probe --head.solver sgd")
    run, folder = tmp_path / "run", tmp_path / "test"
    rows = pd.read_csv(labels)
    rows.iloc[5:].to_csv(tmp_path / "other.csv", index=False)
    chosen = "" if split is None else f"--split {split}"
    line = f"evaluate {run} --data {tmp_path / 'other.csv'} --root {labels.parent} {chosen} --output {folder}"
    assert cli(line)[0] == 0
    code, _, err = cli(f"report {folder}")
    assert (code, err.strip()) == (0, f"page: {folder / 'report.html'}")
    text = (folder / "report.html").read_text(encoding="utf-8")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["num_images"] == (35 if split is None else 19)
    assert f"<dd>{metrics['mAP']['total']:.2f}</dd>" in text
    assert str(tmp_path / "other.csv") in text
    assert "Probabilities during training" in text
    assert "Mistakes on rare classes" in text
    run.rename(tmp_path / "elsewhere")
    code, _, err = cli(f"report {folder}")
    assert (code, f"is an evaluation of the run in {run}, which is not there any more" in err) == (2, True)
    (folder / "metrics.json").write_text("{}")
    code, _, err = cli(f"report {folder}")
    assert (code, "does not say which run was tested" in err) == (2, True)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("--loss db-focl", r"--loss db-focl: unknown loss 'db-focl' \(did you mean 'db-focal'"),
        ("--loss-options.gama 1", r"no option 'gama' \(did you mean 'gamma'"),
        ("--train-split trian", r"no split 'trian' \(did you mean 'train'\?\); its splits are train \(24 rows\), test"),
        ("--precision fp16", r"fp16 needs a GPU.*use bf16 or fp32"),
        ("--optm.lr 1", r"--optm.lr.*did you mean '--lr'"),
        ("--lr fast", r"--lr: expected float, null, got fast"),
        ("--lr -1", r"--lr must be above 0, got -1"),
        ("--mode prob", r"--mode: expected one of 'finetune', 'probe', got prob"),
        ("--recipe voc", r"--recipe: expected one of 'voc-mlt', 'coco-mlt', null, got voc"),
        ("--weights nowhere.safetensors", r"nowhere.safetensors.*no such file"),
        ("--mode probe --weights nowhere.safetensors", r"nowhere.safetensors.*there is no such file"),
        ("--backbone test_resnt", r"no model 'test_resnt' \(did you mean 'test_resnet'"),
        ("--data {folder}/none.csv", r"cannot read .*none.csv"),
        ("--data {folder}/columns.csv", r"columns.csv:1: no column 'image'; the header has 'file', 'label'"),
        ("--data {folder}/missing.csv", r"missing.csv:3: no image 'images/none.jpg'"),
        ("--data {folder}/damaged.csv --epoch-reduce 0.5", r"half.jpg.*cannot be decoded"),
        ("--data {folder}/single.csv", r"split 'train' has 1 image; training needs at least two"),
        ("--data {folder}/negative.csv", r"no image of split 'test' has a positive label"),
        ("--data digits --test-split dev", r"digits has no split 'dev'; its splits are train .*, test"),
        ("--classes {folder}/classes.json", r"labels.csv:\d+: 'bird' is none of the 2 classes"),
        ("--config {folder}/unknown.yaml", r"[Gg]roup 'optim'.*'lrr' \(did you mean 'optim.lr'\?\)"),
        ("--config {folder}/none.yaml", r"--config: File does not exist"),
        ("--config {folder}/broken.yaml", r"parsing"),
    ],
)
def test_input_that_cannot_be_used_exits_with_2_and_says_why(
    cli: Callable[..., Outcome], train_line: str, labels: Path, tmp_path: Path, added: str, message: str
) -> None:
    folder = labels.parent
    write_bad_files(folder)
    code, out, err = cli(f"{train_line} {added.format(folder=folder)}")
    assert (code, out) == (2, "")
    assert re.search(rf"^error: .*{message}", err, re.MULTILINE | re.DOTALL), err
    assert not (tmp_path / "run").exists()


def write_bad_files(folder: Path) -> None:
    whole = (folder / "images" / "0.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    for name, text in {
        "columns.csv": "file,label\nimages/0.jpg,cat\n",
        "missing.csv": "image,split,labels\nimages/0.jpg,train,cat\nimages/none.jpg,train,dog\nimages/1.jpg,test,cat\n",
        "damaged.csv": "image,split,labels\nimages/0.jpg,train,cat\nhalf.jpg,train,dog\nimages/1.jpg,test,cat\n",
        "single.csv": "image,split,labels\nimages/0.jpg,train,cat\nimages/1.jpg,test,cat\n",
        "negative.csv": "image,split,labels\nimages/0.jpg,train,cat\nimages/1.jpg,train,dog\nimages/2.jpg,test,\n",
        "classes.json": '["cat", "dog"]',
        "unknown.yaml": "optim:\n  lrr: 0.1\n",
        "broken.yaml": "optim: [0.1\n",
    }.items():
        (folder / name).write_text(text)


def test_weights_that_do_not_fit_say_where(
    cli: Callable[..., Outcome], train_line: str, tmp_path: Path, backbone_weights: Path
) -> None:
    code, _, err = cli(f"{train_line} --weights {backbone_weights}")
    assert code == 2
    assert re.search(r"does not fit --backbone test_resnet: .*missing.*--model.options", err)


def test_finished_run_is_not_overwritten(cli: Callable[..., Outcome], train_line: str, tmp_path: Path) -> None:
    cli(f"{train_line} --mode probe --head.solver sgd")
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    code, _, err = cli(f"{train_line} --mode probe --head.solver sgd")
    assert code == 2
    assert re.search("holds a finished run: continue it with --resume, or give another output", err)
    assert cli(f"{train_line} --mode probe --head.solver sgd --resume")[0] == 0
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before


def test_interrupt_exits_with_130_and_names_resume(
    cli: Callable[..., Outcome], train_line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MultiLabelModule, "training_step", interrupted)
        code, _, err = cli(train_line)
    assert (code, "--resume" in err) == (130, True)
    assert signal.getsignal(signal.SIGINT) is handler
    assert cli(f"{train_line} --resume")[0] == 0


def test_build_writes_a_long_tailed_csv_and_its_manifest(
    cli: Callable[..., Outcome], labels: Path, tmp_path: Path
) -> None:
    target = labels.parent / f"{tmp_path.name}.csv"
    code, _, err = cli(f"build {labels} --output {target} --num-max 9 --num-min 2 --keep-split test --seed 3")
    assert code == 0
    built, source = read_csv(target), read_csv(labels)
    manifest = read_manifest(target.with_suffix(".json"))
    assert built.select("test").names == source.select("test").names
    assert built.select("train").names == manifest.images
    assert set(manifest.images) < set(source.select("train").names)
    assert manifest.subset.seed == 3
    assert f"{len(manifest.images)} images in split 'train', 16 images in split 'test'; 3 classes" in err
    code, _, err = cli(f"build {labels} --output {target}")
    assert (code, "exists; remove it" in err) == (2, True)


def test_build_into_another_folder_says_how_to_train(
    cli: Callable[..., Outcome], labels: Path, tmp_path: Path, train_line: str
) -> None:
    target = tmp_path / "subset.csv"
    _, _, err = cli(f"build {labels} --output {target} --num-max 12 --num-min 8 --keep-split test")
    advice = f"--data {target} --classes {target.with_suffix('.json')} --root {labels.parent}"
    assert advice in err
    assert cli(f"{train_line} --mode probe --head.solver sgd --loss bce {advice}")[0] == 0


def test_build_keeps_groups_and_tells_of_those_kept_apart(
    cli: Callable[..., Outcome], labels: Path, tmp_path: Path
) -> None:
    header, *rows = labels.read_text().splitlines()
    grouped, target = labels.parent / "grouped.csv", tmp_path / "subset.csv"
    lines = [f"{header},site", *(f"{row},{number % 4}" for number, row in enumerate(rows))]
    grouped.write_text("\n".join(lines))
    options = "--num-max 12 --num-min 8 --keep-split test --group-column site"
    code, _, err = cli(f"build {grouped} --output {target} {options}")
    assert code == 0
    assert f"--root {labels.parent} --group-column group" in err
    source, built = read_csv(grouped, group_column="site"), read_csv(target, group_column="group")
    site_of = dict(zip(source.names, source.groups or (), strict=True))
    assert list(built.groups or ()) == [site_of[name] for name in built.names]
    trained_on, kept = (set(built.select(split).groups or ()) for split in ("train", "test"))
    assert f"{len(trained_on & kept)} of {len(kept)} groups of split 'test', with" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("build {labels} --split pool", "no split 'pool'"),
        ("build {labels} --split test --keep-split test", "both 'test'"),
        ("build {labels} --num-max 0", "--num-max must be at least 1 and at most 1000000000000, got 0"),
        ("build {labels} --output {folder}/none/x.csv", "no folder"),
        ("evaluate {folder}", "not the folder of a finished run"),
        ("trian", r"no command 'trian' \(did you mean 'train'\?\)"),
    ],
)
def test_other_commands_explain_bad_input_too(
    cli: Callable[..., Outcome], labels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(line.format(labels=labels, folder=labels.parent))
    assert code == 2
    assert re.search(rf"^error: .*{message}", err, re.MULTILINE)
    assert not list(tmp_path.iterdir())


def test_help_comes_from_types_and_docstrings(cli: Callable[..., Outcome]) -> None:
    code, out, _ = cli("train --help")
    assert code == 0
    assert "--lr X" in out
    assert len(out.splitlines()) <= 40
    code, out, _ = cli("train --help-all")
    assert code == 0
    assert re.search(r"--clip-norm X .*Largest norm of the gradient.*default: 35\)", " ".join(out.split()))
    for command in ("demo", "build", "evaluate"):
        code, out, _ = cli(f"{command} --help")
        assert (code, "usage: tailwise" in out) == (0, True)


@pytest.mark.parametrize("line", ["", "--help"])
def test_overview_names_the_commands(cli: Callable[..., Outcome], line: str) -> None:
    code, out, _ = cli(line)
    assert code == 0
    assert all(command in out for command in ("demo", "build", "train", "evaluate"))


def test_version(cli: Callable[..., Outcome]) -> None:
    assert cli("--version")[:2] == (0, f"tailwise {__version__}\n")


def test_two_processes_train_the_model_of_one(cli: Callable[..., Outcome], train_line: str, tmp_path: Path) -> None:
    # Without batch norm in the neck, and with a loss that is a mean over samples, two processes with half the batch
    # take the steps of one. The learning rate is what a random backbone needs for rounding not to grow.
    line = f"{train_line} --neck none --loss-options.reduction batchmean --lr 0.01 --val-folds 3"
    cli(f"{line} --output {tmp_path / 'one'}")
    command = f"{line} --output {tmp_path / 'two'} --batch-size 4 --devices 2"
    source = str(Path(sys.modules["tailwise"].__file__ or "").parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    finished = subprocess.run(
        [sys.executable, "-m", "tailwise", *shlex.split(command)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("epoch 2 of 2") == 1
    for file in ("predictions.parquet", "validation.parquet"):
        first, second = (pd.read_parquet(tmp_path / name / file) for name in ("one", "two"))
        pd.testing.assert_frame_equal(first, second, atol=1e-5)


def test_a_full_cache_changes_no_result(
    cli: Callable[..., Outcome], train_line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = train_line.replace("/cache", "/other-cache") + " --mode probe --head.solver sgd"
    _, free, _ = cli(line)
    monkeypatch.setenv("TAILWISE_CACHE_LIMIT", "0")
    for name in ("again", "and-again"):
        code, out, err = cli(f"{line} --output {tmp_path / name}")
        assert (code, re.findall(r"\d+\.\d\d", out)) == (0, re.findall(r"\d+\.\d\d", free))
        assert "which may have 0 GB (TAILWISE_CACHE_LIMIT)" in err
    monkeypatch.setenv("TAILWISE_CACHE_LIMIT", "a lot")
    code, _, err = cli(f"{line} --output {tmp_path / 'refused'}")
    assert (code, "TAILWISE_CACHE_LIMIT must be a number of GB" in err) == (2, True)
