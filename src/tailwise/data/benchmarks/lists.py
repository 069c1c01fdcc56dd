"""The authors' lists of image ids, from their repository or from a copy of it."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tailwise.data.benchmarks.facts import PublishedFacts, class_differences
from tailwise.data.formats.rows import read_text
from tailwise.data.restricted_pickle import read_pickle
from tailwise.errors import InputError

_ID = re.compile(r"[0-9A-Za-z_-]+")
_COUNTS, _GROUPS = "class_freq.pkl", "class_split.pkl"
# The authors name this group in two ways.
_MEDIUM = ("medium", "middle")
_logger = logging.getLogger(__name__)


def find_list(given: Path, place: str) -> Path:
    """Find a list of image ids in a copy of the authors' repository.

    Args:
        given: the list itself, or a folder: that of the repository, or any on the way from there to the list.
        place: path of the list in the repository.

    Raises:
        InputError: there is no such list, or it is a file of the repository that belongs to another split.
    """
    name = PurePosixPath(place).name
    if given.is_file():
        if given.name != name and given.name.endswith(name):
            raise InputError(f"{given} belongs to another split than the published one, whose list is {place}")
        return given
    parts = PurePosixPath(place).parts
    for start in range(len(parts)):
        candidate = given.joinpath(*parts[start:])
        if candidate.is_file():
            return candidate
    raise InputError(f"{given}: no {name} is there; give the list, or its folder, or a copy of the repository: {place}")


def read_image_ids(path: Path) -> list[str]:
    """Read image ids, in their order: from a text with one per line, whatever its ending, or from a pickle.

    Raises:
        InputError: it is neither, or an id stands twice.
    """
    try:
        ids = _ids_of_text(path)
    except InputError as not_text:
        try:
            ids = _ids_of_pickle(path)
        except InputError as error:
            raise InputError(f"{path}: no image ids: {not_text}; nor is it a list in a pickle: {error}") from error
    repeated = [image for image, count in Counter(ids).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: image {repeated[0]!r} stands more than once")
    return ids


def cross_check(folder: Path, facts: PublishedFacts) -> None:
    """Compare the authors' pickles of class counts and groups beside a list, where there are any, with the facts.

    Raises:
        InputError: they are those of another split.
    """
    for name, differences_of in ((_COUNTS, _count_differences), (_GROUPS, _group_differences)):
        path = folder / name
        if not path.is_file():
            continue
        try:
            differences = differences_of(read_pickle(path), facts)
        except (InputError, KeyError, TypeError, ValueError) as error:
            _logger.info("%s is not compared with the published numbers: %s", path, error)
            continue
        if differences:
            listed = "\n".join(f"  {difference}" for difference in differences)
            raise InputError(
                f"{path} is not that of the published split, and the list beside it may not be either:\n{listed}"
            )
        _logger.info("%s agrees with the published numbers", path)


def _ids_of_text(path: Path) -> list[str]:
    ids = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not (image := line.strip()):
            continue
        if not _ID.fullmatch(image):
            raise InputError(f"line {number} is no image id")
        ids.append(image)
    if not ids:
        raise InputError("the file is empty")
    return ids


def _ids_of_pickle(path: Path) -> list[str]:
    content = read_pickle(path)
    if isinstance(content, np.ndarray):
        content = content.tolist()
    if not isinstance(content, list | tuple) or not content:
        raise InputError(f"it holds no list but {type(content).__name__}")
    if not all(isinstance(image, str | int | np.integer) and _ID.fullmatch(str(image)) for image in content):
        raise InputError("it holds something else than image ids")
    return [str(image) for image in content]


def _count_differences(content: Any, facts: PublishedFacts) -> list[str]:
    counts = np.asarray(content["class_freq"], dtype=np.float64)
    if counts.shape != (len(facts.class_names),) or not np.array_equal(counts, np.rint(counts)):
        raise ValueError("its class_freq is not one whole number per class")
    return class_differences(facts, counts.astype(int).tolist())


def _group_differences(content: Any, facts: PublishedFacts) -> list[str]:
    if not isinstance(content, Mapping):
        raise TypeError("no groups by name")
    medium = next((name for name in _MEDIUM if name in content), _MEDIUM[0])
    differences = []
    for name, own_name in (("head", "head"), ("medium", medium), ("tail", "tail")):
        members = {int(k) for k in content[own_name]}
        if differing := sorted(members.symmetric_difference(facts.groups[name])):
            differences.append(f"the group {own_name} differs by the classes {differing}")
    return differences
