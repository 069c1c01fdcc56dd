"""What several commands print, and where they may write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tailwise.errors import InputError


def show_metrics(metrics: Mapping[str, Any], folder: Path | None) -> None:
    """Print the mAP of a test, and where its files are.

    Args:
        metrics: as :func:`tailwise.training.outputs.score` gives them, with the split.
        folder: where they were written, if anywhere.
    """
    console = Console()
    table = Table(title=f"mAP on {metrics['split']} (%)")
    for group in metrics["mAP"]:
        table.add_column(group, justify="right")
    table.add_row(*("-" if value is None else f"{value:.2f}" for value in metrics["mAP"].values()))
    console.print(table)
    left_out = metrics["classes_left_out"]["total"]
    if left_out:
        console.print(f"{left_out} classes without a positive in {metrics['split']} are left out of the means")
    if folder is not None:
        console.print(f"metrics, predictions and model: {folder}", soft_wrap=True, highlight=False)


def require_new(*paths: Path) -> None:
    """Refuse to replace files, and to write where there is no folder.

    Raises:
        InputError: a file is there already, or its folder is not.
    """
    for path in paths:
        if path.exists():
            raise InputError(f"{path} exists; remove it, or give another output")
        if not path.absolute().parent.is_dir():
            raise InputError(f"there is no folder {path.absolute().parent} to write {path.name} into; make it first")
