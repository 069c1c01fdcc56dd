"""The command line: ``tailwise demo | inspect | build | compare | train | guide | evaluate | report |
reproduce | cache``.

Only what a command needs is imported, when it runs, so that help and errors come quickly.
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
from tailwise.errors import InputError, RunsFailedError
from tailwise.loss_file import is_loss_file
from tailwise.options import add_options, from_namespace, plain_arguments
from tailwise.spelling import near

_EXIT_RUNS_FAILED = 1
_EXIT_INPUT_ERROR = 2
_EXIT_INTERRUPTED = 130
# The parser's messages name Python types; people give options.
_PLAINER = (
    (r'Parser key "([\w.]+)"', r"--\1"),
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
        The exit code: 0; 1 when none of many runs came to its end, and 2 for input that cannot be used (one line on
        standard error, no traceback); 130 when interrupted.
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
    """A command: its module is imported when it runs, so that help and errors come quickly.

    Args:
        summary: what it does, in a line.
        positional: whether its required options are given without a name.
        going_on: how to go on after an interrupt, if anything was kept.
    """

    summary: str
    positional: bool = True
    going_on: str = ""


_SPELLING = "Options may be written with dashes too, and those that are true or false without a value: --check-images."
_SAME_COMMAND = "what is done is kept, and the same command goes on from there"
_COMMANDS = {
    "demo": _Command("Compare BCE, DB-Focal and PG on embedded data, in about two minutes.", going_on=_SAME_COMMAND),
    "inspect": _Command("Show what labelled images look like before training: counts, groups, problems."),
    "build": _Command("Choose a long-tailed training set from labelled images, or get a published one."),
    "compare": _Command("Compare losses and samplers on your data, and recommend one.", going_on=_SAME_COMMAND),
    "train": _Command(
        "Train a classifier, test it, and leave a folder with the model.",
        positional=False,
        going_on="the same command with --resume true goes on from the last checkpoint",
    ),
    "guide": _Command("Say from the probabilities of a training which factors of PG to move."),
    "evaluate": _Command("Test the model of a finished run, on its own test split or on other data."),
    "report": _Command("Show the results of a run or a comparison as a page: tables, curves, mistakes."),
    "reproduce": _Command(
        "Run the papers' tables and figures again, and set the numbers beside those published.", going_on=_SAME_COMMAND
    ),
    "cache": _Command("Show or clear what is kept of earlier commands: decoded images and features."),
}


def _run(arguments: Sequence[str]) -> None:
    name = arguments[0] if arguments else "--help"
    if name not in _COMMANDS:
        _overview(name)
        return
    module = import_module(f"tailwise.commands.{name}")
    parser = ArgumentParser(
        prog=f"tailwise {name}", description=_COMMANDS[name].summary, epilog=_SPELLING, exit_on_error=False
    )
    add_options(
        parser,
        module.Options,
        positional=_COMMANDS[name].positional,
        without=getattr(module, "NO_OPTIONS", ()),
    )
    try:
        options = parser.parse_args(plain_arguments(arguments[1:], module.Options))
    except ArgumentError as error:
        raise InputError(_explain(str(error), list(parser.get_defaults().keys()))) from error
    chosen = from_namespace(module.Options, options)
    if options.get("config"):
        _refuse_from_file(chosen, arguments)
    module.run(chosen)


def _refuse_from_file(options: Any, arguments: Sequence[str]) -> None:
    """Refuse what a file of options may not decide: to run code, or to read other files and the network for a model.

    Raises:
        InputError: it does, and the command line does not say the same itself.
    """
    given = {argument.partition("=")[0] for argument in arguments}
    from tailwise.losses import is_dotted_path

    model = getattr(options, "model", None)
    if model is not None:
        from tailwise.models.backbone_checks import refuse_sources

        # What the command line says itself is of no account here, and vouches for nothing else.
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
        raise InputError("the file of --config sets trust; give --trust true itself if you mean it")


def _overview(given: str) -> None:
    """Answer ``--help`` and ``--version``, or say that there is no such command."""
    parser = ArgumentParser(
        prog="tailwise",
        description="Train multi-label classifiers when most labels are rare.",
        version=__version__,
        exit_on_error=False,
    )
    commands = parser.add_subcommands(dest="command")
    for name, command in _COMMANDS.items():
        commands.add_subcommand(name, ArgumentParser(exit_on_error=False), help=command.summary)
    if given.startswith("-"):
        parser.parse_args([given])
    raise InputError(f"no command {given!r}{near(given, _COMMANDS)}; there are {', '.join(_COMMANDS)}")


def _explain(message: str, options: Sequence[str]) -> str:
    """Put a parser's message on one line, and offer the options near an unknown one."""
    unknown = re.search(r"unrecognized arguments: --([\w.-]+)", message) or re.search(r"[Oo]ption '([\w.]+)'", message)
    group = re.search(r"Group '([\w.]+)'", message)
    name = unknown.group(1).replace("-", "_") if unknown else ""
    if group and unknown:
        name = f"{group.group(1)}.{name}"
    plain = " ".join(message.split())
    for pattern, replacement in _PLAINER:
        plain = re.sub(pattern, replacement, plain)
    return plain + (near(name, options) if name else "")


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
