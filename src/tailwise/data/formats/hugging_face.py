"""Data sets of the Hugging Face ``datasets`` library: from the hub, or saved to disk. Needs the extra ``hub``."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tailwise.data.cache_folder import INDEX_FILE, NOTE_FILE, alone, make_room, touch
from tailwise.data.dataset import Dataset
from tailwise.data.download import why_unreachable
from tailwise.data.formats.rows import Format, Problems, Request, Row
from tailwise.data.row_groups import group_name
from tailwise.errors import InputError, require_extra
from tailwise.files import hold, replacing
from tailwise.spelling import near

HUB_PREFIX = "hf:"
_IMAGE_COLUMNS = ("image", "img", "file_name")
_LABEL_COLUMNS = ("labels", "label", "tags", "classes")
_SIGNATURES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp"}
# One descriptor, however often the data set is read.
_hold_for_good = cache(hold)
_logger = logging.getLogger(__name__)


def read_hub(request: Request) -> Dataset:
    """Read a data set with a column of images and one of labels.

    The column of images is ``image`` or ``img``, or the only one of that type; the labels are in ``labels``,
    ``label``, ``tags`` or ``classes``, as a list of class labels, of strings or of numbers, or a single one. The images
    are written to the cache folder as they are, once: training reads files.

    The data are ``hf:owner/name`` or ``hf:owner/name:configuration`` on the hub, or a folder written by
    ``save_to_disk``. The classes are those that the column declares, or the labels found, sorted; given class names are
    what numbers without names are positions in. The option ``group_column`` names a column of groups.

    Returns:
        One row per row of the data set, split by split.

    Raises:
        InputError: the library is missing, the hub cannot be reached, the data set cannot be loaded, or it has no such
            columns or rows.
    """
    name = request.data
    splits = _load(name)
    first = next(iter(splits.values()))
    image_column = _image_column(first.features, name)
    label_column = _label_column(first.features, name)
    group_column = request.options.group_column
    if group_column is not None and group_column not in first.features:
        raise InputError(
            f"{name}: no column {group_column!r}, which --group-column names{near(group_column, first.features)}; its "
            f"columns are {_listed(first.features)}"
        )
    own_names = _names_of(first.features[label_column])
    root = request.options.cache_folder / "hub" / _digest(splits)
    images = _image_files(splits, image_column, root, name)
    make_room(request.options.cache_folder, keep=root)
    columns = (label_column, group_column)
    rows = _rows(splits, columns, images, own_names or request.class_names, name, request.problems)
    return request.assemble(rows, root=root, class_names=own_names, place="{source}, image {image}")


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _load(name: str) -> dict[str, Any]:
    """The splits of a data set, by name; a data set without splits is one split named ""."""
    require_extra(f"reading {name}", "hub")
    import datasets

    try:
        if name.startswith(HUB_PREFIX):
            # The library repeats each request for half a minute where there is no network.
            offline = datasets.config.HF_HUB_OFFLINE
            if not offline and (reason := why_unreachable(datasets.config.HF_ENDPOINT)) is not None:
                raise InputError(
                    f"{name} cannot be loaded: {datasets.config.HF_ENDPOINT} cannot be reached ({reason}); check the "
                    "network, set HF_HUB_OFFLINE=1 to take what was loaded before, or give a folder written by "
                    "save_to_disk"
                )
            repository, _, configuration = name.removeprefix(HUB_PREFIX).partition(":")
            loaded = datasets.load_dataset(repository, configuration or None)
        else:
            loaded = datasets.load_from_disk(name)
    except InputError:
        raise
    except IndexError as error:  # how the library fails on what was saved without rows
        raise InputError(f"{name} has no rows") from error
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"{name} cannot be loaded: {' '.join(str(error).split())}") from error
    splits = dict(loaded) if isinstance(loaded, Mapping) else {"": loaded}
    if not splits or not any(len(rows) for rows in splits.values()):
        raise InputError(f"{name} has no rows")
    return splits


def _image_column(features: Mapping[str, Any], name: str) -> str:
    from datasets import Image

    of_type = [column for column, feature in features.items() if isinstance(feature, Image)]
    named = [column for column in _IMAGE_COLUMNS if column in of_type]
    if named or len(of_type) == 1:
        return (named or of_type)[0]
    raise InputError(f"{name}: expected one column of images, named 'image'; its columns are {_listed(features)}")


def _label_column(features: Mapping[str, Any], name: str) -> str:
    for column in _LABEL_COLUMNS:
        if column in features:
            return column
    raise InputError(f"{name}: expected a column 'labels' or 'label'; its columns are {_listed(features)}")


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(repr(column) for column in features)


def _names_of(feature: Any) -> tuple[str, ...] | None:
    """Class names that a column declares."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return None if names is None else tuple(names)


def _digest(splits: Mapping[str, Any]) -> str:
    state = [[split, rows._fingerprint, len(rows)] for split, rows in splits.items()]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _image_files(splits: Mapping[str, Any], column: str, root: Path, what: str) -> dict[str, list[str]]:
    """References of the images of each split, "" where a row has none; written unless they are there already."""
    try:
        if (known := _written(root)) is not None:
            return known
        root.parent.mkdir(parents=True, exist_ok=True)
        with alone(root):
            # Another process may have written them while this one waited.
            return _written(root) or _write_images(splits, column, root, what)
    except OSError as error:
        raise InputError(f"the images cannot be written to {root}: {error.strerror or error}") from error


def _written(root: Path) -> dict[str, list[str]] | None:
    """References of images that are there, and stay there as long as this process lives; None if they are not."""
    index = root / INDEX_FILE
    try:
        _hold_for_good(index)
        known: dict[str, list[str]] = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    touch(index)
    return known


def _write_images(splits: Mapping[str, Any], column: str, root: Path, what: str) -> dict[str, list[str]]:
    from datasets import Image

    _logger.info("writing the images of %d rows to %s", sum(len(rows) for rows in splits.values()), root)
    written: dict[str, list[str]] = {}
    for split, rows in splits.items():
        (root / (split or "all")).mkdir(parents=True, exist_ok=True)
        encoded = rows.select_columns([column]).cast_column(column, Image(decode=False))
        written[split] = [
            _write_image(row[column], root, f"{split or 'all'}/{number:08d}") for number, row in enumerate(encoded)
        ]
    size = sum((root / image).stat().st_size for images in written.values() for image in images if image)
    with replacing(root / NOTE_FILE) as temporary:
        temporary.write_text(json.dumps({"of": f"images of {what}", "bytes": size}), encoding="utf-8")
    with replacing(root / INDEX_FILE) as temporary:
        temporary.write_text(json.dumps(written), encoding="utf-8")
    _hold_for_good(root / INDEX_FILE)
    return written


def _write_image(cell: Mapping[str, Any] | None, root: Path, stem: str) -> str:
    content = None if cell is None else cell["bytes"]
    if content is None and cell is not None and cell["path"]:
        content = Path(cell["path"]).read_bytes()
    if content is None:
        return ""
    ending = next((ending for head, ending in _SIGNATURES.items() if content.startswith(head)), ".img")
    with replacing(root / f"{stem}{ending}") as temporary:
        temporary.write_bytes(content)
    return f"{stem}{ending}"


def _rows(
    splits: Mapping[str, Any],
    columns: tuple[str, str | None],
    images: Mapping[str, Sequence[str]],
    names: Sequence[str] | None,
    source: str,
    problems: Problems,
) -> Iterator[Row]:
    """Yield the rows of each split; ``columns`` are those of the labels and of the groups, if there are any."""
    number = 0
    label_column, group_column = columns
    for split, rows in splits.items():
        cells = rows.select_columns([column for column in dict.fromkeys(columns) if column is not None])
        for within, (row, image) in enumerate(zip(cells, images[split], strict=True), 1):
            number += 1
            try:
                labels = _labels(row[label_column], names)
                group = "" if group_column is None else group_name(row[group_column])
            except InputError as error:
                problems.add(f"{source}, split {split!r}, row {within}: {error}")
            else:
                yield Row(number, image, labels, split=split, group=group)


def _labels(cell: Any, names: Sequence[str] | None) -> list[str]:
    """Names of the labels in a cell; a negative number is no label."""
    found = []
    for label in cell if isinstance(cell, list) else [cell]:
        if isinstance(label, str):
            found.append(label.strip())
        elif isinstance(label, int):
            if names is not None and label >= len(names):
                raise InputError(f"label {label} is none of the {len(names)} classes")
            if label >= 0:
                found.append(str(label) if names is None else names[label])
        elif label is not None:
            raise InputError(f"{label!r} is neither the name nor the number of a class")
    return [label for label in found if label]


HUGGING_FACE = Format(
    "hf",
    read_hub,
    holds=is_saved_dataset,
    folder="a saved Hugging Face data set",
    is_named=lambda data: data.startswith(HUB_PREFIX),
    has_columns=True,
)
