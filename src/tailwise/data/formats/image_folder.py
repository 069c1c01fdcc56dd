"""Folders of images: with JSON lines of labels, or one folder per class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tailwise.data.dataset import Dataset
from tailwise.data.formats.jsonl import JsonCells, jsonl_rows, read_jsonl
from tailwise.data.formats.rows import Format, Request, Row
from tailwise.errors import InputError

METADATA = "metadata.jsonl"
_IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def read_folder(request: Request) -> Dataset:
    """Read a folder of images.

    Either ``metadata.jsonl`` labels the images next to and below it (see
    :func:`~tailwise.data.formats.jsonl.read_jsonl`); it lies in the folder itself, or in each of its folders, whose
    names are then the splits. Or images lie in folders named by their one class, ``cat/1.jpg``, which may lie in
    folders of splits, ``train/cat/1.jpg`` (names such as train, val, test).

    Returns:
        The images in the order of the JSON lines, or of their paths.

    Raises:
        InputError: there are no such files, or as for JSON lines.
    """
    path = request.path
    if (path / METADATA).is_file():
        return read_jsonl(replace(request, data=str(path / METADATA)))
    metadata = sorted(path.glob(f"*/{METADATA}"))
    cells = JsonCells(request)
    if not metadata and request.options.group_column is not None:
        raise InputError(
            f"{path}: --group-column names a key of {METADATA}, and there is none: folders of classes have no groups"
        )
    rows = cells.checked(_metadata_rows(metadata, cells, request)) if metadata else _class_folder_rows(path)
    return request.assemble(rows, root=request.root(path), place="{source}, image {image}")


def holds_image_folders(path: Path) -> bool:
    """Whether :func:`read_folder` finds images in a folder."""
    if (path / METADATA).is_file() or any(path.glob(f"*/{METADATA}")):
        return True
    return any(_is_image(file) for file in path.glob("*/*")) or any(_is_image(file) for file in path.glob("*/*/*"))


def _metadata_rows(files: Sequence[Path], cells: JsonCells, request: Request) -> Iterator[Row]:
    for file in files:
        split = file.parent.name
        yield from jsonl_rows(file, cells, request, folder=f"{split}/", split=split)


def _class_folder_rows(path: Path) -> Iterator[Row]:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not folders:
        raise InputError(f"{path}: expected {METADATA}, or a folder of images for each class; there are no folders")
    are_splits = all(folder.name.lower() in _SPLIT_NAMES for folder in folders)
    files = sorted(file for folder in folders for file in folder.rglob("*") if _is_image(file))
    for number, file in enumerate(files, 1):
        parts = file.relative_to(path).parts
        split, *within = parts if are_splits else ("", *parts)
        if len(within) < 2:
            raise InputError(
                f"{file} lies in no folder of a class; expected {path.name}/{split}/<class>/{file.name}, or "
                f"{path.name}/{split}/{METADATA} with the labels"
            )
        yield Row(number, "/".join(parts), [within[0]], split=split)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in _IMAGE_ENDINGS and not file.name.startswith(".") and file.is_file()


IMAGE_FOLDER = Format(
    "folder",
    read_folder,
    holds=holds_image_folders,
    folder="metadata.jsonl next to or in folders of images, folders of images named by their class",
    has_columns=True,
)
