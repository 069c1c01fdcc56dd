"""``tailwise compare`` end to end on a tiny data set: what it writes, and that interruptions change nothing of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pandas as pd
import psutil
import pytest
from filelock import FileLock
from sklearn.metrics import average_precision_score, f1_score

from tailwise.cli import main
from tailwise.metrics import find_suspects, fit_calibration
from tailwise.training.config import load
from tests.training.conftest import CLASSES, write_data

METHODS = "bce@uniform,ml-gcn,mild.yaml,broken.yaml,nan.yaml"
FINISHED = ("bce@uniform", "ml-gcn", "mild")
SOURCES = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set whose training split is called train_lt, and files of methods: a good one and two that fail."""
    folder = tmp_path_factory.mktemp("comparison")
    path = write_data(folder)
    path.write_text(path.read_text().replace(",train,", ",train_lt,"))
    (folder / "mild.yaml").write_text("title: PG, milder\noptions: {loss: pg, loss_options: {neg_scale: 1.5}}\n")
    (folder / "broken.yaml").write_text("options: {loss: pgg}\n")
    (folder / "nan.yaml").write_text("options: {loss: bce, optim: {lr: 1.0e+30}}\n")
    return folder


def arguments(folder: Path, output: str, *added: str, methods: str = METHODS) -> list[str]:
    paths = ",".join(str(folder / name) if name.endswith("yaml") else name for name in methods.split(","))
    options = {
        "output": folder / output,
        "cache": folder / "cache",
        "methods": paths,
        "seeds": 2,
        "folds": 2,
        "replicates": 50,
        "workers": 1,
        "image_size": 32,
        "batch_size": 8,
        "thresholds": "[10,20]",
        "model.backbone": "test_resnet",
        "model.pretrained": "false",
        "head.solver": "sgd",
        "optim.epochs": 2,
        "optim.warmup_steps": 4,
    }
    return ["compare", str(folder / "labels.csv"), *(f"--{name}={value}" for name, value in options.items()), *added]


@pytest.fixture(scope="module")
def finished(folder) -> Path:
    """The folder of a comparison that nothing interrupted."""
    assert main(arguments(folder, "whole")) == 0
    return folder / "whole"


@pytest.fixture(scope="module")
def results(finished) -> dict:
    return json.loads((finished / "results.json").read_text())


def by_name(results: dict) -> dict:
    return {method["name"]: method for method in results["methods"]}


def labels_of(folder: Path, split: str) -> pd.DataFrame:
    rows = pd.read_csv(folder / "labels.csv")
    return rows[rows["split"] == split].set_index("image")[list(CLASSES)]


def sklearn_precisions(predictions: pd.DataFrame, labels: pd.DataFrame) -> np.ndarray:
    """Average precision of each class in percent, of the rows with a known label."""
    labels = labels.loc[predictions["image"]]
    values = []
    for name in CLASSES:
        known = labels[name].notna().to_numpy()
        values.append(100 * average_precision_score(labels[name][known], predictions[name][known]))
    return np.array(values)


class TestResults:
    def test_the_header_says_what_was_compared(self, folder, results):
        train, test = labels_of(folder, "train_lt"), labels_of(folder, "test")
        data = results["data"]
        assert results["format"] == "tailwise-comparison-1"
        assert (data["source"], data["train_split"], data["test_split"]) == ("labels.csv", "train_lt", "test")
        assert (data["num_train"], data["num_test"]) == (len(train), len(test))
        assert data["class_counts"] == [int((train[name] == 1).sum()) for name in CLASSES]
        assert data["test_counts"] == [int((test[name] == 1).sum()) for name in CLASSES]
        assert data["groups"]["tail"] == [k for k, count in enumerate(data["class_counts"]) if count < 10]
        assert (results["mode"], results["seeds"], results["folds"]) == ("probe", [0, 1], 2)
        assert results["baseline"] == "bce@uniform"
        assert results["shared"]["optim"]["epochs"] == 2
        assert str(folder) not in json.dumps(results)

    def test_test_scores_are_those_of_scikit_learn(self, folder, finished, results):
        labels = labels_of(folder, "test")
        for name in FINISHED:
            test = by_name(results)[name]["test"]
            folders = [finished / "runs" / name / f"seed{seed}" for seed in (0, 1)]
            runs = [sklearn_precisions(pd.read_parquet(run / "predictions.parquet"), labels) for run in folders]
            for run, expected, seed in zip(test["runs"], runs, (0, 1), strict=True):
                assert run["seed"] == seed
                assert run["AP"] == pytest.approx(expected, abs=1e-5)
                assert run["mAP"]["total"] == pytest.approx(expected.mean(), abs=1e-5)
            totals = [run.mean() for run in runs]
            assert test["mean"]["total"] == pytest.approx(fmean(totals), abs=1e-5)
            assert test["std"]["total"] == pytest.approx(stdev(totals), abs=1e-5)
            assert test["AP"] == pytest.approx(np.mean(runs, axis=0), abs=1e-5)
            metrics = [json.loads((run / "metrics.json").read_text()) for run in folders]
            assert test["CF1"] == pytest.approx(fmean(m["CF1"] for m in metrics), abs=1e-5)
            assert all(low <= high for low, high in zip(test["AP_low"], test["AP_high"], strict=True))

    def test_validation_scores_pool_the_predictions_of_the_folds(self, folder, finished, results):
        labels = labels_of(folder, "train_lt")
        for name in FINISHED:
            parts = [pd.read_parquet(finished / "folds" / name / f"fold{k}" / "validation.parquet") for k in (0, 1)]
            pooled = pd.concat(parts)
            assert sorted(pooled["image"]) == sorted(labels.index)
            validation = by_name(results)[name]["validation"]
            assert validation["AP"] == pytest.approx(sklearn_precisions(pooled, labels), abs=1e-5)
            assert validation["mAP"]["total"] == pytest.approx(np.mean(validation["AP"]), abs=1e-5)

    def test_label_suspects_are_those_of_the_recommended_method(self, folder, finished, results):
        best, labels = results["recommendation"]["methods"][0], labels_of(folder, "train_lt")
        files = list(finished.glob(f"folds/{best}/fold*/validation.parquet"))
        files = files or [finished / "runs" / best / "seed0" / "validation.parquet"]  # of a solved head
        scores = pd.concat(map(pd.read_parquet, files)).set_index("image").loc[labels.index, list(CLASSES)]
        logits = scores.to_numpy()
        found = find_suspects(fit_calibration(logits, labels).probabilities(logits), labels)
        written = pd.read_csv(finished / "suspects.csv")
        assert written["image"].tolist() == [labels.index[row] for row in found.rows]
        assert written["score"].tolist() == pytest.approx(found.scores.tolist(), rel=1e-5)

    def test_thresholds_of_the_folds_decide_on_the_test(self, folder, finished, results):
        labels = labels_of(folder, "test")
        for name in FINISHED:
            classes = json.loads((finished / "folds" / name / "thresholds.json").read_text())["classes"]
            expected = []
            for seed in (0, 1):
                predictions = pd.read_parquet(finished / "runs" / name / f"seed{seed}" / "predictions.parquet")
                given = labels.loc[predictions["image"]]
                known = given.notna().to_numpy()
                cuts = [classes[label]["threshold"] for label in CLASSES]
                predicted = predictions[list(CLASSES)].to_numpy() >= cuts
                expected.append(100 * f1_score(given.to_numpy()[known] == 1, predicted[known]))
            test = by_name(results)[name]["test"]
            assert test["OF1_tuned"] == pytest.approx(fmean(expected), abs=1e-5)
            assert 0 <= test["calibration_error_calibrated"] <= 100

    def test_differences_are_from_the_best_and_the_baseline(self, results):
        methods = by_name(results)
        for key, against, other in (
            ("test", "against_best", results["best"]["test"]),
            ("test", "against_baseline", "bce@uniform"),
            ("validation", "against_best", results["best"]["validation"]),
        ):
            means = {name: methods[name][key]["mean" if key == "test" else "mAP"] for name in FINISHED}
            for name in FINISHED:
                for group, difference in methods[name][key][against].items():
                    if means[name][group] is None:
                        assert difference["difference"] is None
                        continue
                    expected = means[name][group] - means[other][group]
                    assert difference["difference"] == pytest.approx(expected, abs=1e-5)
                    assert (difference["low"], difference["high"]) == (0, 0) if name == other else True
        totals = {name: methods[name]["test"]["mean"]["total"] for name in FINISHED}
        assert results["best"]["test"] == max(totals, key=totals.get)

    def test_failed_methods_are_rows_with_their_reason(self, finished, results):
        methods = by_name(results)
        assert methods["broken"]["failed"]["run"] == "runs/broken/seed0"
        assert "unknown loss 'pgg' (did you mean 'pg'" in methods["broken"]["failed"]["reason"]
        assert "lower --lr" in methods["nan"]["failed"]["reason"]
        assert methods["nan"]["test"] is None
        assert methods["nan"]["validation"] is None
        assert [methods[name]["failed"] for name in FINISHED] == [None] * 3
        assert "broken and nan failed and are not ranked." in results["recommendation"]["text"]
        table = (finished / "table.md").read_text()
        assert "| broken | failed |" in table
        assert "nan failed (runs/nan/seed0): " in table
        assert all(sentence in table for sentence in results["recommendation"]["text"])
        page = (finished / "report.html").read_text()
        assert all(name in page for name in (*FINISHED, "broken", "nan"))

    def test_own_methods_have_their_options(self, finished, results):
        mild = by_name(results)["mild"]
        assert (mild["title"], mild["options"]) == ("PG, milder", {"loss": "pg", "loss_options": {"neg_scale": 1.5}})
        config = load(finished / "folds" / "mild" / "fold1" / "config.yaml")
        assert (config.loss, config.loss_options, config.recipe) == ("pg", {"neg_scale": 1.5}, "coco-mlt")
        assert (config.val_folds, config.val_fold, config.seed) == (2, 1, 1)


def test_methods_that_all_failed_are_an_error_and_some_are_named(folder, finished, capsys):
    """Nothing of the finished ones is run again: only those that failed are."""
    assert main(arguments(folder, "whole")) == 0
    shown = capsys.readouterr()
    best = json.loads((finished / "results.json").read_text())["recommendation"]["methods"][0]
    command = f"tailwise train --data {folder / 'labels.csv'} --output {best} "
    assert f"to train {best} as it was here:\n    {command}" in shown.out
    assert "broken failed (runs/broken/seed0): --loss pgg: unknown loss 'pgg'" in " ".join(shown.out.split())
    assert "broken and nan failed and are not ranked." in " ".join(shown.out.split())
    assert "runs/broken/seed0: failed: --loss pgg: unknown loss 'pgg'" in " ".join(shown.err.split())
    assert main(arguments(folder, "failed", "--folds=0", methods="broken.yaml,nan.yaml")) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "error: no method finished all of its runs: broken (--loss pgg: unknown loss 'pgg'" in said
    assert "); nan (the bce loss became" in said
    assert json.loads((folder / "failed" / "results.json").read_text())["recommendation"]["methods"] == []


class TestInterruption:
    def test_kills_do_not_change_the_results(self, folder, finished, capfd):
        """SIGKILL for the parent alone, then for the whole process group; then the rest."""
        line = [sys.executable, "-m", "tailwise", *arguments(folder, "killed", "--workers=2")]
        output = folder / "killed"
        workers = self.kill(line, output, more_than=0, group=False)
        assert workers
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive, "workers outlive their parent"
        line[-1] = "--workers=1"
        self.kill(line, output, more_than=len(self.finished_runs(output)), group=True)
        kept = {path: path.stat().st_mtime_ns for path in self.finished_runs(output)}
        assert len(kept) > 1

        assert main(line[3:]) == 0
        assert (output / "results.json").read_bytes() == (finished / "results.json").read_bytes()
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        assert f"{len(kept)} of 20 runs are done already" in capfd.readouterr().err

    def kill(self, line: list[str], output: Path, *, more_than: int, group: bool) -> list[psutil.Process]:
        """Start a comparison, kill it when it has finished more runs, and return what its children were."""
        process = subprocess.Popen(
            line, env={**os.environ, "PYTHONPATH": str(SOURCES)}, start_new_session=True, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 240
        while len(self.finished_runs(output)) <= more_than:
            assert process.poll() is None, "ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        return children

    @staticmethod
    def finished_runs(output: Path) -> list[Path]:
        return sorted(output.glob("*/*/*/metrics.json"))


class TestGoingOn:
    def test_an_interrupt_ends_the_workers_and_says_how_to_go_on(self, folder):
        """Control-C in a terminal reaches the whole process group."""
        line = [sys.executable, "-m", "tailwise", *arguments(folder, "interrupted", "--epochs=100000")]
        process = subprocess.Popen(
            line, env={**os.environ, "PYTHONPATH": str(SOURCES)}, start_new_session=True, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 120
        while not list((folder / "interrupted" / "runs").glob("*/*/config.yaml")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "interrupted: finished work is kept, and the same command continues from there" in said.decode()
        assert b"Traceback" not in said
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive

    def test_other_options_are_refused_and_nothing_is_touched(self, folder, finished, capsys):
        before = (finished / "results.json").read_bytes()
        assert main(arguments(folder, "whole", "--epochs=3")) == 2
        assert "done with other options (--epochs: 2, now 3" in capsys.readouterr().err
        assert main(arguments(folder, "whole", "--folds=3")) == 2
        assert "--val-folds: 2, now 3" in capsys.readouterr().err
        assert (finished / "results.json").read_bytes() == before

    @pytest.mark.usefixtures("finished")
    def test_other_data_are_refused(self, folder, capsys):
        rows = (folder / "labels.csv").read_text().splitlines(keepends=True)
        (folder / "fewer.csv").write_text("".join(rows[:-1]))
        line = arguments(folder, "whole")
        assert main([line[0], str(folder / "fewer.csv"), *line[2:]]) == 2
        assert "was started with other data" in capsys.readouterr().err

    def test_a_folder_of_something_else_is_refused(self, folder, capsys):
        (folder / "thesis").mkdir()
        (folder / "thesis" / "chapter.tex").touch()
        assert main(arguments(folder, "thesis")) == 2
        assert "holds no comparison" in capsys.readouterr().err

    def test_methods_can_be_added_and_left_out(self, folder, finished, capsys):
        shutil.copytree(finished, folder / "grown")
        assert main(arguments(folder, "grown", methods="bce@uniform,ml-gcn,bce")) == 0
        grown = json.loads((folder / "grown" / "results.json").read_text())
        assert [method["name"] for method in grown["methods"]] == ["bce@uniform", "ml-gcn", "bce"]
        before = by_name(json.loads((finished / "results.json").read_text()))
        assert by_name(grown)["ml-gcn"]["test"]["runs"] == before["ml-gcn"]["test"]["runs"]
        assert "8 of 12 runs are done already" in capsys.readouterr().err

    def test_two_at_once_do_not_collide(self, folder, finished, capsys):
        with FileLock(finished / ".lock"):
            assert main(arguments(folder, "whole")) == 2
        assert "another process is writing the comparison" in capsys.readouterr().err


@pytest.fixture(scope="module")
def searched(folder) -> Path:
    """The folder of a comparison that tried options first, one of which fails."""
    (folder / "tuned.yaml").write_text(
        "options: {loss: focal}\n"
        "search: [{loss_options: {gamma: 0.0}}, {loss_options: {gamma: -1.0}}, {optim: {lr: 0.2}}]\n"
    )
    assert main(arguments(folder, "searched", "--search=true", "--seeds=1", methods="bce,tuned.yaml")) == 0
    return folder / "searched"


class TestSearch:
    def test_the_best_on_the_folds_is_chosen_and_used(self, folder, searched):
        record = json.loads((searched / "search.json").read_text())["methods"]["tuned"]
        assert [entry["options"] for entry in record] == [
            {},
            {"loss_options": {"gamma": 0.0}},
            {"loss_options": {"gamma": -1.0}},
            {"optim": {"lr": 0.2}},
        ]
        assert "gamma" in record[2]["failed"]["reason"]
        labels = labels_of(folder, "train_lt")
        totals = {}
        for index in (0, 1, 3):
            paths = [searched / "search" / "tuned" / str(index) / f"fold{k}" / "validation.parquet" for k in (0, 1)]
            totals[index] = sklearn_precisions(pd.concat(map(pd.read_parquet, paths)), labels).mean()
            assert record[index]["mAP"]["total"] == pytest.approx(totals[index], abs=1e-5)
        best = max(totals, key=totals.get)
        methods = by_name(json.loads((searched / "results.json").read_text()))
        assert methods["tuned"]["chosen"] == record[best]["options"]
        assert methods["tuned"]["validation"]["mAP"] == record[best]["mAP"]
        assert methods["bce"]["chosen"] is None
        config = load(searched / "runs" / "tuned" / "seed0" / "config.yaml")
        assert config.loss_options == record[best]["options"].get("loss_options", {})
        assert config.optim.lr == record[best]["options"].get("optim", {}).get("lr", 0.02)
        fold = load(searched / "folds" / "tuned" / "fold1" / "config.yaml")
        assert (fold.loss_options, fold.output) == (config.loss_options, str(searched / "folds" / "tuned" / "fold1"))

    def test_nothing_is_run_again(self, folder, searched):
        files = ("results.json", "search.json")
        before = [(searched / name).read_bytes() for name in files]
        line = arguments(folder, "searched", "--search=true", "--seeds=1", methods="bce,tuned.yaml")
        runs = {path: path.stat().st_mtime_ns for path in searched.glob("**/metrics.json")}
        assert main(line) == 0
        assert [(searched / name).read_bytes() for name in files] == before
        assert {path: path.stat().st_mtime_ns for path in searched.glob("**/metrics.json")} == runs

    def test_a_search_needs_folds(self, folder, capsys):
        assert main(arguments(folder, "none", "--search=true", "--folds=0")) == 2
        assert "give --folds 2 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("--methods=db-focl", r"did you mean 'db-focal'"),
        ("--baseline=pg", r"baseline 'pg' is none of the methods"),
        ("--folds=1", "folds must be 0, or 2 or more"),
        ("--folds=1000", "too few images, 46, for 1000 folds"),
        ("--folds=1000000000000000000000000000000", "too few images, 46, for 1000000000000000000000000000000 folds"),
        ("--folds=46", "images with a label, too few for 46 folds: "),
        ("--seeds=0", "seeds must be at least 1"),
        ("--workers=0", "workers must be at least 1"),
        ("--workers=-1", "workers must be at least 1"),
        ("--workers=1001", "workers must be at least 1 and at most 1000, got 1001"),
        ("--seeds=1000000000000000000000000000000", "seeds must be at least 1 and at most 1000"),
        ("--replicates=1000000000000000000000000000000", "replicates must be from 1 to 100000"),
        ("--replicates=0", "replicates must be from 1 to 100000"),
        ("--level=95", "level must be between 0 and 1"),
        ("--loss=pg", "--loss"),
        ("--backbone=test_resnt", "no model 'test_resnt'"),
        ("--backbone=vit_tiny_patch16_224", "cannot be made for images of 32 x 32 pixels"),
        ("--train-split=pool", "no split 'pool'"),
    ],
)
def test_input_that_cannot_be_used_is_one_line(folder, capsys, added, message):
    assert main([*arguments(folder, "refused"), added]) == 2
    assert message in capsys.readouterr().err
