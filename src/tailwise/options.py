"""Dataclasses of options to command-line parsers and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

Options = TypeVar("Options")

# What is the value of an option that is true or false, rather than the argument after it: what YAML takes for one, null
# for options that may be left open, and what the parser is to refuse.
_TRUTH_VALUES = ("true", "false", "yes", "no", "on", "off", "null", "0", "1", "y", "n")


def add_options(
    parser: ArgumentParser, options: type[Any], *, positional: bool = False, without: Iterable[str] = ()
) -> None:
    """Add every option of a dataclass to a parser, and ``--config`` for YAML files of them.

    Args:
        parser: the parser.
        options: the dataclass; the text under a field is its help.
        positional: whether required options are given without a name.
        without: fields that are no options: they keep their defaults.
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
    for entry in fields(options):  # type: ignore[arg-type]
        if isinstance(entry.default_factory, type) and is_dataclass(entry.default_factory):
            values[entry.name] = entry.default_factory(**values[entry.name])
    return options(**values)


def plain_arguments(arguments: Sequence[str], options: type[Any]) -> list[str]:
    """Arguments as a parser with :func:`add_options` takes them.

    Names of options may be written with dashes, and an option that is true or false without its value, which is then
    true. Values, positional arguments, names within an option (``--split_ratios.my-split``) and whatever follows ``--``
    stay as they are.

    Args:
        arguments: what was given.
        options: the dataclass of the options.
    """
    known = option_types(options)
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
        name = _underscored(given, known)
        if not equals and bool in known.get(name, ()):
            is_given = bool(remaining) and remaining[0].lower() in _TRUTH_VALUES
            equals, value = "=", remaining.pop(0) if is_given else "true"
        result.append(f"--{name}{equals}{value}")
    return result


def _underscored(given: str, known: Iterable[str]) -> str:
    """The name of an option with underscores, up to where the option ends and names within it begin."""
    parts = given.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length]).replace("-", "_")
        if name in known:
            return ".".join([name, *parts[length:]])
    return given.replace("-", "_")


def option_types(options: type[Any], prefix: str = "") -> dict[str, tuple[Any, ...]]:
    """The types that each option of a dataclass may have, by its name with dots; none of a group of options."""
    hints = get_type_hints(options)
    found: dict[str, tuple[Any, ...]] = {}
    for entry in fields(options):
        name, hint = f"{prefix}{entry.name}", hints[entry.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            found |= {name: (), **option_types(hint, f"{name}.")}
        else:
            found[name] = (hint, *get_args(hint))
    return found
