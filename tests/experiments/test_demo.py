"""The demo end to end, with the training cut short: the same data, methods, table and files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tailwise.cli import main
from tailwise.commands import demo
from tailwise.data.formats.digits import digits
from tailwise.training.config import OptimConfig


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch of every method."""
    full = demo.configuration
    optim = OptimConfig(warmup_steps=2, epochs=1)
    monkeypatch.setattr(demo, "configuration", lambda output: replace(full(output), optim=optim))
    short = tuple(replace(method, options={**method.options, "optim": {"epochs": 1}}) for method in demo.methods())
    monkeypatch.setattr(demo, "methods", lambda: short)


@pytest.mark.usefixtures("_short")
def test_demo_prints_and_writes_what_its_runs_found(tmp_path, capsys):
    output = tmp_path / "demo"
    assert main(["demo", "--output", str(output), "--seeds", "1", "--workers", "2"]) == 0
    printed, written = capsys.readouterr().out, (output / "table.md").read_text()
    for method in ("bce", "bce-class-aware", "db-focal", "pg"):
        metrics = json.loads((output / "runs" / method / "seed0" / "metrics.json").read_text())
        (row,) = [line for line in written.splitlines() if line.startswith(f"| {method} |")]
        for group, cell in zip(("total", "head", "medium", "tail"), row.split("|")[2:6], strict=True):
            assert cell.split()[0] == f"{metrics['mAP'][group]:.2f}"
            assert cell.split()[0] in printed
    assert "bce-class-aware" in (output / "report.html").read_text()


def test_methods_take_as_many_steps_and_differ_in_loss_and_sampler():
    options = {method.name: method.options for method in demo.methods()}
    assert options == {
        "bce": {"loss": "bce", "sampler": "uniform", "optim": {"epochs": 21}},
        "bce-class-aware": {"loss": "bce"},
        "db-focal": {"loss": "db-focal"},
        "pg": {"loss": "pg"},
    }
    stats = digits(num_test=1).stats
    uniform, class_aware = 21 * stats.num_samples, 10 * stats.class_counts.max() * stats.num_classes / 4
    assert uniform == pytest.approx(class_aware, rel=0.05)


def test_a_small_network_from_scratch_on_digits_as_they_are(tmp_path):
    config = demo.configuration(tmp_path)
    assert (config.data, config.output, config.image_size) == ("digits", str(tmp_path), 32)
    model, optim, augment = config.model, config.optim, config.augment
    assert (model.backbone, model.pretrained, model.frozen_stages) == ("test_resnet", False, -1)
    assert (model.running_stats, model.neck, model.mean, model.std) == (False, "none", (0.5,) * 3, (0.5,) * 3)
    assert (optim.lr, optim.epochs, optim.warmup_steps) == (0.1, 10, 50)
    assert (augment.photometric, augment.flip, augment.min_crop) == (False, 0.0, 0.8)


def test_the_plan_of_the_demo(tmp_path):
    plan = demo.plan(tmp_path / "out", seeds=2)
    assert (plan.seeds, plan.folds, plan.baseline, plan.methods) == ((0, 1), 0, "bce", demo.methods())
    assert plan.folder == tmp_path / "out"
