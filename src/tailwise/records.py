"""JSON files of objects, with their format, and dataclasses as JSON by their fields, with errors that name the key."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from tailwise.errors import InputError
from tailwise.files import replacing

KEY = "key"
"""Entry of a field's metadata: its name in JSON, where that differs."""

_T = TypeVar("_T")


def to_json(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON; fields that equality ignores (``compare=False``) are left out.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Interval:
    ...     low: float
    ...     high: float | None = None
    >>> to_json([Interval(1.0)])
    [{'low': 1.0, 'high': None}]
    """
    if is_dataclass(value):
        return {key: to_json(getattr(value, entry.name)) for entry in fields(value) if (key := _key(entry))}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[_T], content: Any) -> _T:
    """A dataclass from JSON as :func:`to_json` writes it.

    Fields may be numbers, strings, dataclasses, ``tuple[X, ...]``, ``Mapping[str, X]``, any of these or None, and Any.
    Keys without a field are ignored; a key that is missing has the default of its field.

    Raises:
        ValueError: a key is missing, or its value has another type; the message names the key.
    """
    result: _T = _read(kind, content, "")
    return result


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content


def read_record(path: str | os.PathLike[str], form: str, kind: str) -> dict[str, Any]:
    """Read what :func:`write_record` has written.

    Raises:
        InputError: the file is not JSON, or its format is another.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not a JSON file of {kind}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise InputError(f'{path} is not a file of {kind}: no "format": "{form}" in it')
    return content


def write_record(
    path: str | os.PathLike[str], form: str, content: Mapping[str, Any], *, indent: int | None = None
) -> None:
    """Write an object as JSON with its format, atomically."""
    text = json.dumps({"format": form, **content}, indent=indent, ensure_ascii=False)
    with replacing(path) as temporary:
        temporary.write_text(text if indent is None else text + "\n", encoding="utf-8")


def _key(entry: Field[Any]) -> str | None:
    key: str = entry.metadata.get(KEY, entry.name)
    return key if entry.compare else None


def _read(hint: Any, value: Any, place: str) -> Any:
    """A value of a type from JSON.

    Raises:
        ValueError: it is of another type, or lacks a key; the message names the key.
    """
    if isinstance(hint, UnionType):
        (hint,) = (option for option in get_args(hint) if option is not NoneType)
        return None if value is None else _read(hint, value, place)
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return _record(hint, _expect(value, dict, place), place)
    if origin is tuple:
        items = enumerate(_expect(value, list, place))
        return tuple(_read(arguments[0], item, f"{place}[{index}]") for index, item in items)
    if origin is Mapping:
        items = _expect(value, dict, place).items()
        return {key: _read(arguments[1], item, f"{place}.{key}") for key, item in items}
    return _expect(value, (int, float) if hint is float else hint, place)


def _record(hint: Any, value: Mapping[str, Any], place: str) -> Any:
    hints, given = get_type_hints(hint), {}
    for entry in fields(hint):
        key = _key(entry)
        if key is None:
            continue
        inner = f"{place}.{key}" if place else key
        if key in value:
            given[entry.name] = _read(hints[entry.name], value[key], inner)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise ValueError(f"there is no {inner!r} in it")
    return hint(**given)


def _expect(value: Any, kind: Any, place: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = {dict: "an object", list: "a list", str: "a string"}.get(kind, "a number")
        raise ValueError(f"{place!r} must be {wanted}, not {json.dumps(value)[:40]}")
    return value
