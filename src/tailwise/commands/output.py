"""Shared parts of commands: options, printed metrics, and checks of files to write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tailwise.errors import InputError
from tailwise.options import Role, option

if TYPE_CHECKING:
    from tailwise.experiments.results import Comparison

_MOST_CLASSES = 40
MOST_RUNS = 1000
"""Upper limit of seeds, processes and epochs: larger numbers are typing errors."""


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """Options of commands that download a published data set."""

    lists: str | None = option(Role.DOWNLOAD, None)
    """For voc-mlt and coco-mlt: the authors' list of images, its folder, or a copy of their repository. By default
    downloaded."""
    download: bool = option(Role.DOWNLOAD, True)
    """For voc-mlt and coco-mlt: download missing images."""


def publish(comparison: Comparison) -> None:
    """Write the table and the page of a comparison into its folder, and print what it found.

    Raises:
        RunsFailedError: no method finished all of its runs.
    """
    from tailwise.report.results_page import write_files
    from tailwise.report.summary import show

    write_files(comparison)
    show(comparison, Console())


def show_metrics(metrics: Mapping[str, Any], folder: Path | None) -> None:
    """Print the mAP of a test, the effect of its thresholds and calibration, and the folder of its files.

    For a run without a test, the mAP on validation images is printed instead, if there are any; for a run that is
    validated on all folds, it is printed as well.

    Args:
        metrics: metrics of :func:`tailwise.training.testing.score`, with the split.
        folder: folder of the files, if they were written.
    """
    console = Console()
    is_tested, validation = metrics["split"] is not None, metrics.get("validation")
    if validation is not None and (not is_tested or "folds" in validation):
        _show_means(validation, console)
    if is_tested:
        _show_means(metrics, console)
    else:
        console.print("tested on nothing: there is no test split", highlight=False)
    if "CF1_tuned" in metrics:
        _show_decisions(metrics, console)
    if folder is not None:
        files = "metrics, predictions and model" if is_tested else "metrics and model"
        console.print(f"{files}: {folder}", soft_wrap=True, highlight=False)


def _show_means(metrics: Mapping[str, Any], console: Console) -> None:
    from tailwise.report.tables import Column, Table
    from tailwise.training.testing import describe_left_out

    columns = [Column(group, "decimal") for group in metrics["mAP"]]
    console.print(Table("means", f"mAP on {metrics['split']} (%)", columns, [list(metrics["mAP"].values())]).to_rich())
    left_out = describe_left_out(metrics["AP"], metrics["split"])
    if left_out is not None:
        console.print(left_out, highlight=False, markup=False)


def _show_decisions(metrics: Mapping[str, Any], console: Console) -> None:
    from tailwise.report.tables import Column, Table

    columns = [Column("", "text")]
    columns += [Column(name, "decimal") for name in ("F1 at 1/2", "F1 tuned", "calibration error", "calibrated")]
    error, calibrated = metrics["calibration_error"], metrics["calibration_error_calibrated"]
    by_class = ("F1", "F1_tuned", "calibration_error_by_class", "calibration_error_calibrated_by_class")
    rows = [
        ["classes (CF1)", metrics["CF1"], metrics["CF1_tuned"], error, calibrated],
        ["overall (OF1)", metrics["OF1"], metrics["OF1_tuned"], None, None],
        *([name, *(metrics[key][name] for key in by_class)] for name in list(metrics["F1"])[:_MOST_CLASSES]),
    ]
    title = f"Thresholds and calibration of the validation images on {metrics['split']} (%)"
    console.print(Table("decisions", title, columns, rows).to_rich())
    if len(metrics["F1"]) > _MOST_CLASSES:
        console.print(f"the first {_MOST_CLASSES} of {len(metrics['F1'])} classes; metrics.json has all")


def require_new(*paths: Path) -> None:
    """Check that new files can be written.

    Raises:
        InputError: a file exists already, or its folder does not exist or is not writable.
    """
    for path in paths:
        if path.exists():
            raise InputError(f"{path} exists; remove it, or give another output")
        if not path.absolute().parent.is_dir():
            raise InputError(f"there is no folder {path.absolute().parent} to write {path.name} into; make it first")
        if not os.access(path.absolute().parent, os.W_OK):
            raise InputError(f"{path.absolute().parent} cannot be written into; give another output than {path.name}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report errors of writing a file in the block.

    Raises:
        InputError: the file cannot be written; the message says why.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); make room, or give another output"
        ) from error
