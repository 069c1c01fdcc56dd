"""Command ``tailwise inspect``: counts, groups and problems of labels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tailwise.commands.output import require_new, writing
from tailwise.data.dataset import Dataset
from tailwise.data.reading import ReadOptions, read
from tailwise.options import Role, option

if TYPE_CHECKING:
    from tailwise.data.label_facts import Inspection
    from tailwise.data.pixels.image_check import ImageReport

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options(ReadOptions):
    """Options of an inspection."""

    data: str = option(Role.PLACE)
    """File of labels (CSV, Parquet, JSON lines, COCO, .npz), folder of a data set, hf:owner/name, or "digits"."""
    train_split: str | None = option(Role.DATA, None, first=True)
    """Split to train on, whose counts make head, medium and tail. By default "train", or all rows where there is
    none."""
    test_split: str | None = option(Role.DATA, None, first=True)
    """Split to test on. By default "test", where there is one."""
    thresholds: tuple[int, int] = option(Role.PROTOCOL, (20, 100), first=True)
    """Training counts that separate tail from medium and medium from head classes."""
    page: str | None = option(Role.DISPLAY, None, first=True)
    """HTML page to write. It has sortable tables and plots, and needs no network."""
    check_images: bool = option(Role.PROTOCOL, False, first=True)
    """Open every image, and list those that are missing, damaged or duplicated."""
    workers: int | None = option(Role.MACHINE, None, first=True)
    """Threads that open images. By default one per CPU core."""
    quiet: bool = option(Role.DISPLAY, False, first=True)
    """Plain lines instead of progress bars."""


def run(options: Options) -> None:
    """Show what labelled images look like before training: counts, groups, co-occurrence, problems."""
    from tailwise.report.inspection.inspection_page import write_inspection_page
    from tailwise.report.inspection.terminal import show_inspection

    page = None if options.page is None else Path(options.page)
    if page is not None:
        require_new(page)
    inspection, images = inspect(read(options.data, options), options)
    show_inspection(inspection, images, page=None if page is None else str(page))
    if page is not None:
        with writing(page):
            write_inspection_page(page, inspection, images)
        _logger.info("page: %s", page)


def inspect(data: Dataset, options: Options) -> tuple[Inspection, ImageReport | None]:
    """Count the labels of data that were read, and open their images where that is asked for."""
    from tailwise.data.label_facts import inspect_labels
    from tailwise.data.pixels.image_check import check_images

    inspection = inspect_labels(
        data,
        train_split=options.train_split or _split_named("train", data),
        test_split=options.test_split or _split_named("test", data),
        thresholds=options.thresholds,
    )
    if not options.check_images:
        return inspection, None
    return inspection, check_images(data, workers=options.workers, progress=not options.quiet)


def _split_named(name: str, data: Dataset) -> str | None:
    return name if name in data.splits else None
