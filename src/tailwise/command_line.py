"""Dataclasses of options as command lines: parsers, spellings and help texts."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

from tailwise.options import Entry, Role, entries, from_names, groups_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

Options = TypeVar("Options")

# Words that are the value of an option before them that is true or false: those of YAML, null for options that may be
# left open, and words that the parser refuses.
_TRUTH_VALUES = ("true", "false", "yes", "no", "on", "off", "null", "0", "1", "y", "n")
# With fewer options than this, the short help shows them all.
_FEW = 16
_WIDTH_OF_NAMES = 24
_REQUIRED = "Needed"
_SHORT_HEADINGS = {Role.PLACE: "Data", Role.DATA: "Data", Role.DOWNLOAD: "Data", Role.METHOD: "Method"}
_REST = "Run"
_GROUP_HEADINGS = {"model": "Network", "optim": "Optimizer and schedule", "augment": "Augmentation"}
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "FILE"}


def add_options(
    parser: ArgumentParser, options: type[Any], *, positional: bool = False, without: Iterable[str] = ()
) -> None:
    """Add every option of a dataclass to a parser, and ``--config`` for YAML files of them.

    Args:
        parser: the parser.
        options: the dataclass; the text under a field is its help.
        positional: whether required options are given without a name.
        without: fields that are not options and keep their defaults.
    """
    from jsonargparse import set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser.add_argument("--config", action="config", help="YAML file of options, such as the config.yaml of a run.")
    parser.add_class_arguments(options, as_positional=positional, skip=set(without))


def from_namespace(options: type[Options], parsed: Namespace) -> Options:
    """The options that a parser with :func:`add_options` has parsed.

    Raises:
        InputError: an option is out of its range.
    """
    values = parsed.as_dict()
    values.pop("config", None)
    return from_names(options, values)


def canonical(arguments: Sequence[str], options: type[Any]) -> list[str]:
    """Arguments as a parser with :func:`add_options` takes them, from any accepted spelling.

    Names may have dashes or underscores; options of a group may be given without its name, and an option that is true
    or false without a value: ``--quiet``, ``--no-download``. Values, positional arguments, names within an option
    (``--split-ratios.my-split``) and what follows ``--`` stay as they are.

    Args:
        arguments: the arguments.
        options: the dataclass of the options.
    """
    known = list(entries(options))
    paths = {name: entry.path for entry in known for name in (entry.name, entry.path)}
    paths |= {group: group for group in groups_of(options)}
    switches = {entry.path for entry in known if entry.is_switch}
    result: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument == "--":
            return [*result, argument, *remaining]
        if not argument.startswith("--"):
            result.append(argument)
            continue
        given, equals, value = argument.removeprefix("--").partition("=")
        name = _path(given, paths)
        negated = _path(given.removeprefix("no-").removeprefix("no_"), paths)
        if not equals and name in switches:
            is_given = bool(remaining) and remaining[0].lower() in _TRUTH_VALUES
            equals, value = "=", remaining.pop(0) if is_given else "true"
        elif not equals and negated in switches:
            name, equals, value = negated, "=", "false"
        result.append(f"--{name}{equals}{value}")
    return result


def _path(given: str, paths: Mapping[str, str]) -> str:
    """The key of an option from its spelling; names within an option keep their dashes."""
    parts = given.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length]).replace("-", "_")
        if name in paths:
            return ".".join([paths[name], *parts[length:]])
    return given.replace("-", "_")


def path_of(name: str, options: type[Any]) -> str:
    """The key of an option from the key of a value within it: ``loss_options`` for ``loss_options.mu``."""
    paths = {entry.path for entry in entries(options)}
    parts = name.split(".")
    return next((path for n in range(len(parts), 0, -1) if (path := ".".join(parts[:n])) in paths), name)


def spelled(name: str, options: type[Any]) -> str:
    """The spelling of an option, or of a name within one, on the command line: ``--lr`` for ``optim.lr``."""
    path = path_of(name, options)
    found = next((entry.flag for entry in entries(options) if entry.path == path), f"--{path}")
    return found + name.removeprefix(path)


def to_arguments(values: Mapping[str, Any], options: type[Any]) -> list[str]:
    """A command line that gives values by key, as in ``{"optim.lr": 0.1, "quiet": True}``."""
    switches = {entry.path for entry in entries(options) if entry.is_switch}
    words: list[str] = []
    for path, value in values.items():
        name = spelled(path, options)
        if path in switches and isinstance(value, bool):
            words.append(name if value else f"--no-{name.removeprefix('--')}")
        else:
            words += [name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
    return words


def help_text(
    program: str,
    summary: str,
    options: type[Any],
    texts: Mapping[str, str],
    *,
    positional: bool,
    everything: bool,
    without: Iterable[str] = (),
) -> str:
    """The help of a command: usage, and its options in groups.

    Args:
        program: the command line up to its options.
        summary: its purpose in one line.
        options: the dataclass of its options.
        texts: help by key.
        positional: whether required options are given without a name.
        everything: whether all options are shown, with all of their text; else the first sentence of the first ones.
        without: fields that are not options.
    """
    known = [entry for entry in entries(options) if entry.path not in without]
    is_short = not everything and len(known) > _FEW
    shown = [entry for entry in known if not is_short or entry.declared.is_first or entry.default is MISSING]
    given = [entry.name.upper() for entry in known if positional and entry.default is MISSING]
    lines = [f"usage: {' '.join([program, *given, '[options]'])}", "", summary]
    for heading, members in _grouped(shown, set(groups_of(options)), is_short=is_short).items():
        lines += ["", f"{heading}:"]
        for entry in members:
            name = entry.name.upper() if heading == _REQUIRED and positional else _invocation(entry)
            lines += _described(name, _text(entry, texts.get(entry.path, ""), is_short))
    lines += ["", *_described("--config FILE", "YAML file of options, such as the config.yaml of a run.")]
    lines += _described("--help", "Show this help.")
    if is_short:
        lines += _described("--help-all", f"Show all {len(known)} options.")
    return "\n".join(lines)


def _grouped(shown: Sequence[Entry], groups: set[str], *, is_short: bool) -> dict[str, list[Entry]]:
    """Options by heading: the required ones, then by role; in the long help, groups have headings of their own."""
    headings = {role: _SHORT_HEADINGS.get(role, _REST) if is_short else role.value for role in Role}
    found: dict[str, list[Entry]] = {heading: [] for heading in (_REQUIRED, *headings.values())}
    for entry in shown:
        group = entry.path.partition(".")[0]
        heading = _REQUIRED if entry.default is MISSING else headings[entry.declared.role]
        if group in groups and not is_short:
            heading = _GROUP_HEADINGS.get(group, group)
        found.setdefault(heading, []).append(entry)
    return {heading: members for heading, members in found.items() if members}


def _invocation(entry: Entry) -> str:
    if entry.is_switch:
        return f"--[no-]{entry.flag.removeprefix('--')}" if entry.default is True else entry.flag
    return f"{entry.flag} {_metavar(entry.hint)}"


def _metavar(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin is dict:
        return "JSON"
    if origin in (tuple, list):
        return "[" + ",".join([_metavar(arguments[0])] * 2) + (",...]" if arguments[-1] is Ellipsis else "]")
    if arguments:
        return "|".join(_metavar(part) for part in arguments if part is not type(None))
    return _METAVARS.get(hint, "VALUE")


def _text(entry: Entry, text: str, is_short: bool) -> str:
    plain = " ".join(text.replace("``", "").split())
    if is_short:
        plain = plain.split(". ")[0].rstrip(".") + "."
    if entry.default in (MISSING, None, "") or entry.is_switch or isinstance(entry.default, dict):
        return plain
    return f"{plain.rstrip('.')} (default: {_shown(entry.default)})."


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return json.dumps(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def _described(name: str, text: str) -> Iterator[str]:
    """A name and its text in two columns."""
    width = min(shutil.get_terminal_size().columns, 120)
    wrapped = textwrap.wrap(text, width - _WIDTH_OF_NAMES - 4) or [""]
    if len(name) > _WIDTH_OF_NAMES:
        yield f"  {name}"
    else:
        yield f"  {name:<{_WIDTH_OF_NAMES}}  {wrapped.pop(0)}"
    for line in wrapped:
        yield " " * (_WIDTH_OF_NAMES + 4) + line
