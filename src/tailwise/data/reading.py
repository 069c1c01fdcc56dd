"""Reading labelled images whatever their format, by the options that the command line and YAML files set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tailwise.checked import check_fields
from tailwise.data.cache_folder import cache_folder, make_room
from tailwise.data.dataset import LabeledImages
from tailwise.data.formats.coco import holds_coco, read_coco
from tailwise.data.formats.csv_table import read_csv, read_parquet
from tailwise.data.formats.hugging_face import HUB_PREFIX, is_saved_dataset, read_hub
from tailwise.data.formats.image_folder import holds_image_folders, read_folder
from tailwise.data.formats.jsonl import read_jsonl
from tailwise.data.formats.rows import Blank, Negative
from tailwise.data.formats.voc import Difficult, holds_voc, read_voc
from tailwise.data.splits import read_split_file, split_by_ratio
from tailwise.errors import InputError, OnError

Format: TypeAlias = Literal["auto", "csv", "parquet", "jsonl", "coco", "voc", "folder", "hf"]

_BY_SUFFIX: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "coco",
}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How labelled images are read."""

    format: Format = "auto"
    """Format of the data; by default found from the file or folder."""
    classes: str | None = None
    """JSON file with the list of class names, in the order wanted; by default what the format defines, or the labels
    found, sorted."""
    root: str | None = None
    """Folder that image references start from; by default where the format has its images."""
    separator: str = "|"
    """What stands between two labels in a cell of a CSV or Parquet file."""
    negative: Negative | None = None
    """What says that a class is absent in columns of classes (and in JSON lines with a number for each class): 0, so
    that -1 is unknown, or -1. To be given for files that hold 1 and -1 and never 0."""
    blank: Blank | None = None
    """What a cell of such columns says that holds nothing, or null: that nobody has judged (unknown), or that the class
    is absent (negative). To be given for files that hold 1 and blanks only."""
    difficult: Difficult = "positive"
    """What an object marked difficult in a VOC tree says of its class."""
    split_ratios: dict[str, float] | None = None
    """Divide all rows anew into splits of these shares, such as {"train": 0.8, "test": 0.2}, evenly in every class."""
    split_seed: int = 0
    """Seed of the division by split_ratios."""
    split_file: str | None = None
    """Take the splits from this CSV file (columns image, split) or JSON file ({"train": [images], ...})."""
    on_error: OnError = "raise"
    """Stop at a row or image that is bad or missing, or leave it out and list it."""
    cache: str | None = None
    """Folder of decoded images and features; by default $TAILWISE_CACHE, or the user's cache folder."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.split_seed < 0:
            raise InputError(f"split_seed must be 0 or more, got {self.split_seed}")

    @property
    def cache_folder(self) -> Path:
        """Where decoded images and features are kept."""
        return cache_folder(self.cache)


_Reader: TypeAlias = Callable[["str | Path", ReadOptions, Any], LabeledImages]


def read_labels(
    data: str | Path, options: ReadOptions = ReadOptions(), *, classes: Sequence[str] | None = None
) -> LabeledImages:
    """Read labelled images in any of the formats.

    Args:
        data: a CSV, Parquet, JSON lines or COCO file; the folder of a VOC or COCO data set, of images in class folders
            or with JSON lines, or of a saved Hugging Face data set; or ``hf:owner/name`` for one on the hub.
        options: how to read them.
        classes: class names in the order wanted, instead of those of ``options``.

    Raises:
        InputError: the format cannot be found, or the reader of the format refuses the data.
    """
    chosen = detect_format(data) if options.format == "auto" else options.format
    if options.split_ratios is not None and options.split_file is not None:
        raise InputError("split_ratios and split_file are both given; choose one")
    labeled = _READERS[chosen](data, options, classes if classes is not None else options.classes)
    if chosen == "hf":
        make_room(options.cache_folder, keep=labeled.root)
    if labeled.skipped:
        _logger.warning("%d rows are left out; the first: %s", len(labeled.skipped), labeled.skipped[0])
    if options.split_file is not None:
        splits = read_split_file(labeled, options.split_file)
    elif options.split_ratios is not None:
        splits = split_by_ratio(labeled.targets, options.split_ratios, seed=options.split_seed)
        empty = [name for name in options.split_ratios if name not in splits]
        if empty:
            raise InputError(
                f"split_ratios gives {empty[0]!r}, with a share of {options.split_ratios[empty[0]]:g}, none of the "
                f"{len(labeled)} rows of {labeled.source}; give it more, or leave it out"
            )
    else:
        return labeled
    if any(labeled.splits):
        _logger.info("the splits that %s gives are replaced", labeled.source)
    return replace(labeled, splits=splits)


def detect_format(data: str | Path) -> Format:
    """Find the format of a file or folder by its name and what is in it.

    Raises:
        InputError: there is nothing, or nothing that is known.
    """
    if str(data).startswith(HUB_PREFIX):
        return "hf"
    path = Path(data)
    if path.is_dir():
        return _format_of_folder(path)
    if not path.exists():
        raise InputError(f"cannot read {path}: there is no such file or folder")
    if path.suffix.lower() not in _BY_SUFFIX:
        raise InputError(
            f"{path}: the ending {path.suffix!r} says nothing of its format; give --format, one of "
            f"{', '.join(sorted(set(_BY_SUFFIX.values())))}"
        )
    return _BY_SUFFIX[path.suffix.lower()]


def _format_of_folder(path: Path) -> Format:
    checks: tuple[tuple[Callable[[Path], bool], Format], ...] = (
        (is_saved_dataset, "hf"),
        (holds_voc, "voc"),
        (holds_coco, "coco"),
        (holds_image_folders, "folder"),
    )
    for holds, name in checks:
        if holds(path):
            return name
    raise InputError(
        f"{path}: no data set in a known form is in this folder. Expected are VOC2012/Annotations (VOC), "
        "annotations/instances_*.json or train/_annotations.coco.json (COCO), metadata.jsonl beside or in folders of "
        "images, folders of images named by their class, or a saved Hugging Face data set; a table of labels is given "
        "as the file itself"
    )


def _read_table(reader: Callable[..., LabeledImages]) -> _Reader:
    def read(data: str | Path, options: ReadOptions, classes: Any) -> LabeledImages:
        given = {**_cells(options), "classes": classes, "root": options.root, "on_error": options.on_error}
        return reader(data, separator=options.separator, **given)

    return read


def _cells(options: ReadOptions) -> dict[str, Any]:
    return {"negative": options.negative, "blank": options.blank}


_READERS: dict[str, _Reader] = {
    "csv": _read_table(read_csv),
    "parquet": _read_table(read_parquet),
    "jsonl": lambda data, o, classes: read_jsonl(data, classes=classes, root=o.root, on_error=o.on_error, **_cells(o)),
    "voc": lambda data, o, classes: read_voc(
        data, classes=classes, root=o.root, difficult=o.difficult, on_error=o.on_error
    ),
    "coco": lambda data, o, classes: read_coco(data, classes=classes, root=o.root, on_error=o.on_error),
    "folder": lambda data, o, classes: read_folder(data, classes=classes, on_error=o.on_error, **_cells(o)),
    "hf": lambda data, o, classes: read_hub(data, classes=classes, folder=o.cache_folder / "hub", on_error=o.on_error),
}
