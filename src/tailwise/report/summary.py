"""A comparison in a terminal and in Markdown, and command lines that repeat its runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from operator import getitem
from typing import Any

from rich.console import Console

from tailwise.command_line import path_of, to_arguments
from tailwise.data.reading import ReadOptions
from tailwise.errors import InputError, RunsFailedError
from tailwise.experiments.methods import find_methods
from tailwise.experiments.results import Comparison, MethodResult
from tailwise.report.page import Fact
from tailwise.report.results_tables import left_out, summary_table
from tailwise.spelling import counted
from tailwise.training.config import DEFAULT_SAMPLER, TrainConfig, changes, flatten, to_mapping
from tailwise.training.folder import CONFIG_FILE
from tailwise.training.resolution import resolve

_NEW_FOLDER = "again"


def show(comparison: Comparison, console: Console) -> None:
    """Print the table, failures, the recommendation, and where the files are.

    Raises:
        RunsFailedError: no method finished all of its runs.
    """
    if not console.is_terminal:
        console = Console(file=console.file, width=160)
    console.print(summary_table(comparison).to_rich())
    for sentence in failures(comparison):
        console.print(sentence, style="red", highlight=False, markup=False)
    for sentence in (*classes_left_out(comparison), str(comparison.recommendation)):
        console.print(sentence, highlight=False, markup=False)
    best = comparison.method(comparison.best)
    lines = [f"results, table, page and all runs: {comparison.folder}"]
    if best is not None and best.config is not None:
        lines = [f"to train {best.name} as it was here:", f"    {train_command(best.config, best.name)}", *lines]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if all(method.failed for method in comparison.methods):
        reasons: dict[str, list[str]] = {}
        for method in comparison.methods:
            assert method.failed is not None
            reasons.setdefault(method.failed.reason, []).append(method.name)
        told = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
        raise RunsFailedError(f"no method finished all of its runs: {told}")


def to_markdown(comparison: Comparison) -> str:
    """The table, failures with their reasons, and the recommendation as a page of Markdown."""
    data, bootstrap = comparison.data, comparison.bootstrap
    assert bootstrap is not None
    sentences = (*failures(comparison), *classes_left_out(comparison), *comparison.recommendation.text)
    return (
        f"# Comparison on {data.source}\n\n"
        f"mAP in percent on split {data.test_split!r} ({data.num_test} images), trained on "
        f"{data.train_split!r} ({data.num_train} images); mean ± standard deviation over "
        f"{counted(len(comparison.seeds), 'seed')}. Intervals hold {100 * bootstrap.level:g}% of "
        f"{bootstrap.replicates} bootstrap replicates over images and seeds.\n\n"
        + summary_table(comparison).to_markdown()
        + "".join(f"\n{sentence}\n" for sentence in sentences)
    )


def failures(comparison: Comparison) -> Iterator[str]:
    for method in comparison.methods:
        if method.failed is not None:
            yield f"{method.name} failed ({method.failed.run}): {method.failed.reason}"


def classes_left_out(comparison: Comparison) -> Iterator[str]:
    sentence = left_out(comparison, f"split {comparison.data.test_split!r}")
    if sentence is not None:
        yield sentence


def commands(results: Comparison) -> Iterator[Fact]:
    """Each command line with its purpose."""
    methods: Sequence[MethodResult] = results.methods if results.data.test_split is None else results.scored
    first = next((method for method in methods if method.folders), None)
    if first is not None and first.config is not None and first.trained is not None:
        folder = first.trained.absolute()
        train = ["tailwise", "train", "--config", str(folder / CONFIG_FILE)]
        run = f"the first run of {first.name}" if results.is_comparison else "this run"
        if results.is_comparison and _are_named(results):
            yield Fact("Repeat the comparison", shlex.join(_compare(results, first.config)))
        if results.is_comparison:
            yield Fact(f"Train {first.name} as it was here", train_command(first.config, first.name))
        yield Fact(f"Repeat {run}", shlex.join([*train, "--output", _NEW_FOLDER]))
        if results.mode == "probe" and first.config.head.solver != "exact":
            yield Fact(
                f"Train the whole network as in {run}",
                shlex.join([*train, "--mode", "finetune", "--output", "finetuned"]),
            )
        yield Fact(
            f"Test the model of {run} on other data",
            shlex.join(["tailwise", "evaluate", str(folder), "--data", "other.csv"]),
        )
    if results.folder is not None:
        yield Fact("Write this page again", shlex.join(["tailwise", "report", str(results.folder.absolute())]))


def _are_named(results: Comparison) -> bool:
    """Whether a command line can name the methods: it cannot name those of files and of Python by their names alone."""
    try:
        find_methods(method.name for method in results.methods)
    except InputError:
        return False
    return True


def _compare(results: Comparison, config: TrainConfig) -> list[str]:
    """The command line of a comparison: shared options of its results, paths of a run's configuration."""
    given: dict[str, Any] = {
        "methods": ",".join(method.name for method in results.methods),
        "baseline": results.baseline or "none",
        "seeds": len(results.seeds),
        "folds": results.folds,
        "level": results.bootstrap.level if results.bootstrap else None,
        "replicates": results.bootstrap.replicates if results.bootstrap else None,
    }
    search = ["--search"] if any(method.chosen is not None for method in results.methods) else []
    # Defaults that differ between "train" and "compare" are always given.
    given |= {"mode": results.mode, "recipe": results.shared.get("recipe")}
    usual = flatten(to_mapping(TrainConfig(data="", output="", sampler=DEFAULT_SAMPLER)))
    here = flatten(to_mapping(config))
    reading = ReadOptions.__dataclass_fields__.keys()
    for name, value in (flatten(results.shared) | {name: here.get(name) for name in reading}).items():
        if name != "cache" and name not in given and value != usual.get(name):
            # Results name files without their folders.
            given[name] = here.get(name) if name.endswith("weights") else value
    return ["tailwise", "compare", config.data, "--output", _NEW_FOLDER, *to_arguments(given, TrainConfig), *search]


def train_command(config: TrainConfig, output: str) -> str:
    """The command line of ``tailwise train`` that has the configuration of a run.

    Args:
        config: the run.
        output: folder for another one.
    """
    config = resolve(config)
    recipe = config.recipe
    plain = TrainConfig(data=config.data, output=output, loss=config.loss, mode=config.mode, recipe=recipe)
    usual = resolve(plain)
    # The default sampler depends on network and solver, which are given.
    default = resolve(replace(plain, model=config.model, head=config.head)).sampler
    loss = config.loss if config.sampler == default else f"{config.loss}@{config.sampler}"
    usual = replace(usual, sampler=config.sampler)
    words = ["tailwise", "train", "--data", config.data, "--output", output, "--loss", loss]
    words += [] if config.mode == "finetune" else ["--mode", config.mode]
    words += [] if recipe is None else ["--recipe", recipe]
    given = to_mapping(config)
    # An option of another option, such as one of the loss, is given with all of it.
    changed = dict.fromkeys(path_of(name, TrainConfig) for name, _, _ in changes(usual, config))
    values = {path: reduce(getitem, path.split("."), given) for path in changed}
    return shlex.join([*words, *to_arguments(values, TrainConfig)])
