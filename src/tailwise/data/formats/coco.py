"""COCO: files of JSON that list images, categories and the objects in each image."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tailwise.data.dataset import Dataset
from tailwise.data.formats.rows import Format, Problems, Request, Row, read_text
from tailwise.errors import InputError

_LISTS = ("images", "annotations", "categories")
_FOLDER = "annotations"
_PREFIX = "instances_"
_BESIDE_IMAGES = "_annotations.coco.json"
# Most of a file is outlines, which image labels do not need.
_UNUSED = ("segmentation", "keypoints")
_IMAGES_LOOKED_FOR = 100
_SMALLEST_SIDE = 1


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image: its id, file name, size in pixels where the annotations have it, and names of its classes."""

    id: int
    file_name: str
    width: int | None
    height: int | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Instances:
    """The content of an instances file: the names of all categories by increasing id, and the images in its order."""

    class_names: tuple[str, ...]
    images: tuple[CocoImage, ...]


def read_coco(request: Request) -> Dataset:
    """Read COCO instances: an image has the classes of its boxes.

    A box gives no label if its width or height is below 1 or its area is not positive; boxes of crowds give one.
    Images without a label stay. A file is decoded as a whole: the 450 MB of ``instances_train2017.json`` take about 15
    seconds and 2 GB of memory.

    The path is a JSON file; a folder with ``annotations/instances_<split>.json`` and the images in ``<split>/``; or a
    folder with ``<split>/_annotations.coco.json`` next to the images. The images of a single file are looked for in its
    folder, in ``<split>/`` and in ``../<split>/``. The classes are all categories by increasing id.

    Returns:
        One row per image, with its id as its line. That the images exist is not checked.

    Raises:
        InputError: a file cannot be read, is no JSON or no such file; an id is unknown or repeated; something is
            missing or of another type; or the images are nowhere. The message names the file and the id.
    """
    path = request.path
    base, files = _annotation_files(path)
    if not files:
        raise InputError(
            f"{path}: expected {_FOLDER}/{_PREFIX}<split>.json, or <split>/{_BESIDE_IMAGES}; there is neither"
        )
    own_names: tuple[str, ...] | None = None
    rows: list[Row] = []
    for file, split in files:
        instances = read_instances(file, request.problems)
        if request.class_names is None and own_names not in (None, instances.class_names):
            raise InputError(f"{file} has other categories than {files[0][0]}; give the class names wanted of both")
        own_names = instances.class_names
        prefix = f"{split}/"
        if not path.is_dir():
            base, prefix = (
                (base, "") if request.options.root is not None else _image_folder(file, split, instances.images)
            )
        rows += [Row(image.id, f"{prefix}{image.file_name}", image.labels, split=split) for image in instances.images]
    return request.assemble(rows, root=request.root(base), class_names=own_names, place="{source}, image {line}")


def holds_coco(path: Path) -> bool:
    """Whether :func:`read_coco` finds annotations in a folder."""
    return bool(_annotation_files(path)[1])


def read_instances(file: Path, problems: Problems) -> Instances:
    """Read one instances file.

    Args:
        file: the file.
        problems: gets the images and boxes that cannot be used; an image with such a box is left out.

    Raises:
        InputError: the file cannot be read or is no instances file, or its categories cannot be used.
    """
    content = _decode(file)
    categories = _categories(file, content["categories"])
    records = content["images"]
    shown: dict[int, set[int]] = {}
    for place, record in enumerate(records):
        try:
            identity = _identity(record, "id", f"{file}: image number {place + 1}")
            if identity in shown:
                raise InputError(f"{file}: image {identity} occurs more than once; ids must be distinct")
            _check_image(record, f"{file}: image {identity}")
        except InputError as error:
            problems.add(str(error))
            records[place] = None
        else:
            shown[identity] = set()
    broken: set[int] = set()
    for place, record in enumerate(content["annotations"]):
        try:
            category = _category_shown(record, place, file, shown, categories)
        except InputError as error:
            problems.add(str(error))
            if isinstance(record, dict) and isinstance(record.get("image_id"), int):
                broken.add(record["image_id"])
        else:
            if category is not None:
                shown[record["image_id"]].add(category)
    images = (
        CocoImage(
            record["id"],
            record["file_name"].strip(),
            record.get("width"),
            record.get("height"),
            tuple(categories[category] for category in sorted(shown[record["id"]])),
        )
        for record in records
        if record is not None and record["id"] not in broken
    )
    return Instances(tuple(categories.values()), tuple(images))


def _annotation_files(path: Path) -> tuple[Path, list[tuple[Path, str]]]:
    """The folder of the images, and each file of annotations with its split."""
    if not path.is_dir():
        return path.parent, [(path, _split_of(path))]
    base = path.parent if path.name == _FOLDER else path
    files = [(file, _split_of(file)) for file in sorted((base / _FOLDER).glob(f"{_PREFIX}*.json"))]
    return base, files or [(file, file.parent.name) for file in sorted(path.glob(f"*/{_BESIDE_IMAGES}"))]


def _split_of(file: Path) -> str:
    return file.stem.removeprefix(_PREFIX) if file.stem.startswith(_PREFIX) else ""


def _image_folder(file: Path, split: str, images: Sequence[CocoImage]) -> tuple[Path, str]:
    """The root of references to the images of one file, and the prefix of their names."""
    if any((file.parent / image.file_name).is_file() for image in islice(images, _IMAGES_LOOKED_FOR)):
        return file.parent, ""
    for root in (file.parent, file.parent.parent):
        if split and (root / split).is_dir():
            return root, f"{split}/"
    looked = f"next to it, in {split}/ and in ../{split}/" if split else "next to it"
    raise InputError(f"{file}: its images are not {looked}; give the root that their names start from")


def _decode(file: Path) -> dict[str, list[Any]]:
    try:
        content: Any = json.loads(read_text(file), object_hook=_without_outlines)
    except json.JSONDecodeError as error:
        raise InputError(f"{file}:{error.lineno}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{file}: not an instances file: it is nested too deeply") from error
    for key in _LISTS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(
                f"{file}: not an instances file: it holds no list {key!r}; expected an object with the lists images, "
                "annotations and categories"
            )
    return {key: content[key] for key in _LISTS}


def _without_outlines(record: dict[str, Any]) -> dict[str, Any]:
    """Drop what takes most of the memory as soon as it has been decoded."""
    for key in _UNUSED:
        record.pop(key, None)
    return record


def _categories(file: Path, records: Sequence[Any]) -> dict[int, str]:
    """Names of the categories by increasing id."""
    names: dict[int, str] = {}
    for number, record in enumerate(records, 1):
        identity = _identity(record, "id", f"{file}: category number {number}")
        name = record.get("name")
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{file}: category {identity} has the name {name!r} where text is expected")
        if identity in names or name.strip() in names.values():
            raise InputError(f"{file}: category {identity}, {name!r}: ids and names must be distinct")
        names[identity] = name.strip()
    return dict(sorted(names.items()))


def _identity(record: Any, key: str, place: str) -> int:
    if not isinstance(record, dict) or type(record.get(key)) is not int:
        found = record.get(key) if isinstance(record, dict) else record
        raise InputError(f"{place}: expected an object whose {key!r} is a whole number, got {found!r}")
    identity: int = record[key]
    return identity


def _check_image(record: dict[str, Any], place: str) -> None:
    if not isinstance(record.get("file_name"), str):
        raise InputError(f"{place}: 'file_name' is {record.get('file_name')!r} where text is expected")
    for key in ("width", "height"):
        if not isinstance(record.get(key), int | None):
            raise InputError(f"{place}: {key!r} is {record[key]!r} where a whole number is expected")


def _category_shown(
    record: Any, number: int, file: Path, images: dict[int, set[int]], categories: dict[int, str]
) -> int | None:
    """The category of a box, None if the box is too small to show one."""
    identity = record.get("id", f"number {number + 1}") if isinstance(record, dict) else f"number {number + 1}"
    place = f"{file}: annotation {identity}"
    image, category = _identity(record, "image_id", place), _identity(record, "category_id", place)
    if image not in images:
        raise InputError(f"{place}: image {image} is none of the {len(images)} images")
    if category not in categories:
        raise InputError(f"{place}: category {category} is none of the {len(categories)} categories")
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise InputError(f"{place}: 'bbox' is {box!r} where [x, y, width, height] is expected")
    width, height = box[2:]
    area = record.get("area", width * height)
    if not _is_number(area):
        raise InputError(f"{place}: 'area' is {area!r} where a number is expected")
    return category if min(width, height) >= _SMALLEST_SIDE and area > 0 else None


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


COCO = Format(
    "coco",
    read_coco,
    suffixes=(".json",),
    holds=holds_coco,
    folder="annotations/instances_*.json or train/_annotations.coco.json (COCO)",
)
