"""A finished run as a page."""

from __future__ import annotations

from pathlib import Path

from tailwise.report.results import read_run
from tailwise.report.results_page import PAGE_FILE, write_results_page


def write_run_page(run_folder: Path, output: Path | None = None) -> Path:
    """Write what a run found as one HTML file that works without a network.

    Args:
        run_folder: folder of a finished run.
        output: the file, which is replaced if it exists; by default report.html in the folder.

    Returns:
        The file.

    Raises:
        InputError: the folder holds no finished run.
    """
    page = output or run_folder / PAGE_FILE
    write_results_page(read_run(run_folder), page)
    return page
