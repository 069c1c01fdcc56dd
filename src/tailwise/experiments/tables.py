"""A comparison as tables: for a terminal, and as a page of Markdown."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tailwise.errors import RunsFailedError
from tailwise.experiments.plan import RUNS, Plan
from tailwise.metrics.groups import TOTAL
from tailwise.report.rerun import train_command
from tailwise.spelling import counted
from tailwise.training.config import load
from tailwise.training.folder import CONFIG_FILE, METRICS_FILE
from tailwise.training.testing import describe_left_out

_logger = logging.getLogger(__name__)


def read_costs(plan: Plan) -> dict[str, float]:
    """Seconds that a run of each method took, the median over its seeds; none for methods without a finished run."""
    costs = {}
    for method in plan.methods:
        paths = [run.folder / METRICS_FILE for run in plan.test_runs(method)]
        seconds = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in paths if path.is_file()]
        if seconds:
            costs[method.name] = median(seconds)
    return costs


def show_results(results: Mapping[str, Any], plan: Plan, console: Console) -> None:
    """Print the table, what failed, the recommendation, and where everything is.

    Raises:
        RunsFailedError: no method finished all of its runs.
    """
    if not console.is_terminal:
        console = Console(file=console.file, width=160)
    console.print(terminal_table(results, read_costs(plan)))
    for sentence in failures(results):
        console.print(sentence, style="red", highlight=False, markup=False)
    for sentence in left_out(results):
        console.print(sentence, highlight=False, markup=False)
    console.print(" ".join(results["recommendation"]["text"]), highlight=False, markup=False)
    for line in _how_to_train(results, plan):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(f"results, table, page and all runs: {plan.folder}", soft_wrap=True, highlight=False, markup=False)
    _require_finished(results)


def _how_to_train(results: Mapping[str, Any], plan: Plan) -> list[str]:
    """The command line of a run of the recommended method, if there is one."""
    names = results["recommendation"]["methods"]
    if not names:
        return []
    run = plan.folder / RUNS / names[0] / f"seed{plan.seeds[0]}"
    return [f"to train {names[0]} as it was here:", f"    {train_command(load(run / CONFIG_FILE), names[0])}"]


def _require_finished(results: Mapping[str, Any]) -> None:
    """Warn of methods that failed, and refuse results that are of none."""
    by_reason: dict[str, list[str]] = {}
    for method in results["methods"]:
        if method["failed"]:
            by_reason.setdefault(method["failed"]["reason"], []).append(method["name"])
    if not by_reason:
        return
    failed, total = sum(map(len, by_reason.values())), len(results["methods"])
    reasons = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())
    if failed == total:
        raise RunsFailedError(f"no method finished all of its runs: {reasons}")
    _logger.warning("%d of %d methods failed and are not ranked: %s", failed, total, reasons)


def terminal_table(results: Mapping[str, Any], costs: Mapping[str, float]) -> Table:
    """The methods as a table for a terminal; failed ones are red."""
    seeds = counted(len(results["seeds"]), "seed")
    title = f"mAP on split {results['data']['test_split']!r} (%), mean ± deviation over {seeds}"
    header, rows = _cells(results, costs)
    table = Table(title=title)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    best = results["best"]["test"]
    for method, cells in zip(results["methods"], rows, strict=True):
        style = "red" if method["failed"] else "bold" if method["name"] == best else ""
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def failures(results: Mapping[str, Any]) -> list[str]:
    """A sentence for each method that failed."""
    return [
        f"{method['name']} failed ({method['failed']['run']}): {method['failed']['reason']}"
        for method in results["methods"]
        if method["failed"]
    ]


def left_out(results: Mapping[str, Any]) -> list[str]:
    """A sentence on the classes that means over the test split leave out, if there are any."""
    test = next((method["test"] for method in results["methods"] if method["test"] is not None), None)
    if test is None:
        return []
    precision = dict(zip(results["data"]["class_names"], test["AP"], strict=True))
    sentence = describe_left_out(precision, f"split {results['data']['test_split']!r}")
    return [] if sentence is None else [sentence]


def markdown_page(results: Mapping[str, Any], costs: Mapping[str, float]) -> str:
    """The table, what failed and why, and the recommendation."""
    data = results["data"]
    header, rows = _cells(results, costs)
    lines = [
        f"# Comparison on {data['source']}",
        "",
        f"mAP in percent on split {data['test_split']!r} ({data['num_test']} images), trained on "
        f"{data['train_split']!r} ({data['num_train']} images); mean ± standard deviation over "
        f"{counted(len(results['seeds']), 'seed')}. Intervals hold {100 * results['bootstrap']['level']:g}% of "
        f"{results['bootstrap']['replicates']} bootstrap replicates over images and seeds.",
        "",
        "| " + " | ".join(header) + " |",
        "|---|" + "---:|" * (len(header) - 1),
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows]
    for sentence in (*failures(results), *left_out(results), *results["recommendation"]["text"]):
        lines += ["", sentence]
    return "\n".join(lines) + "\n"


def _cells(results: Mapping[str, Any], costs: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and a row of texts for each method."""
    groups = [TOTAL, *results["data"]["groups"]]
    baseline, folds = results["baseline"], results["folds"]
    header = ["method", *groups]
    if baseline is not None:
        header.append(f"against {baseline}")
    if folds:
        header.append("held-out folds")
    header += ["s per run", "cost"]
    cheapest = min(costs.values(), default=1.0)
    rows = []
    for method in results["methods"]:
        name, test, validation = method["name"], method["test"], method["validation"]
        cells = [name]
        if test is None:
            cells += ["failed", *("-" for _ in header[2:])]
        else:
            cells += [_mean(test["mean"][group], test["std"][group]) for group in groups]
            if baseline is not None:
                cells.append("-" if name == baseline else _difference(test["against_baseline"][TOTAL]))
            if folds:
                cells.append(_mean(validation["mAP"][TOTAL], None))
            cells += [f"{costs[name]:.1f}", f"{costs[name] / cheapest:.1f}×"]
        rows.append(cells)
    return header, rows


def _mean(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def _difference(difference: Mapping[str, float | None]) -> str:
    if any(value is None for value in difference.values()):
        return "-"
    return "{difference:+.1f} ({low:+.1f} to {high:+.1f})".format_map(difference)
