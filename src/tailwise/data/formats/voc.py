"""Pascal VOC: a folder for each year, with a file of XML for each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from xml.etree import ElementTree

from tailwise.data.dataset import Dataset
from tailwise.data.formats.rows import Format, Problems, Request, Row, read_text
from tailwise.errors import InputError

Difficult: TypeAlias = Literal["positive", "unknown"]
"""The label of a class in an image that shows it in difficult objects only."""

_ANNOTATIONS = "Annotations"
_IMAGES = "JPEGImages"
_LISTS = Path("ImageSets", "Main")
_YEARS = ("*", "VOCdevkit/*", "*/VOCdevkit/*")


@dataclass(frozen=True, slots=True)
class VocImage:
    """One image of a year folder.

    Attributes:
        line: its place in the list that names it, from 1.
        image: reference, with forward slashes.
        objects: name of each object in it, and whether it is marked as difficult.
        split: name of its split, "" for none.
    """

    line: int
    image: str
    objects: tuple[tuple[str, bool], ...]
    split: str = ""


def read_voc(request: Request) -> Dataset:
    """Read a Pascal VOC tree: an image has the classes of its objects, and none if it has no objects.

    The images are those named in ``train.txt``, ``val.txt`` and ``test.txt`` in ``ImageSets/Main``, which are the
    splits; with neither of the first two, those in ``trainval.txt``; without lists, all that have an annotation, in no
    split. Where several years are read, the year precedes the split: ``VOC2007/test``. Names of classes may differ
    in case and white space.

    The path is ``VOCdevkit``, a folder that holds it, or the folder of one year, such as ``VOC2012``.

    Returns:
        One row per image, with references such as ``VOC2012/JPEGImages/2008_000023.jpg`` from ``VOCdevkit``, or
        ``JPEGImages/2008_000023.jpg`` from the folder of one year. That the images exist is not checked.

    Raises:
        InputError: there is no such folder; or an annotation is missing, not XML, of another image, or names an unknown
            class.
    """
    path = request.path
    years = _find_years(path)
    if not years:
        raise InputError(
            f"{path}: expected VOCdevkit, or the folder of one year such as VOC2012, with a folder {_ANNOTATIONS}; "
            "there is neither"
        )
    parents = {year.parent for year in years}
    base = path if years == [path] or len(parents) > 1 else parents.pop()
    images: list[VocImage] = []
    for year in years:
        folder = year.relative_to(base).as_posix()
        prefix = "" if year == base else f"{folder}/"
        for split, names in _splits(year, request.problems):
            full_name = f"{folder}/{split}" if split and len(years) > 1 else split
            images += annotated_images(year, names, request.problems, prefix=prefix, split=full_name)
    rows = label_rows(images, request.class_names, request.options.difficult)
    return request.assemble(rows, root=request.root(base), place="{source}, image {image}")


def holds_voc(path: Path) -> bool:
    """Whether :func:`read_voc` finds annotations in a folder."""
    return bool(_find_years(path))


def annotated_images(
    year: Path, names: Iterable[tuple[int, str]], problems: Problems, *, prefix: str = "", split: str = ""
) -> Iterator[VocImage]:
    """Read the annotations of some images of a year.

    Args:
        year: the folder of the year.
        names: place and name, without ending, of each image.
        problems: gets the annotations that cannot be used.
        prefix: text before ``JPEGImages/`` in references.
        split: the split of the images.
    """
    for line, name in names:
        file = year / _ANNOTATIONS / f"{name}.xml"
        try:
            annotation = _parse(file)
            image = _image_name(file, annotation, name)
            objects = tuple(_objects(file, annotation))
        except InputError as error:
            problems.add(str(error))
        else:
            yield VocImage(line, f"{prefix}{_IMAGES}/{image}", objects, split)


def label_rows(
    images: Sequence[VocImage], class_names: Sequence[str] | None, difficult: Difficult = "positive"
) -> Iterator[Row]:
    """Yield the rows of annotated images, with one spelling for each class: the given or the most frequent one."""
    given = class_names
    if given is None:
        found = Counter(name for image in images for name, _ in image.objects)
        given = sorted(found, key=lambda name: (-found[name], name))
    spelling: dict[str, str] = {}
    for name in given:
        spelling.setdefault(name.casefold(), name)
    exact = set(spelling.values() if class_names is None else given)
    for image in images:
        objects = [
            (name if name in exact else spelling.get(name.casefold(), name), hard) for name, hard in image.objects
        ]
        labels = dict.fromkeys(name for name, hard in objects if not hard or difficult == "positive")
        unknown = dict.fromkeys(name for name, _ in objects if name not in labels)
        yield Row(image.line, image.image, tuple(labels), tuple(unknown), image.split)


def list_of_names(path: Path) -> list[tuple[int, str]]:
    """Line and first word of each line of a list that is not blank."""
    lines = read_text(path).splitlines()
    return [(number, line.split()[0]) for number, line in enumerate(lines, 1) if line.strip()]


def _find_years(path: Path) -> list[Path]:
    """The folders of years at or below a path."""
    if (path / _ANNOTATIONS).is_dir():
        return [path]
    for pattern in _YEARS:
        years = sorted(folder for folder in path.glob(pattern) if (folder / _ANNOTATIONS).is_dir())
        if years:
            return years
    return []


def _splits(year: Path, problems: Problems) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Name of each split, and place and name of its images."""
    lists = {name: year / _LISTS / f"{name}.txt" for name in ("train", "val", "trainval", "test")}
    there = [name for name, file in lists.items() if file.is_file()]
    if "train" in there or "val" in there:
        there = [name for name in there if name != "trainval"]
    for split in there:
        names = []
        for line, name in list_of_names(lists[split]):
            if "/" in name or "\\" in name:
                problems.add(f"{lists[split]}:{line}: {name!r} is not the name of an image, without folder and ending")
            else:
                names.append((line, name))
        yield split, names
    if not there:
        yield "", list(enumerate(sorted(file.stem for file in (year / _ANNOTATIONS).glob("*.xml")), 1))


class _WithoutDefinitions(ElementTree.TreeBuilder):
    def doctype(self, *_: object) -> None:
        # Entities, which can grow without bound or read other files, are defined nowhere else.
        raise InputError("it holds a document type definition, which annotations do not need")


def _parse(file: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(file, ElementTree.XMLParser(target=_WithoutDefinitions())).getroot()
    except OSError as error:
        raise InputError(f"no annotation {file}: {error.strerror}") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise InputError(f"{file}: not a usable XML annotation: {error}") from error
    if root is None or root.tag != "annotation":
        raise InputError(f"{file}: not a VOC annotation: the outermost element is not <annotation>")
    return root


def _image_name(file: Path, annotation: ElementTree.Element, name: str) -> str:
    """Name of the image file; annotations may leave its ending out."""
    named = (annotation.findtext("filename") or "").strip()
    if named in ("", name):
        return f"{name}.jpg"
    if Path(named).stem != name:
        raise InputError(f"{file}: annotates {named!r}, not an image {name!r}")
    return named


def _objects(file: Path, annotation: ElementTree.Element) -> Iterator[tuple[str, bool]]:
    """Name of each object, and whether it is marked as difficult. Parts of objects have names as well."""
    for number, element in enumerate(annotation.findall("object"), 1):
        name = " ".join((element.findtext("name") or "").split())
        if not name:
            raise InputError(f"{file}: object {number} has no name")
        difficult = (element.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            raise InputError(f"{file}: object {number} has difficult {difficult!r} where 0 or 1 is expected")
        yield name, difficult == "1"


VOC = Format("voc", read_voc, holds=holds_voc, folder="VOC2012/Annotations (VOC)")
