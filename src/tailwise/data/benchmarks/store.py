"""The folder of a benchmark: what is there is used, what is missing comes from the web."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tailwise.data.archives import extract
from tailwise.data.dataset import LabeledImages
from tailwise.data.download import download
from tailwise.data.formats.rows import Problems, Row, assemble
from tailwise.data.http import UnavailableError
from tailwise.errors import InputError

# Data sets lie in the folder given, in one of their own, or in one that archives were unpacked to.
_DEPTHS = ("", "*/", "*/*/")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web.

    Attributes:
        urls: its addresses, to be tried in this order.
        sha256: its SHA-256 in hexadecimal.
        size: its length in bytes, if known.
    """

    urls: tuple[str, ...]
    sha256: str
    size: int | None = None

    @property
    def name(self) -> str:
        """The name of the file in its address."""
        return PurePosixPath(urlsplit(self.urls[0]).path).name


@dataclass(frozen=True)
class Store:
    """A folder, and how to fill it.

    Attributes:
        root: the folder.
        download: whether to get what is missing; an error says what it is otherwise.
        progress: show bars, if standard error is a terminal.
        wait: seconds before a failed request is repeated for the first time.
    """

    root: Path
    download: bool = True
    progress: bool = True
    wait: float = 1.0

    def get(self, file: RemoteFile, folder: str = "", *, reason: str = "") -> Path:
        """Get one file, unless it is there.

        Args:
            file: the file.
            folder: where to put it, relative to the root.
            reason: what it is needed for, for messages.

        Raises:
            InputError: it cannot be had from any of its addresses, or may not be downloaded.
        """
        path = self.root / folder / file.name
        if not path.exists():
            self.require_permission(f"{path} is missing{reason}", f"get {file.urls[0]} and put it there")
        for place, url in enumerate(file.urls):
            try:
                return download(url, path, sha256=file.sha256, size=file.size, progress=self.progress, wait=self.wait)
            except UnavailableError as error:
                if place + 1 == len(file.urls):
                    raise
                _logger.warning("%s", error)
        raise AssertionError("a remote file has an address")

    def require_permission(self, missing: str, way_out: str) -> None:
        """Stop if nothing may be downloaded.

        Raises:
            InputError: nothing may be.
        """
        if not self.download:
            raise InputError(f"{missing}, and nothing may be downloaded; {way_out}, or allow the download")

    def folders(self, name: str) -> Iterator[Path]:
        """The folders of this name that are there, the highest first."""
        if self.root.name == name:
            yield self.root
        for depth in _DEPTHS:
            yield from sorted(path for path in self.root.glob(f"{depth}{name}") if path.is_dir())

    def complete(self, name: str, files: Sequence[str], archive: RemoteFile, *, within: str = "") -> Path:
        """Find a folder that holds some files; take them out of an archive if no folder holds all.

        Args:
            name: the name of the folder.
            files: the files needed, relative to it.
            archive: what holds them.
            within: the folder of the archive that holds the folder.

        Returns:
            The folder, with all files.

        Raises:
            InputError: the archive cannot be had, or does not hold the files.
        """
        best, missing = self.least_missing(name, files)
        if best is not None and not missing:
            return best
        where = f" of {name} in {best}" if best is not None else f" of {name}"
        reason = f" ({len(missing)} of {len(files)} files{where} are missing, such as {missing[0]})"
        path = self.get(archive, reason=reason)
        prefix = str(PurePosixPath(within, name))
        wanted = {f"{prefix}/{file}" for file in files}
        _logger.info("taking %d files out of %s", len(wanted), path)
        absent = wanted.difference(extract(path, wanted.__contains__, self.root, progress=self.progress))
        if absent:
            raise InputError(f"{path} does not hold {sorted(absent)[0]} ({len(absent)} files are not in it)")
        return self.root / prefix

    def least_missing(self, name: str, files: Iterable[str]) -> tuple[Path | None, list[str]]:
        """The folder of a name that lacks the fewest files, and those; None and all where there is no such folder."""
        files = list(files)
        best: tuple[Path | None, list[str]] = (None, files)
        for folder in self.folders(name):
            missing = [file for file in files if not (folder / file).is_file()]
            if best[0] is None or len(missing) < len(best[1]):
                best = (folder, missing)
            if not missing:
                break
        return best


def require_none(problems: Problems) -> None:
    """Stop if any annotation could not be used: a benchmark lacks nothing.

    Raises:
        InputError: one could not.
    """
    if problems.messages:
        raise InputError(
            f"{problems.messages[0]} ({len(problems.messages)} in all); remove what is damaged, to have it replaced"
        )


def assemble_all(
    rows: Iterable[Row], source: Path, root: Path, class_names: tuple[str, ...], place: str = "{source}:{line}"
) -> LabeledImages:
    """Make rows into labelled images, all of them; see :func:`~tailwise.data.formats.rows.assemble`.

    Raises:
        InputError: a row cannot be used.
    """
    problems = Problems("skip")
    data = assemble(rows, source=source, root=root, class_names=class_names, problems=problems, place=place)
    require_none(problems)
    return data
