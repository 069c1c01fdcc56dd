"""The command line: ``tailwise demo | build | train | evaluate``.

Only what a command needs is imported, when it runs, so that help and errors come quickly.
"""

from __future__ import annotations

import difflib
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from tailwise import __version__
from tailwise.errors import InputError

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
        The exit code: 0, 2 for input that cannot be used (one line on standard error, no traceback), 130 when
        interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    with _messages(errors):
        try:
            _run(arguments)
        except (InputError, ArgumentError) as error:
            errors.print(f"error: {error}")
            return _EXIT_INPUT_ERROR
        except KeyboardInterrupt:
            hint = ": the same command with --resume true goes on from the last checkpoint"
            errors.print(f"interrupted{hint if arguments[:1] == ['train'] else ''}")
            return _EXIT_INTERRUPTED
    return 0


def demo(output: str = "demo-run", seeds: int = 2, workers: int = 2) -> None:
    """Compare BCE, DB-Focal and PG on embedded data, in about two minutes.

    Args:
        output: folder of the runs and the table.
        seeds: number of runs of each loss.
        workers: runs at a time.
    """
    from tailwise.experiments.demo import demo

    demo(Path(output), seeds, workers)


def build(
    labels: str,
    output: str = "long-tail.csv",
    num_max: int = 800,
    num_min: int = 1,
    pareto_b: float = 6.0,
    seed: int = 0,
    split: str | None = None,
    keep_split: str | None = None,
    classes: str | None = None,
) -> None:
    """Choose a long-tailed training set from labelled images.

    Writes a CSV file for training, and a manifest with the parameters and class counts beside it. Images need not be
    there.

    Args:
        labels: CSV file with the columns image and labels.
        output: CSV file to write; the manifest has the same name with the ending .json.
        num_max: positives of the most frequent class.
        num_min: fewest positives of a class.
        pareto_b: shape of the Pareto distribution that class counts follow.
        seed: seed of the random choices.
        split: choose from the rows of this split only; by default from all but those of keep_split.
        keep_split: copy the rows of this split, such as a test set, to the output.
        classes: JSON file with the list of class names.
    """
    from tailwise.data.build import build_long_tail, write_csv, write_manifest
    from tailwise.data.sources import read_csv

    target = Path(output)
    manifest = target.with_suffix(".json")
    for path in (target, manifest):
        if path.exists():
            raise InputError(f"{path} exists; remove it, or give another output")
    if not target.absolute().parent.is_dir():
        raise InputError(f"there is no folder {target.absolute().parent} to write {target.name} into; make it first")
    data = read_csv(labels, classes=classes)
    if split is not None and split == keep_split:
        raise InputError(f"split and keep_split are both {split!r}; training and kept rows must differ")
    kept = {} if keep_split is None else {keep_split: data.select(keep_split)}
    name = "train" if keep_split != "train" else "train_lt"
    pool = data.select(split) if split is not None else data.subset([name != keep_split for name in data.splits])
    chosen = build_long_tail(
        pool.targets, pool.class_names, num_max=num_max, num_min=num_min, pareto_b=pareto_b, seed=seed
    )
    write_csv(target, {name: pool.subset(chosen.indices)} | kept)
    write_manifest(manifest, chosen, pool)
    for note in chosen.notes:
        _logger.warning("%s", note)
    _logger.info("%s: %d training images in split %r; manifest in %s", target, len(chosen.indices), name, manifest)
    if target.absolute().parent != data.root.absolute():
        _logger.info("train with --data %s --root %s", target, data.root)


def train(options: Namespace) -> None:
    """Train a classifier, test it, and leave a folder with the model, metrics and predictions."""
    from tailwise.config import from_namespace
    from tailwise.training.run import train

    result = train(from_namespace(options))
    if result is not None:
        _show(result.metrics, result.folder)


def evaluate(run: str, data: str | None = None, split: str | None = None, output: str | None = None) -> None:
    """Test the model of a finished run, on its own test split or on other data.

    Args:
        run: folder of the run.
        data: another CSV file, with classes of the run; image references start from its folder.
        split: split to test on; by default the test split of the run.
        output: folder to write metrics and predictions into.
    """
    from tailwise.training.run import evaluate

    result = evaluate(Path(run), data=data, split=split, output=None if output is None else Path(output))
    _show(result.metrics, result.folder)


@dataclass(frozen=True)
class _Command:
    run: Callable[..., None]
    add_arguments: Callable[[ArgumentParser], None]
    call: Callable[[Namespace], None]

    @property
    def summary(self) -> str:
        return (self.run.__doc__ or "").splitlines()[0]


def _from_signature(function: Callable[..., None]) -> _Command:
    def add(parser: ArgumentParser) -> None:
        parser.add_function_arguments(function, as_group=False, as_positional=True)

    return _Command(function, add, lambda options: function(**options.as_dict()))


def _add_train_arguments(parser: ArgumentParser) -> None:
    from tailwise.config import add_arguments

    add_arguments(parser)


_COMMANDS = {
    "demo": _from_signature(demo),
    "build": _from_signature(build),
    "train": _Command(train, _add_train_arguments, train),
    "evaluate": _from_signature(evaluate),
}


def _run(arguments: Sequence[str]) -> None:
    name = arguments[0] if arguments else "--help"
    if name not in _COMMANDS:
        _overview(name)
        return
    command = _COMMANDS[name]
    parser = ArgumentParser(prog=f"tailwise {name}", description=command.summary, exit_on_error=False)
    command.add_arguments(parser)
    try:
        options = parser.parse_args(list(arguments[1:]))
    except ArgumentError as error:
        raise InputError(_explain(str(error), list(parser.get_defaults().keys()))) from error
    command.call(options)


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
    raise InputError(f"no command {given!r}{_near(given, _COMMANDS)}; there are {', '.join(_COMMANDS)}")


def _explain(message: str, options: Sequence[str]) -> str:
    """Put a parser's message on one line, and offer the options near an unknown one."""
    unknown = re.search(r"unrecognized arguments: --([\w.]+)", message) or re.search(r"[Oo]ption '([\w.]+)'", message)
    group = re.search(r"Group '([\w.]+)'", message)
    name = unknown.group(1) if unknown else ""
    if group and unknown:
        name = f"{group.group(1)}.{name}"
    plain = " ".join(message.split())
    for pattern, replacement in _PLAINER:
        plain = re.sub(pattern, replacement, plain)
    return plain + (_near(name, options) if name else "")


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.7)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


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


def _show(metrics: Mapping[str, Any], folder: Path | None) -> None:
    console = Console()
    table = Table(title=f"mAP on {metrics['split']} (%)")
    for group in metrics["mAP"]:
        table.add_column(group, justify="right")
    table.add_row(*("-" if value is None else f"{value:.2f}" for value in metrics["mAP"].values()))
    console.print(table)
    left_out = metrics["classes_left_out"]["total"]
    if left_out:
        console.print(f"{left_out} classes without a positive in {metrics['split']} are left out of the means")
    if folder is not None:
        console.print(f"metrics, predictions and model: {folder}", soft_wrap=True, highlight=False)
