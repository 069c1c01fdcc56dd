"""The demo: BCE, DB-Focal and PG on long-tailed scenes of handwritten digits, trained from scratch."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tailwise.config import DIGITS, OptimConfig, TrainConfig
from tailwise.data.augment import Augmentation
from tailwise.experiments.methods import Method, Row, markdown_table, run_methods
from tailwise.files import replacing
from tailwise.models.config import ModelConfig

RESULTS_FILE = "results.md"

# The same number of steps for both samplers: 10 class-aware epochs are as long as 21 uniform ones.
METHODS = (
    Method("bce", {"loss": "bce", "sampler": "uniform", "optim": {"epochs": 21}}),
    Method("bce-class-aware", {"loss": "bce"}),
    Method("db-focal", {"loss": "db-focal"}),
    Method("pg", {"loss": "pg"}),
)


def demo(output: Path, seeds: int, workers: int) -> None:
    """Train the methods on the digits, print the table of their mAP, and write it as results.md.

    Args:
        output: folder of the runs and the table; finished runs in it are not done again.
        seeds: runs of each method.
        workers: runs at a time.
    """
    console = Console()
    rows: list[Row] = []
    runs = run_methods(configuration(output), METHODS, range(seeds), workers=workers)
    for row in track(runs, "training", total=len(METHODS), console=console, disable=not console.is_terminal):
        rows.append(row)
    table = Table(title="mAP on 1,000 test scenes (%)")
    table.add_column("method")
    for group in rows[0].scores:
        table.add_column(group, justify="right")
    for row in rows:
        table.add_row(row.method, *(row.cell(group) for group in row.scores))
    console.print(table)
    with replacing(output / RESULTS_FILE) as temporary:
        temporary.write_text(markdown_table(rows, seconds=True) + "\n", encoding="utf-8")
    console.print(f"the table and all runs: {output}", soft_wrap=True, highlight=False)


def configuration(output: Path) -> TrainConfig:
    """What the methods share: a small network from scratch, and augmentation that leaves digits what they are."""
    return TrainConfig(
        data=DIGITS,
        output=str(output),
        image_size=32,
        model=ModelConfig(
            backbone="test_resnet",
            pretrained=False,
            frozen_stages=-1,
            running_stats=False,
            neck="none",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        optim=OptimConfig(lr=0.1, epochs=10, warmup_steps=50),
        augment=Augmentation(photometric=False, flip=0.0),
        quiet=True,
    )
