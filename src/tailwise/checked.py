"""Values of options held to their type hints, also where no parser has read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tailwise.errors import InputError
from tailwise.spelling import near


def check_fields(options: Any, prefix: str = "") -> None:
    """Hold each field of a frozen dataclass to its type hint, from its ``__post_init__``.

    A list becomes the tuple that is asked for, and a string the path. Numbers must be finite: no option means anything
    by NaN or infinity.

    Args:
        options: the dataclass.
        prefix: what its fields are called by in messages, before their own name.

    Raises:
        InputError: a value is not of the type, or none of the words that are allowed; the nearest is suggested.
    """
    kind: Any = type(options)
    hints = _hints(kind)
    for entry in fields(options):
        given = getattr(options, entry.name)
        try:
            fitting = _fit(given, hints[entry.name])
        except _MisfitError:
            hint = hints[entry.name]
            words = [word for word in _words(hint) if isinstance(word, str)]
            suggestion = near(given, words) if isinstance(given, str) else ""
            raise InputError(f"{prefix}{entry.name} must be {_describe(hint)}, got {given!r:.80}{suggestion}") from None
        if fitting is not given:
            object.__setattr__(options, entry.name, fitting)


class _MisfitError(Exception):
    """A value is not of a type."""


@cache
def _hints(options: type[Any]) -> dict[str, Any]:
    return get_type_hints(options)


def _fit(value: Any, hint: Any) -> Any:
    """The value as its type asks for it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        for option in arguments:
            try:
                return _fit(value, option)
            except _MisfitError:
                continue
        raise _MisfitError
    if origin is Literal:
        fits = any(value == word and type(value) is type(word) for word in arguments)
        return _kept(value, fits)
    if origin is tuple:
        return _fit_tuple(value, arguments)
    if origin is list:
        return _kept(value, isinstance(value, list) and all(_fits(item, arguments[0]) for item in value))
    if origin is dict:
        key, item = arguments
        fits = isinstance(value, Mapping) and all(_fits(k, key) and _fits(v, item) for k, v in value.items())
        return _kept(value, fits)
    return _fit_plain(value, hint)


def _fit_plain(value: Any, hint: Any) -> Any:
    if hint in (int, float):
        is_number = isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
        # A whole number that no float holds is as little use as infinity.
        return _kept(value, is_number and (hint is int or abs(value) < 2**1000) and math.isfinite(value))
    if hint is Path and isinstance(value, str):
        return Path(value)
    return _kept(value, isinstance(value, hint))


def _fit_tuple(value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        raise _MisfitError
    items = (arguments[0],) * len(value) if arguments[-1] is Ellipsis else arguments
    if len(items) != len(value):
        raise _MisfitError
    fitting = tuple(_fit(entry, item) for entry, item in zip(value, items, strict=True))
    unchanged = isinstance(value, tuple) and all(a is b for a, b in zip(value, fitting, strict=True))
    return value if unchanged else fitting  # type: ignore[return-value]


def _fits(value: Any, hint: Any) -> bool:
    try:
        _fit(value, hint)
    except _MisfitError:
        return False
    return True


def _kept(value: Any, fits: bool) -> Any:
    if not fits:
        raise _MisfitError
    return value


def _words(hint: Any) -> tuple[Any, ...]:
    """The words that a type allows."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(word for part in get_args(hint) for word in _words(part))


def _describe(hint: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_describe(part) for part in arguments)
    if origin is Literal:
        return "one of " + ", ".join(repr(word) for word in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list of items, each {_describe(arguments[0])}"
        return f"{len(arguments)} values, each {_describe(arguments[0])}"
    if origin is list:
        return f"a list of items, each {_describe(arguments[0])}"
    if origin is dict:
        return f"a mapping of {_describe(arguments[0])} to {_describe(arguments[1])}"
    plain = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false", type(None): "null"}
    return plain.get(hint, "a path" if hint is Path else getattr(hint, "__name__", "a value"))
