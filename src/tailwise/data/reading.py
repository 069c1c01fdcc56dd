"""Reading labelled data in any format, by the options that the command line and YAML files set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tailwise.data.cache_folder import cache_folder
from tailwise.data.dataset import Dataset
from tailwise.data.formats import FORMATS
from tailwise.data.formats.arrays import read_features
from tailwise.data.formats.cells import Blank, Negative
from tailwise.data.formats.rows import Problems, Request, class_list
from tailwise.data.formats.voc import Difficult
from tailwise.data.splits import divided, read_split_file
from tailwise.errors import InputError, OnError
from tailwise.options import Role, check_fields, option
from tailwise.spelling import near

if TYPE_CHECKING:
    FormatName: TypeAlias = str
else:
    FormatName: TypeAlias = Literal[("auto", *FORMATS)]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How labelled images are read."""

    format: FormatName = option(Role.DATA, "auto")
    """Format of the data. By default found from the file or folder."""
    classes: str | None = option(Role.PLACE, None)
    """JSON file with the list of class names, in the order wanted. By default what the format defines, or the labels
    found, sorted."""
    root: str | None = option(Role.PLACE, None)
    """Folder that image references start from. By default where the format has its images."""
    features: str | None = option(Role.PLACE, None)
    """File of feature vectors to train on instead of images. An .npy file has them row by row as the labels, an .npz
    file in the arrays names and features, matched by name."""
    separator: str = option(Role.DATA, "|")
    """Separator of labels in a cell of a CSV or Parquet file."""
    negative: Negative | None = option(Role.DATA, None)
    """Value that says that a class is absent, in columns of classes and in JSON lines with a number for each class: 0,
    so that -1 is unknown, or -1. Needed for files that hold 1 and -1 and never 0."""
    blank: Blank | None = option(Role.DATA, None)
    """Meaning of an empty cell in such columns, and of null: not judged (unknown), or absent (negative). Needed for
    files that hold 1 and blanks only."""
    difficult: Difficult = option(Role.DATA, "positive")
    """Label of objects that a VOC data set marks as difficult."""
    split_ratios: dict[str, float] | None = option(Role.DATA, None)
    """Divide all rows anew into splits of these shares, such as {"train": 0.8, "test": 0.2}, evenly in every class and
    with groups whole."""
    split_seed: int = option(Role.DATA, 0, at_least=0)
    """Seed of the division by --split-ratios."""
    split_file: str | None = option(Role.PLACE, None)
    """Take the splits from this CSV file (columns image, split) or JSON file ({"train": [images], ...})."""
    group_column: str | None = option(Role.DATA, None)
    """Column or key that says which rows belong together, such as those of a patient or a site. --split-ratios and
    held-out folds keep them together."""
    on_error: OnError = option(Role.DATA, "raise")
    """Stop at a row or image that is bad or missing (raise), or leave it out and list it (skip)."""
    cache: str | None = option(Role.MACHINE, None)
    """Folder of decoded images and features. By default $TAILWISE_CACHE, or the user's cache folder."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def cache_folder(self) -> Path:
        """Where decoded images and features are kept."""
        return cache_folder(self.cache)


def read(
    data: str | Path,
    options: ReadOptions | None = None,
    *,
    classes: str | Path | Sequence[str] | None = None,
    **given: Any,
) -> Dataset:
    """Read labelled data in any of the formats.

    Args:
        data: a CSV, Parquet, JSON lines or COCO file; the folder of a VOC or COCO data set, of images in class folders
            or with JSON lines, or of a saved Hugging Face data set; ``hf:owner/name`` for one on the hub; a ``.npz``
            file of arrays; or "digits".
        options: how to read them.
        classes: class names in the order wanted, or a JSON file that lists them, instead of those of ``options``.
        given: fields of :class:`ReadOptions`, instead of those of ``options``.

    Raises:
        InputError: the format cannot be found, or the reader of the format refuses the data.

    Example:
        >>> read("digits")
        Dataset(1,642 images of 32 x 32 pixels, 10 classes, splits train 642 and test 1,000, source='digits')
    """
    unknown = sorted(given.keys() - ReadOptions.__dataclass_fields__.keys())
    if unknown:
        names = ReadOptions.__dataclass_fields__
        raise InputError(f"there is no option {unknown[0]!r} of reading{near(unknown[0], names)}")
    plain: dict[str, Any] = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    options = replace(options or ReadOptions(), **plain)
    if options.split_ratios is not None and options.split_file is not None:
        raise InputError("--split-ratios and --split-file are both given; choose one")
    name = detect_format(data) if options.format == "auto" else options.format
    known = FORMATS[name]
    if options.group_column is not None and not known.has_columns:
        named = ", ".join(sorted(other.name for other in FORMATS.values() if other.has_columns))
        raise InputError(
            f"{data}: --group-column needs columns or keys with names, which the format {name} does not have; "
            f"leave it out, or write the labels as one of {named}"
        )
    class_names = class_list(options.classes if classes is None else classes)
    found = known.read(Request(str(data), options, class_names, Problems(options.on_error)))
    if found.skipped:
        _logger.warning("%d rows are left out; the first: %s", len(found.skipped), found.skipped[0])
    if options.features is not None:
        found = read_features(options.features, found)
    if options.split_file is not None:
        resplit = replace(found, splits=read_split_file(found, options.split_file))
    elif options.split_ratios is not None:
        resplit = divided(found, options.split_ratios, seed=options.split_seed)
    else:
        return found
    if any(found.splits):
        _logger.info("the splits that %s gives are replaced", found.source)
    return resplit


def is_named(data: str) -> bool:
    """Whether data are known by a name, as those on a hub are, rather than by a path."""
    return any(known.is_named is not None and known.is_named(data) for known in FORMATS.values())


def detect_format(data: str | Path) -> str:
    """The name of the format of data, found by their name or ending, or by what a folder holds.

    Raises:
        InputError: there is nothing, or nothing that is known.
    """
    formats = FORMATS.values()
    path = Path(data)
    for known in formats:
        if known.is_named is not None and known.is_named(str(data)):
            return known.name
    if path.is_dir():
        for known in formats:
            if known.holds is not None and known.holds(path):
                return known.name
        expected = ", ".join(known.folder for known in formats if known.folder)
        raise InputError(
            f"{path}: no data set in a known form is in this folder. Expected are {expected}; a table of labels is "
            "given as the file itself"
        )
    if not path.exists():
        raise InputError(f"cannot read {path}: there is no such file or folder")
    for known in formats:
        if path.suffix.lower() in known.suffixes:
            return known.name
    raise InputError(
        f"{path}: the ending {path.suffix!r} belongs to no format; give --format, one of "
        f"{', '.join(sorted(known.name for known in formats if known.suffixes))}"
    )
