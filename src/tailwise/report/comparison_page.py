"""A comparison of methods as a page."""

from __future__ import annotations

from pathlib import Path

from tailwise.report.results import read_comparison
from tailwise.report.results_page import PAGE_FILE, write_results_page


def write_comparison_page(folder: Path, output: Path | None = None) -> Path:
    """Write what a comparison found as one HTML file that works without a network.

    Args:
        folder: folder of the comparison: results.json, and the runs behind it.
        output: the file, which is replaced if it exists; by default report.html in the folder.

    Returns:
        The file.

    Raises:
        InputError: the folder holds no results of a comparison.
    """
    page = output or folder / PAGE_FILE
    write_results_page(read_comparison(folder), page)
    return page
