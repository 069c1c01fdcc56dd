"""Options as fields of frozen dataclasses: each declared once, with its role, type and range."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tailwise.errors import InputError
from tailwise.spelling import near

T = TypeVar("T")


class Role(Enum):
    """Roles of options. The value is the heading of the group in the help."""

    PLACE = "Where the data are"
    DATA = "Data"
    DOWNLOAD = "Published data sets"
    METHOD = "Method"
    PROTOCOL = "Protocol"
    DEVICE = "Devices"
    MACHINE = "Speed and storage"
    DISPLAY = "Output"


@dataclass(frozen=True)
class Declaration:
    """The declaration of an option, besides the type, default and help text of its field.

    Attributes:
        role: the role of the option.
        is_first: whether the short help shows it.
        is_of_one_run: whether it differs between the runs of a comparison, which then sets it itself.
        is_prefixed: whether the command line takes it only with the name of its group, as in ``--model.mean``.
        limits: (relation, bound) pairs that a number must satisfy.
    """

    role: Role = Role.METHOD
    is_first: bool = False
    is_of_one_run: bool = False
    is_prefixed: bool = False
    limits: tuple[tuple[str, float], ...] = ()

    def allows(self, value: Any) -> bool:
        """Whether a value is within the limits; values that are not numbers are."""
        if not isinstance(value, Real) or isinstance(value, bool):
            return True
        return all(_RELATIONS[relation](value, bound) for relation, bound in self.limits)


_KEY = "tailwise"
_RELATIONS = {
    "above": lambda value, bound: value > bound,
    "at least": lambda value, bound: value >= bound,
    "below": lambda value, bound: value < bound,
    "at most": lambda value, bound: value <= bound,
}


def option(
    role: Role = Role.METHOD,
    default: Any = MISSING,
    *,
    factory: Any = MISSING,
    first: bool = False,
    of_one_run: bool = False,
    prefixed: bool = False,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Declare an option as a field of a dataclass; the text under the field is its help.

    Args:
        role: its role.
        default: its default; the option is required without one.
        factory: makes the default instead.
        first: whether the short help shows it.
        of_one_run: whether a comparison sets it for each of its runs.
        prefixed: whether its name is ambiguous without that of its group.
        above: a number must be greater than this; ``at_least``, ``below`` and ``at_most`` likewise.

    >>> @dataclass(frozen=True)
    ... class Options:
    ...     rate: float = option(Role.METHOD, 0.1, above=0)
    ...     def __post_init__(self):
    ...         check_fields(self)
    >>> Options(rate=-1.0)
    Traceback (most recent call last):
    tailwise.errors.InputError: --rate must be above 0, got -1.0
    """
    given = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    limits = tuple((relation, bound) for relation, bound in given.items() if bound is not None)
    metadata = {_KEY: Declaration(role, first, of_one_run, prefixed, limits)}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def declaration(entry: Field[Any]) -> Declaration:
    """The declaration of a field."""
    declared: Declaration = entry.metadata.get(_KEY, Declaration())
    return declared


def names_of(options: Any, *roles: Role, of_one_run: bool | None = None) -> tuple[str, ...]:
    """Names of the options of a dataclass, in its order.

    Args:
        options: the dataclass, or one of its objects.
        roles: those with one of these roles only; all without.
        of_one_run: those that differ between the runs of a comparison, or those that do not; both when None.
    """
    found = ((entry.name, declaration(entry)) for entry in fields(options))
    return tuple(
        name
        for name, declared in found
        if (not roles or declared.role in roles) and of_one_run in (None, declared.is_of_one_run)
    )


def groups_of(options: Any) -> dict[str, type[Any]]:
    """The options of a dataclass that are dataclasses of options themselves, by name."""
    kind: Any = options if isinstance(options, type) else type(options)
    hints = _hints(kind)
    return {entry.name: hints[entry.name] for entry in fields(options) if is_dataclass(hints[entry.name])}


@dataclass(frozen=True)
class Entry:
    """An option of a dataclass or of one of its groups.

    Attributes:
        path: its name, after that of its group and a dot if it is in one: its key in YAML files.
        name: its name as a user gives it: without the group where it needs none.
        hint: its type.
        declared: the declaration of its field.
        default: its default; ``MISSING`` where it is required.
    """

    path: str
    name: str
    hint: Any
    declared: Declaration
    default: Any

    @property
    def flag(self) -> str:
        """Its spelling on the command line."""
        return flag(self.name)

    @property
    def is_switch(self) -> bool:
        """Whether it is true or false, and needs no value."""
        return bool in (self.hint, *get_args(self.hint))


def flag(name: str) -> str:
    """The spelling of an option on the command line."""
    return "--" + name.replace("_", "-")


def entries(options: type[Any]) -> Iterator[Entry]:
    """All options of a dataclass, those of its groups in place of the groups."""
    kind: Any = options
    hints, groups = _hints(kind), groups_of(options)
    own = {entry.name for entry in fields(options)}
    for entry in fields(options):
        if entry.name not in groups:
            yield Entry(entry.name, entry.name, hints[entry.name], declaration(entry), _default(entry))
            continue
        for inner in entries(groups[entry.name]):
            path = f"{entry.name}.{inner.path}"
            name = path if inner.declared.is_prefixed or inner.name in own else inner.name
            yield Entry(path, name, inner.hint, inner.declared, inner.default)


def from_names(options: type[T], given: Mapping[str, Any], base: T | None = None) -> T:
    """Make a dataclass of options from names as a user gives them: ``lr`` for ``optim.lr``.

    Args:
        options: the dataclass.
        given: values by name. A group such as ``optim`` may be given as a mapping or as its dataclass; names of its
            options win over it.
        base: options that the values change; the defaults when None.

    Raises:
        InputError: there is no such option (the nearest is suggested), or a value is out of its range.
    """
    kind: Any = options
    groups = groups_of(kind)
    paths = {entry.name: entry.path for entry in entries(kind)} | {entry.path: entry.path for entry in entries(kind)}
    own = {} if base is None else {entry.name: getattr(base, entry.name) for entry in fields(kind)}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        if name in groups and isinstance(value, Mapping):
            inner[name] = {**value, **inner.get(name, {})}
        elif name in groups:
            own[name] = value
        elif name in paths:
            group, dot, last = paths[name].rpartition(".")
            if dot:
                inner.setdefault(group, {})[last] = value
            else:
                own[name] = value
        else:
            raise InputError(f"there is no option {name!r}{near(name, [*paths, *groups])}")
    for group, values in inner.items():
        own[group] = from_names(groups[group], values, own.get(group))
    missing = [entry.name for entry in fields(kind) if entry.name not in own and _default(entry) is MISSING]
    if missing:
        raise InputError(f"{flag(missing[0])} is required")
    return options(**own)


def refuse(options: Any, names: Sequence[str], subject: str, reason: str) -> None:
    """Refuse options that would have no effect.

    Args:
        options: the options of a command.
        names: names of those that have no effect.
        subject: where they have no effect, for the message.
        reason: the reason, for the message.

    Raises:
        InputError: one of them is not at its default.
    """
    for entry in fields(options):
        if entry.name in names and getattr(options, entry.name) != _default(entry):
            raise InputError(f"{flag(entry.name)} does not apply to {subject}: {reason}")


def check_fields(options: Any, group: str = "") -> None:
    """Hold each field of a frozen dataclass to its type and range, from its ``__post_init__``.

    Lists are converted to tuples, and strings to paths, where the type is such. Numbers must be finite.

    Args:
        options: the dataclass.
        group: the name of its group, for options that are always given with it.

    Raises:
        InputError: a value has another type, is not an allowed word (the nearest is suggested), or is out of its range.
    """
    kind: Any = type(options)
    hints = _hints(kind)
    for entry in fields(options):
        given, hint, declared = getattr(options, entry.name), hints[entry.name], declaration(entry)
        name = flag(f"{group}.{entry.name}" if group and declared.is_prefixed else entry.name)
        try:
            fitting = _fit(given, hint)
        except _MisfitError:
            words = [word for word in _words(hint) if isinstance(word, str)]
            suggestion = near(given, words) if isinstance(given, str) else ""
            raise InputError(f"{name} must be {describe(hint)}, got {given!r:.80}{suggestion}") from None
        if not declared.allows(fitting):
            expected = " and ".join(f"{relation} {bound}" for relation, bound in declared.limits)
            raise InputError(f"{name} must be {expected}, got {fitting}")
        if fitting is not given:
            object.__setattr__(options, entry.name, fitting)


def describe(hint: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(describe(part) for part in arguments)
    if origin is Literal:
        return "one of " + ", ".join(repr(word) for word in arguments)
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"a list of items, each {describe(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} values, each {describe(arguments[0])}"
    if origin is dict:
        return f"a mapping of {describe(arguments[0])} to {describe(arguments[1])}"
    plain = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false", type(None): "null"}
    return plain.get(hint, "a path" if hint is Path else getattr(hint, "__name__", "a value"))


class _MisfitError(Exception):
    """A value is not of a type."""


@cache
def _hints(options: Hashable) -> dict[str, Any]:
    return get_type_hints(options)


def _default(entry: Field[Any]) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _fit(value: Any, hint: Any) -> Any:
    """The value, converted to its type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        for part in arguments:
            try:
                return _fit(value, part)
            except _MisfitError:
                continue
        raise _MisfitError
    if origin is tuple:
        return _fit_tuple(value, arguments)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not _is(value, hint, origin, arguments):
        raise _MisfitError
    return value


def _is(value: Any, hint: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether a value has a type without conversion."""
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in arguments)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        key, item = arguments
        return isinstance(value, Mapping) and all(_fits(k, key) and _fits(v, item) for k, v in value.items())
    if hint in (int, float):
        is_number = isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
        # A whole number that no float holds is as useless as infinity.
        return is_number and (hint is int or abs(value) < 2**1000) and math.isfinite(value)
    return isinstance(value, hint)


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


def _words(hint: Any) -> tuple[Any, ...]:
    """The words that a type allows."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(word for part in get_args(hint) for word in _words(part))
