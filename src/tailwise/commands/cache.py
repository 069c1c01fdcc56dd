"""Command ``tailwise cache``: sizes and removal of cached images and features."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tailwise.errors import InputError
from tailwise.options import Role, check_fields, option

if TYPE_CHECKING:
    from tailwise.data.cache_folder import Entry

_SECONDS_OF_A_DAY = 86400.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the cache."""

    action: Literal["list", "clear"]
    """Show cached images and features of earlier commands (list), or remove them (clear). They are computed again when
    needed."""
    cache: str | None = option(Role.MACHINE, None)
    """Folder of decoded images and features; by default $TAILWISE_CACHE, or the user's cache folder."""
    older_than: float | None = option(Role.MACHINE, None, at_least=0)
    """For clear: remove entries that were not used for this many days."""
    all: bool = option(Role.MACHINE, False)
    """For clear: remove all entries that no process is using."""

    def __post_init__(self) -> None:
        check_fields(self)


def run(options: Options) -> None:
    """List the entries of the cache, or remove them."""
    from tailwise.data.cache_folder import cache_folder, find_entries

    days = options.older_than
    if options.action == "list" and (options.all or days is not None):
        raise InputError("--all and --older-than are for tailwise cache clear")
    if options.action == "clear" and options.all == (days is not None):
        raise InputError("tailwise cache clear needs either --older-than DAYS or --all")
    folder = cache_folder(options.cache)
    if options.cache is not None and not folder.is_dir():
        raise InputError(f"--cache {folder}: there is no such folder")
    entries = find_entries(folder)
    if options.action == "list":
        _show(folder, entries)
    else:
        _clear(folder, entries, 0.0 if days is None else days * _SECONDS_OF_A_DAY)


def _show(folder: Path, entries: list[Entry]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tailwise.data.cache_folder import LIMIT, cache_limit

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if entries:
        table = Table()
        for heading in ("kind", "MB", "last used", "of"):
            table.add_column(heading, justify="right" if heading == "MB" else "left", overflow="fold")
        for entry in entries:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
            table.add_row(entry.kind, f"{entry.size / 1e6:.1f}", used, Text(entry.describe() or "(not recorded)"))
        console.print(table)
    size = sum(entry.size for entry in entries) / 1e9
    console.print(f"{folder}: {len(entries)} entries, {size:.2f} GB of at most {cache_limit() / 1e9:g} GB ({LIMIT})")


def _clear(folder: Path, entries: list[Entry], seconds: float) -> None:
    from tailwise.data.cache_folder import remove, remove_leftovers

    now = time.time()
    chosen = [entry for entry in entries if now - entry.used >= seconds]
    removed = [entry for entry in chosen if remove(entry)]
    for kind in {entry.kind for entry in entries} | {"images", "features"}:
        remove_leftovers(folder / kind)
    size = sum(entry.size for entry in removed) / 1e9
    _logger.info("removed %d of %d entries, %.2f GB, from %s", len(removed), len(entries), size, folder)
    if len(removed) < len(chosen):
        _logger.warning("%d entries are in use or cannot be removed, and were kept", len(chosen) - len(removed))
