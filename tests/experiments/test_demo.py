"""The demo end to end, with the training cut short: the same data, kinds of methods, table and files."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tailwise.cli import main
from tailwise.commands import demo
from tailwise.data.formats.digits import single_digits
from tailwise.models.backbone import create_backbone
from tailwise.training.resolution import resolve

SHOWN = ("ridge", "logistic", "asl-finetuned")


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One epoch of pre-training on fewer images and of fine-tuning, two heads, and two folds."""
    monkeypatch.setenv("TAILWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys.modules[single_digits.__module__], "single_digits", partial(single_digits, copies=1))
    full, methods = demo.pretraining, demo.methods()
    monkeypatch.setattr(
        demo, "pretraining", lambda folder: replace(full(folder), optim=replace(full(folder).optim, epochs=1))
    )
    *heads, tuned = (method for method in methods if method.name in SHOWN)
    short = replace(tuned, options={**tuned.options, "optim": {"epochs": 1}})
    monkeypatch.setattr(demo, "methods", lambda: (*heads, short))
    monkeypatch.setattr(demo, "_FOLDS", 2)


@pytest.mark.usefixtures("_short")
def test_demo_prints_and_writes_what_its_runs_found(tmp_path, capsys):
    output = tmp_path / "demo"
    assert main(["demo", "--output", str(output), "--seeds", "1", "--workers", "2"]) == 0
    printed, written = capsys.readouterr().out, (output / "table.md").read_text()
    for method in SHOWN:
        metrics = json.loads((output / "runs" / method / "seed0" / "metrics.json").read_text())
        assert metrics["mode"] == ("finetune" if method == "asl-finetuned" else "probe")
        (row,) = [line for line in written.splitlines() if line.startswith(f"| {method} |")]
        for group, cell in zip(("total", "head", "medium", "tail"), row.split("|")[2:6], strict=True):
            assert cell.split()[0] == f"{metrics['mAP'][group]:.2f}"
            assert cell.split()[0] in printed
    results = json.loads((output / "results.json").read_text())
    assert all(method["validation"]["mAP"]["total"] for method in results["methods"])
    page = (output / "report.html").read_text()
    assert "asl-finetuned" in page
    assert "1 seed each, mode probe and finetune" in page
    # A command line cannot name a method of the demo alone.
    assert "Repeat the comparison" not in page


@pytest.mark.usefixtures("_short")
def test_weights_of_the_pretraining_are_made_once_and_the_same_again(tmp_path):
    weights = demo.pretrain(tmp_path / "one")
    assert weights.is_relative_to(tmp_path / "one")
    written = weights.stat().st_mtime_ns
    assert demo.pretrain(tmp_path / "one") == weights
    assert weights.stat().st_mtime_ns == written
    assert demo.pretrain(tmp_path / "two").read_bytes() == weights.read_bytes()
    model = demo.plan(tmp_path / "one", weights, seeds=1).shared.model
    loaded, random = (create_backbone(entry).state_dict() for entry in (model, replace(model, weights=None)))
    trained = load_file(weights)
    assert loaded.keys() == trained.keys()
    assert all(loaded[name].equal(tensor) for name, tensor in trained.items())
    assert not random["conv1.0.weight"].equal(loaded["conv1.0.weight"])


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path, capsys):
    (tmp_path / "photo.jpg").touch()
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "exists and holds no demo; give another output" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_the_network_is_pretrained_from_scratch_on_digits_as_they_are(tmp_path):
    config = demo.pretraining(tmp_path)
    assert (config.data, config.output) == (str(tmp_path / "data.npz"), str(tmp_path / "run"))
    assert (config.mode, config.loss, config.sampler, config.test_split) == ("finetune", "bce", "uniform", "none")
    assert (config.optim.lr, config.optim.epochs, config.image_size, config.resume) == (0.1, 4, 32, False)
    (tmp_path / "run").mkdir()
    assert demo.pretraining(tmp_path).resume


def test_a_small_network_from_scratch_on_digits_as_they_are(tmp_path):
    config = demo.configuration(tmp_path)
    assert (config.data, config.output, config.image_size) == ("digits", str(tmp_path), 32)
    model, optim, augment = config.model, config.optim, config.augment
    assert (model.backbone, model.pretrained, model.frozen_stages) == ("test_resnet", False, -1)
    assert (model.running_stats, model.neck, model.mean, model.std) == (False, "none", (0.5,) * 3, (0.5,) * 3)
    assert (optim.lr, optim.epochs, optim.warmup_steps) == (0.1, 10, 50)
    assert (augment.photometric, augment.flip, augment.min_crop) == (False, 0.0, 0.8)


def test_the_plan_of_the_demo(tmp_path):
    weights = tmp_path / "w.safetensors"
    plan = demo.plan(tmp_path / "out", weights, seeds=2)
    assert (plan.seeds, plan.folds, plan.baseline, plan.methods) == ((0, 1), 5, "logistic", demo.methods())
    assert plan.folder == tmp_path / "out"
    assert (plan.shared.data, plan.shared.mode, plan.shared.recipe) == ("digits", "probe", "coco-mlt")
    assert plan.shared.model.weights == weights


def test_heads_are_solved_and_one_of_them_starts_the_fine_tuning(tmp_path):
    plan = demo.plan(tmp_path / "out", tmp_path / "w.safetensors", seeds=2)
    *heads, tuned = plan.methods
    assert [method.name for method in heads] == ["ridge", "logistic", "asl", "db", "pg-auto", "ridge+asl"]
    assert all(plan.is_solved(method) for method in heads)
    config, head = resolve(tuned.configure(plan.shared, 0)), resolve(heads[2].configure(plan.shared, 0))
    assert (config.mode, config.head.solver, config.optim.epochs) == ("finetune", "exact", 20)
    assert (config.loss, config.sampler, config.model.weights) == (head.loss, head.sampler, head.model.weights)
    assert config.optim.name == "adamw"
    assert (len(plan.test_runs(tuned)), len(plan.fold_runs(tuned))) == (2, 5)
