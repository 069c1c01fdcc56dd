"""Command ``tailwise report``: the HTML page of a run or a comparison."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from tailwise.commands.output import require_new
from tailwise.errors import InputError
from tailwise.options import Role, option

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of a report."""

    folder: str = option(Role.PLACE)
    """Folder of a finished run, of an evaluation, or of a comparison."""
    output: str | None = option(Role.DISPLAY, None)
    """HTML page to write. By default report.html in the folder, which is replaced."""


def run(options: Options) -> None:
    """Write the results of a run or a comparison as one HTML page that needs no network."""
    from tailwise.report.folders import results_file
    from tailwise.report.results_page import PAGE_FILE, write_report

    folder = Path(options.folder)
    results_file(folder)
    if options.output is not None:
        require_new(Path(options.output))
    page = Path(options.output) if options.output is not None else folder / PAGE_FILE
    if not os.access(page.absolute().parent, os.W_OK):
        raise InputError(f"{page.absolute().parent} cannot be written into; give --output")
    _logger.info("page: %s", write_report(folder, page))
