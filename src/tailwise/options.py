"""Dataclasses of options to command-line parsers and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

Options = TypeVar("Options")


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
