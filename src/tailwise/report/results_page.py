"""The page of a comparison, a run or an evaluation; and a comparison in files and in a notebook."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml  # type: ignore[import-untyped]
from rich.console import Console

from tailwise.experiments.results import Comparison, MethodResult
from tailwise.files import replacing
from tailwise.metrics.groups import TOTAL
from tailwise.records import read_json
from tailwise.report import results_plots as plots
from tailwise.report import results_tables as tables
from tailwise.report.evidence import BOOTSTRAP, Evidence, gather
from tailwise.report.folders import read_results
from tailwise.report.page import Fact, PagePlot, write_page
from tailwise.report.results_tables import summary_table
from tailwise.report.summary import classes_left_out, commands, failures, to_markdown
from tailwise.spelling import counted
from tailwise.training.folder import CONFIG_FILE, CURVES_FILE, METRICS_FILE

if TYPE_CHECKING:
    import pandas as pd

PAGE_FILE = "report.html"
TABLE_FILE = "table.md"

_TEXT_WIDTH = 160


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write the results in a folder as one HTML file that works without a network.

    Args:
        folder: folder of a comparison, of a finished run, or of an evaluation.
        output: the file, which is replaced if it exists; by default report.html in the folder.

    Returns:
        The file.

    Raises:
        InputError: the folder holds no results.
    """
    page = output or folder / PAGE_FILE
    write_results_page(read_results(folder), page)
    return page


def write_results_page(results: Comparison, output: Path) -> None:
    """Write results as one HTML file that loads nothing.

    Scores come from the results; curves, thresholds and photographs from the predictions of the runs and the data,
    which are read again. Where those no longer exist, the page names them as missing and shows the rest.

    Args:
        results: the results.
        output: the file, which is replaced if it exists.
    """
    evidence = gather(results, results.scored)
    results = results.with_intervals(evidence.intervals, BOOTSTRAP)
    methods = results.scored
    # By falling number of training images; of equal ones, the first class first.
    order = np.argsort(-results.stats.class_counts, kind="stable")
    test_counts = results.data.test_counts or (None if evidence.positives is None else evidence.positives.tolist())
    # A run without a test still has its training to show.
    shown = methods if results.is_comparison else results.methods
    by_method = _curves(shown)
    classes: dict[str, Any] = {"order": order, "has_curves": bool(evidence.points)}
    write_page(
        output,
        "results.html",
        results=results,
        title=_title(results),
        source=_source(results),
        sections=dict(_sections(results, evidence, bool(methods), bool(by_method))),
        cards=list(_cards(results)),
        methods=methods,
        styles=[plots.method_style(place) for place in range(len(methods))],
        method_table=tables.method_table(results),
        differences=plots.differences(results, methods),
        difference_table=tables.difference_table(results),
        class_precision=plots.class_precision(results, methods, **classes) if methods else None,
        class_table=tables.class_table(results, methods, test_counts=test_counts, **classes) if methods else None,
        gains=plots.gains(results, methods),
        thresholds=plots.thresholds(methods, evidence.sweeps) if evidence.sweeps else None,
        is_tuned=any(method.test is not None and method.test.CF1_tuned is not None for method in methods),
        probabilities=by_method,
        evidence=evidence,
        option_table=tables.option_table(results),
        shared=yaml.safe_dump(_shared(results), sort_keys=False, allow_unicode=True),
        commands=list(commands(results)),
        versions=_versions(shown),
        page_data=_page_data(results, shown, evidence, order.tolist()),
    )


class ComparisonReport(Comparison):
    """A comparison that shows itself in a notebook and writes its page."""

    @classmethod
    def of(cls, comparison: Comparison) -> ComparisonReport:
        """The report of a comparison."""
        return cls(**{entry.name: getattr(comparison, entry.name) for entry in fields(comparison)})

    @property
    def table(self) -> pd.DataFrame:
        """A row per method, by name: mAP by group with deviations, and the other scores, in percent."""
        return self.to_frame()

    def save(self, path: str | Path) -> None:
        """Write the page of the comparison as one HTML file, which is replaced if it exists."""
        write_results_page(self, Path(path))

    def __repr__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=_TEXT_WIDTH).print(summary_table(self).to_rich())
        return "\n".join([text.getvalue(), *self._sentences()])

    def _repr_html_(self) -> str:
        sentences = self._sentences()
        return summary_table(self).to_html() + "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)

    def _sentences(self) -> tuple[str, ...]:
        return (*failures(self), *classes_left_out(self), str(self.recommendation))


def write_files(comparison: Comparison) -> None:
    """Write table.md and report.html into the folder of a comparison."""
    folder = comparison.folder
    assert folder is not None
    with replacing(folder / TABLE_FILE) as temporary:
        temporary.write_text(to_markdown(comparison), encoding="utf-8")
    write_results_page(comparison, folder / PAGE_FILE)


def _title(results: Comparison) -> str:
    if results.is_comparison or results.folder is None:
        return Path(results.data.source).name
    folder, loss = results.folder.absolute().name, results.methods[0].name
    return folder if loss in folder else f"{loss}: {folder}"


def _source(results: Comparison) -> str:
    """The place of the data; results of a comparison alone name no folder."""
    config = next((method.config for method in results.methods if method.config is not None), None)
    return results.data.source if config is None else config.data


def _sections(results: Comparison, evidence: Evidence, has_scores: bool, has_curves: bool) -> Iterator[tuple[str, str]]:
    yield "methods", "Methods" if results.is_comparison else "Scores"
    if has_scores:
        yield "classes", "Classes"
    if evidence.sweeps:
        yield "thresholds", "Thresholds"
    if has_curves:
        yield "probabilities", "Training"
    if evidence.positives is not None:
        yield "mistakes", "Mistakes"
    if evidence.suspects is not None:
        yield "suspects", "Label suspects"
    yield "configuration", "Configuration"


def _cards(results: Comparison) -> Iterator[Fact]:
    stats, data = results.stats, results.data
    best = results.method(results.highest.test)
    if best is not None and results.is_comparison:
        yield Fact("Highest mAP", best.name, f"{_score(best.mean(TOTAL))} in total")
    if best is not None:
        for group in stats.groups if results.is_comparison else (TOTAL, *stats.groups):
            detail = f"of {best.name}" if results.is_comparison else "in percent"
            yield Fact(f"mAP, {group}", _score(best.mean(group)), detail)
    for method in results.methods if data.test_split is None else ():
        if method.validation is not None:
            for group, value in method.validation.means.items():
                yield Fact(f"mAP, {group}", _score(value), f"on {method.validation.where}")
    groups = ", ".join(f"{len(members):,} {name}" for name, members in stats.groups.items())
    yield Fact("Classes", f"{stats.num_classes:,}", groups)
    yield Fact("Training images", f"{data.num_train:,}", f"split {data.train_split}")
    if data.test_split is None:
        yield Fact("Test images", "none", "not tested")
    else:
        yield Fact("Test images", f"{data.num_test:,}", f"split {data.test_split}")
    if results.is_comparison:
        seeds = counted(len(results.seeds), "seed")
        modes = dict.fromkeys(method.options.get("mode", results.mode) for method in results.methods)
        yield Fact("Methods", f"{len(results.methods)}", f"{seeds} each, mode {' and '.join(modes)}")


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _curves(methods: Sequence[MethodResult]) -> dict[int, PagePlot]:
    """The probability curves of each method's first run, by the method's place."""
    found = {}
    for place, method in enumerate(methods):
        curves = plots.read_curves(method.trained / CURVES_FILE) if method.trained is not None else None
        if curves is not None:
            found[place] = plots.probability_curves(method.name, place, curves)
    return found


def _shared(results: Comparison) -> dict[str, Any]:
    """The options that all runs have in common, as the page prints them."""
    folder = results.methods[0].trained
    if results.is_comparison or folder is None:
        return dict(results.shared)
    written: dict[str, Any] = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return written


def _versions(methods: Sequence[MethodResult]) -> dict[str, str]:
    """Versions of the libraries that computed the numbers, as the first run recorded them."""
    folder = next((method.folders[0] for method in methods if method.folders), None)
    versions: dict[str, str] = {} if folder is None else read_json(folder / METRICS_FILE).get("versions", {})
    return versions


def _page_data(
    results: Comparison, methods: Sequence[MethodResult], evidence: Evidence, order: Sequence[int]
) -> dict[str, Any]:
    """Data for the page's script apart from figures and tables."""
    tail = set(results.data.groups.get("tail", ()))
    positives = None if evidence.positives is None else evidence.positives.tolist()
    known = None if evidence.known is None else evidence.known.tolist()
    with_curve = [k for k in order if positives and known and 0 < positives[k] < known[k]]
    return {
        "classes": list(results.data.class_names),
        "order": list(order),
        # The most frequent tail class: rare, but not the extreme.
        "first": next((k for k in with_curve if k in tail), with_curve[-1] if with_curve else None),
        "methods": [
            {"name": method.name, **plots.method_style(place), "chosen": method.name in results.leading}
            for place, method in enumerate(methods)
        ],
        "positives": positives,
        "known": known,
        "points": {
            place: [[p.hits.tolist(), p.predicted.tolist()] for p in evidence.points[method.name]]
            for place, method in enumerate(methods)
            if method.name in evidence.points
        },
    }
