"""Losses on held-out digits: ``python -m benchmarks.digits``.

The demo's network is trained from scratch on three quarters of the embedded training scenes and tested on the rest; the
test scenes do not count. Finished runs are kept below --output.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

from jsonargparse import auto_cli

from benchmarks.photos import NUM_FOLDS, Row, paired_table
from tailwise.commands.demo import configuration
from tailwise.experiments.methods import Method
from tailwise.training.folder import METRICS_FILE
from tailwise.training.run import train

METHODS = (
    *(Method(name, {"loss": name}) for name in ("bce", "r-bce", "db", "db-focal", "pg")),
    Method("apr", {"loss": "pr", "loss_options": {"adaptive": ["neg_slope"]}}),
    Method("pg-auto", {"loss": "pg-auto"}),
)


def digits(output: Path = Path("runs/digits"), seeds: int = 12) -> None:
    """Cross-validate losses on the digits: each seed holds out one of the folds, in turn."""
    rows = [_row(method, output, seeds) for method in METHODS]
    print(
        f"{seeds} seeds; beside the mAP, the mean difference from {rows[0].method} with the same seed ± standard error"
    )
    print(paired_table(rows))


def _row(method: Method, output: Path, seeds: int) -> Row:
    runs = []
    for seed in range(seeds):
        config = replace(
            method.configure(configuration(output), seed), val_folds=NUM_FOLDS, val_fold=seed % NUM_FOLDS, quiet=True
        )
        train(replace(config, resume=Path(config.output).exists()))
        runs.append(json.loads((Path(config.output) / METRICS_FILE).read_text(encoding="utf-8")))
    scores = {group: [run["validation"]["mAP"][group] for run in runs] for group in runs[0]["mAP"]}
    return Row(method.name, scores)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    auto_cli(digits)
