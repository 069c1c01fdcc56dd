"""The command ``tailwise``: its subcommands, their help, and messages on the terminal.

The module of a subcommand is imported when it runs, so that help and errors are fast.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console

from tailwise import __version__
from tailwise.command_line import add_options, canonical, from_namespace, help_text, spelled
from tailwise.errors import InputError, RunsFailedError
from tailwise.options import entries
from tailwise.spelling import near

_EXIT_RUNS_FAILED = 1
_EXIT_INPUT_ERROR = 2
_EXIT_INTERRUPTED = 130
# Replacements for Python types in the messages of the parser.
_PLAINER = (
    (r"Does not validate .* Subtypes: \[(.*)\] Errors: .* Given value: (.*)", r"expected \1, got \2"),
    (r"Expected an? (.*)\. Got value: ", r"expected \1, got "),
    (r"<class '(\w+)'>", r"\1"),
    (r"typing\.Literal\[([^]]*)\]", r"one of \1"),
    (r"\bNoneType\b", "null"),
)
_logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; those of the process when None.

    Returns:
        The exit code: 0; 1 when all of several runs failed, and 2 for input that cannot be used (one line on standard
        error, no traceback); 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    with _messages(errors):
        try:
            _run(arguments)
        except (InputError, ArgumentError) as error:
            errors.print(f"error: {error}")
            return _EXIT_INPUT_ERROR
        except RunsFailedError as error:
            errors.print(f"error: {error}")
            return _EXIT_RUNS_FAILED
        except KeyboardInterrupt:
            command = _COMMANDS.get(arguments[0]) if arguments else None
            errors.print(f"interrupted{f': {command.going_on}' if command and command.going_on else ''}")
            return _EXIT_INTERRUPTED
    return 0


@dataclass(frozen=True)
class _Command:
    """A command.

    Args:
        summary: its purpose in one line.
        positional: whether its required options are given without a name.
        going_on: how to continue after an interrupt, if results are kept.
        is_first: whether it is listed among the first commands.
    """

    summary: str
    positional: bool = True
    going_on: str = ""
    is_first: bool = True


_SAME_COMMAND = "finished work is kept, and the same command continues from there"
_COMMANDS = {
    "demo": _Command(
        "Pre-train a small network on embedded data, and compare heads on it, in two minutes.", going_on=_SAME_COMMAND
    ),
    "inspect": _Command("Show your labels before training: counts, groups, problems."),
    "compare": _Command("Compare losses and samplers on your data, and recommend one.", going_on=_SAME_COMMAND),
    "train": _Command(
        "Train a classifier, test it, and leave a folder with the model.",
        positional=False,
        going_on="the same command with --resume continues from the last checkpoint",
    ),
    "evaluate": _Command("Test the model of a finished run, on its own test split or on other data."),
    "report": _Command("Write a page of a run or a comparison: tables, curves, mistakes."),
    "guide": _Command("Advise, from the probabilities of a training, which factors of PG to change.", is_first=False),
    "build": _Command("Choose a long-tailed training set from your data, or get a published one.", is_first=False),
    "reproduce": _Command(
        "Run the papers' tables and figures again, next to the published numbers.",
        going_on=_SAME_COMMAND,
        is_first=False,
    ),
    "cache": _Command("Show or clear cached images and features of earlier commands.", is_first=False),
}


def _run(arguments: Sequence[str]) -> None:
    name = arguments[0] if arguments else "--help"
    if name not in _COMMANDS:
        _overview(name)
        return
    module = import_module(f"tailwise.commands.{name}")
    without = getattr(module, "NO_OPTIONS", ())
    parser = ArgumentParser(prog=f"tailwise {name}", exit_on_error=False)
    add_options(parser, module.Options, positional=_COMMANDS[name].positional, without=without)
    given = canonical(arguments[1:], module.Options)
    if asked := {"-h", "--help", "--help_all"} & set(given[: given.index("--")] if "--" in given else given):
        print(_help(name, parser, module.Options, without, everything="--help_all" in asked))  # noqa: T201
        return
    try:
        options = parser.parse_args(given)
    except ArgumentError as error:
        raise InputError(_explain(str(error), module.Options)) from error
    chosen = from_namespace(module.Options, options)
    if options.get("config"):
        _refuse_from_file(chosen, given)
    module.run(chosen)


def _help(name: str, parser: ArgumentParser, options: type[Any], without: Sequence[str], *, everything: bool) -> str:
    return help_text(
        f"tailwise {name}",
        _COMMANDS[name].summary,
        options,
        {action.dest: action.help or "" for action in parser._actions},
        positional=_COMMANDS[name].positional,
        everything=everything,
        without=without,
    )


def _refuse_from_file(options: Any, arguments: Sequence[str]) -> None:
    """Refuse options of a file that run code, or read a model from other files or the network.

    Raises:
        InputError: the file has such an option, and the command line does not repeat it.
    """
    given = {argument.partition("=")[0] for argument in arguments}
    from tailwise.losses import is_dotted_path, is_loss_file

    model = getattr(options, "model", None)
    if model is not None:
        from tailwise.models.backbone import refuse_sources

        # Options of the command line are trusted, each for itself.
        said = {"backbone": "", "options": {}}
        model = replace(model, **{name: none for name, none in said.items() if f"--model.{name}" in given})
        refuse_sources(model, "the file of --config", "if you mean it, give that option on the command line as well")
    for name in {"loss", "methods"} - {option.removeprefix("--") for option in given}:
        values = getattr(options, name, None) or ()
        for value in values.split(",") if isinstance(values, str) else values:
            if is_dotted_path(value.partition("@")[0]) and not is_loss_file(value):
                raise InputError(
                    f"the file of --config runs the code {value!r} as a loss; if you mean it, give --{name} itself"
                )
    if getattr(options, "trust", False) and "--trust" not in given:
        raise InputError("the file of --config sets trust; give --trust itself if you mean it")


def _overview(given: str) -> None:
    """Print the answer to ``--help`` or ``--version``, or refuse an unknown command."""
    if given == "--version":
        print(f"tailwise {__version__}")  # noqa: T201
        return
    if given not in ("-h", "--help", "--help-all"):
        raise InputError(f"no command {given!r}{near(given, _COMMANDS)}; there are {', '.join(_COMMANDS)}")
    lines = ["usage: tailwise COMMAND [options]", "", "Train multi-label classifiers when most labels are rare."]
    for heading, is_first in (("Commands", True), ("More commands", False)):
        lines += ["", f"{heading}:"]
        lines += [f"  {name:<10}  {it.summary}" for name, it in _COMMANDS.items() if it.is_first is is_first]
    lines += ["", "tailwise COMMAND --help shows the options of a command; tailwise --version the version."]
    print("\n".join(lines))  # noqa: T201


def _explain(message: str, options: type[Any]) -> str:
    """The message of the parser on one line, with options as users spell them and the nearest to an unknown one."""
    unknown = re.search(r"unrecognized arguments: (--[\w.-]+)", message)
    unknown_key = re.search(r"[Oo]ption '([\w.]+)'", message)
    group = re.search(r"Group '([\w.]+)'", message)
    plain = re.sub(r'Parser key "([\w.]+)"', lambda found: spelled(found[1], options), " ".join(message.split()))
    for pattern, replacement in _PLAINER:
        plain = re.sub(pattern, replacement, plain)
    if unknown:
        flags = {name: entry.flag for entry in entries(options) for name in (entry.flag, f"--{entry.path}")}
        return plain.replace(unknown[1], typed := unknown[1].replace("_", "-")) + near(typed, flags, flags)
    if unknown_key:
        key = f"{group[1]}.{unknown_key[1]}" if group else unknown_key[1]
        return plain + near(key, [entry.path for entry in entries(options)])
    return plain


@contextmanager
def _messages(console: Console) -> Iterator[None]:
    """Show log messages and warnings on standard error, as plain lines, while a command runs."""
    handler = _ConsoleHandler(console)
    logger = logging.getLogger("tailwise")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        self.console.print(f"{prefix}{record.getMessage()}")


def _show_warning(message: Warning | str, *_: Any) -> None:
    _logger.warning("%s", message)
