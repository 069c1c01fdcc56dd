"""The demo end to end, with the training cut short: the same data, methods, table and files."""

from __future__ import annotations

from dataclasses import replace

from tailwise.cli import main
from tailwise.config import OptimConfig
from tailwise.experiments import demo


def test_demo_prints_and_writes_the_table(tmp_path, monkeypatch, capsys):
    full = demo.configuration

    def short(output):
        return replace(full(output), image_size=32, optim=OptimConfig(warmup_steps=2, epochs=1))

    monkeypatch.setattr(demo, "configuration", short)
    monkeypatch.setattr(
        demo, "METHODS", tuple(demo.Method(m.name, {**m.options, "optim": {"epochs": 1}}) for m in demo.METHODS)
    )
    assert main(["demo", "--output", str(tmp_path / "demo"), "--seeds", "1", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    written = (tmp_path / "demo" / demo.RESULTS_FILE).read_text()
    for method in ("bce", "db-focal", "pg"):
        (row,) = [line for line in written.splitlines() if line.startswith(f"| {method} |")]
        for cell in row.split("|")[2:6]:
            assert cell.strip(" *") in printed
