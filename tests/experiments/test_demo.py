"""The demo end to end, with the training cut short: the same data, methods, table and files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tailwise.cli import main
from tailwise.config import OptimConfig
from tailwise.experiments import demo


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch of every method."""
    full = demo.configuration
    optim = OptimConfig(warmup_steps=2, epochs=1)
    monkeypatch.setattr(demo, "configuration", lambda output: replace(full(output), optim=optim))
    short = tuple(replace(method, options={**method.options, "optim": {"epochs": 1}}) for method in demo.METHODS)
    monkeypatch.setattr(demo, "METHODS", short)


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
