"""The folder of a benchmark: files found in it, downloaded into it and extracted from archives."""

from __future__ import annotations

import logging
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tailwise.data.cache_folder import alone, require_space
from tailwise.data.dataset import Dataset
from tailwise.data.download import download, shown
from tailwise.data.formats.rows import Problems, Row, assemble
from tailwise.errors import InputError

# Data sets are in the root itself, in a folder of their own, or in one that an archive was extracted to.
_DEPTHS = ("", "*/", "*/*/")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web: its mirrors, in the order in which to try them, and its SHA-256 in hexadecimal."""

    urls: tuple[str, ...]
    sha256: str

    @property
    def name(self) -> str:
        """The name of the file in its first address."""
        return PurePosixPath(urlsplit(self.urls[0]).path).name


@dataclass(frozen=True)
class Store:
    """The root folder of a benchmark, and how to fill it.

    Attributes:
        root: the folder.
        download: whether to get what is missing; otherwise, an error names it.
        progress: show progress bars, if standard error is a terminal.
        wait: seconds before a failed request is repeated for the first time.
    """

    root: Path
    download: bool = True
    progress: bool = True
    wait: float = 1.0

    def get(self, file: RemoteFile, folder: str = "", *, reason: str = "") -> Path:
        """Get one file into a folder of the root, unless it is there.

        Raises:
            InputError: it is not available, or may not be downloaded; ``reason`` is its purpose.
        """
        path = self.root / folder / file.name
        if not path.exists():
            self.require_permission(f"{path} is missing{reason}", f"get {file.urls[0]} and put it there")
        return download(file.urls, path, sha256=file.sha256, progress=self.progress, wait=self.wait)

    def require_permission(self, missing: str, way_out: str) -> None:
        """Check that downloads are allowed.

        Raises:
            InputError: they are not.
        """
        if not self.download:
            raise InputError(f"{missing}, and nothing may be downloaded; {way_out}, or allow the download")

    def folders(self, name: str) -> Iterator[Path]:
        """The existing folders of this name, the highest first."""
        if self.root.name == name:
            yield self.root
        for depth in _DEPTHS:
            yield from sorted(path for path in self.root.glob(f"{depth}{name}") if path.is_dir())

    def least_missing(self, name: str, files: Iterable[str]) -> tuple[Path | None, list[str]]:
        """The folder of a name that lacks the fewest files, and those; None and all files without such a folder."""
        files = list(files)
        found: list[tuple[Path | None, list[str]]] = [
            (folder, [file for file in files if not (folder / file).is_file()]) for folder in self.folders(name)
        ]
        return min(found, key=lambda candidate: len(candidate[1]), default=(None, files))

    def complete(self, name: str, files: Sequence[str], archive: RemoteFile, *, within: str = "") -> Path:
        """Find a folder that holds some files; extract them from an archive if no folder holds all.

        Args:
            name: the name of the folder.
            files: the files needed, relative to it.
            archive: the archive that holds them.
            within: the folder of the archive that holds the folder.

        Returns:
            The folder, with all files.

        Raises:
            InputError: the archive is not available, or does not hold the files.
        """
        best, missing = self.least_missing(name, files)
        if best is not None and not missing:
            return best
        where = f" of {name} in {best}" if best is not None else f" of {name}"
        path = self.get(
            archive, reason=f" ({len(missing)} of {len(files)} files{where} are missing, such as {missing[0]})"
        )
        prefix = str(PurePosixPath(within, name))
        _logger.info("extracting %d files from %s", len(set(files)), path)
        extract(path, [f"{prefix}/{file}" for file in files], self.root, progress=self.progress)
        return self.root / prefix


def extract(archive: Path, names: Collection[str], folder: Path, *, progress: bool = True) -> None:
    """Extract files from a zip archive, or a tar archive, compressed or not.

    Each file appears under its name only when it is complete, so that an interrupted extraction can be repeated; files
    that exist with the right length are kept. :mod:`zipfile` and the data filter of :mod:`tarfile` keep files in the
    folder, and refuse links out of it and devices.

    Args:
        archive: the archive.
        names: names of the files in the archive.
        folder: where the names start; made if absent.
        progress: show a progress bar, if standard error is a terminal.

    Raises:
        InputError: it is no such archive, is damaged, or lacks a file; a name leads out of the folder; or there is no
            room.
    """
    scratch = folder / f".{archive.name}.extracting"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / archive.name), _opened(archive) as opened:
            sizes = _sizes(opened)
            _require_members(archive, names, sizes)
            missing = [name for name in dict.fromkeys(names) if not _is_complete(folder / name, sizes[name])]
            require_space(folder, sum(sizes[name] for name in missing), f"the needed part of {archive.name}")
            try:
                for name in shown(missing, "extracting", len(missing), progress):
                    if isinstance(opened, tarfile.TarFile):
                        opened.extract(name, scratch, set_attrs=False, filter="data")
                    else:
                        opened.extract(name, scratch)
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (scratch / name).replace(folder / name)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    # zipfile reports encryption and unknown methods as RuntimeError.
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        # tarfile lists on further lines how each kind of compression failed.
        reason = (str(error).splitlines() or ["unexpected end"])[0].rstrip(":")
        raise InputError(
            f"{archive} cannot be read ({reason}): it is no zip or tar archive, or a damaged one; remove it and get it "
            "again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{archive} cannot be extracted into {folder} ({error.strerror or error}); make room, or choose another "
            "folder. The same command resumes there"
        ) from error


def _opened(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    return zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive)


def _sizes(opened: zipfile.ZipFile | tarfile.TarFile) -> dict[str, int]:
    """Length of everything in an archive but folders, by name."""
    if isinstance(opened, zipfile.ZipFile):
        return {info.filename: info.file_size for info in opened.infolist() if not info.is_dir()}
    return {info.name: info.size for info in opened if not info.isdir()}


def _require_members(archive: Path, names: Collection[str], sizes: Collection[str]) -> None:
    absent = sorted(set(names).difference(sizes))
    if absent:
        raise InputError(f"{archive} does not hold {absent[0]} ({len(absent)} files are not in it)")
    for name in names:
        if name.startswith("/") or not {"..", "\\", ":"}.isdisjoint([*PurePosixPath(name).parts, *name]):
            raise InputError(f"{archive}: refused, the name {name!r} leads out of the folder to extract into")


def _is_complete(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def require_none(problems: Problems) -> None:
    """Check that all annotations could be used: a benchmark lacks nothing.

    Raises:
        InputError: one could not.
    """
    if problems.messages:
        raise InputError(
            f"{problems.messages[0]} ({len(problems.messages)} in all); remove what is damaged, to have it replaced"
        )


def assemble_all(
    rows: Iterable[Row], source: Path, root: Path, class_names: tuple[str, ...], place: str = "{source}:{line}"
) -> Dataset:
    """Make all rows into labelled images; see :func:`~tailwise.data.formats.rows.assemble`.

    Raises:
        InputError: a row cannot be used.
    """
    problems = Problems("skip")
    data = assemble(rows, source=source, root=root, class_names=class_names, problems=problems, place=place)
    require_none(problems)
    return data
