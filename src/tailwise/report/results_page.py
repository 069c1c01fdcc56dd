"""Results as a page: what the pages of a run and of a comparison share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from tailwise.metrics.groups import TOTAL
from tailwise.report import results_plots as plots
from tailwise.report import results_tables as tables
from tailwise.report.evidence import LEVEL, Evidence, gather
from tailwise.report.page import Fact, PagePlot, write_page
from tailwise.report.rerun import commands
from tailwise.report.results import MethodResults, Results, read_json, validation_name
from tailwise.spelling import counted
from tailwise.training.folder import CONFIG_FILE, CURVES_FILE, METRICS_FILE

PAGE_FILE = "report.html"


def write_results_page(results: Results, output: Path) -> None:
    """Write results as one HTML file that loads nothing.

    Scores come from the results; curves, thresholds and photographs from the predictions of the runs and the data,
    which are read again. Where those are gone, the page says so and shows the rest.

    Args:
        results: what to show.
        output: the file, which is replaced if it exists.
    """
    evidence = gather(results, results.scored)
    results = results.with_intervals(evidence.intervals, LEVEL)
    methods = results.scored
    # By falling number of training images; of equal ones, the first class first.
    order = np.argsort(-results.stats.class_counts, kind="stable")
    test_counts = results.test_counts or (None if evidence.positives is None else evidence.positives.tolist())
    # A run that is tested on nothing has its training to show.
    shown = methods if results.is_comparison else results.methods
    by_method = _curves(shown)
    classes: dict[str, Any] = {"order": order, "has_curves": bool(evidence.points)}
    write_page(
        output,
        "results.html",
        results=results,
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
        probabilities=by_method,
        evidence=evidence,
        option_table=tables.option_table(results),
        shared=yaml.safe_dump(_shared(results), sort_keys=False, allow_unicode=True),
        commands=list(commands(results)),
        versions=_versions(shown),
        page_data=_page_data(results, shown, evidence, order.tolist()),
    )


def _source(results: Results) -> str:
    """Where the data lie; results of a comparison alone name no folder."""
    config = next((method.config for method in results.methods if method.config is not None), None)
    return results.source if config is None else config.data


def _sections(results: Results, evidence: Evidence, has_scores: bool, has_curves: bool) -> Iterator[tuple[str, str]]:
    yield "methods", "Methods" if results.is_comparison else "Scores"
    if has_scores:
        yield "classes", "Classes"
    if evidence.sweeps:
        yield "thresholds", "Thresholds"
    if has_curves:
        yield "probabilities", "Training"
    if evidence.positives is not None:
        yield "mistakes", "Mistakes"
    yield "configuration", "Configuration"


def _cards(results: Results) -> Iterator[Fact]:
    stats, (train, test) = results.stats, results.splits
    best = results.method(results.best)
    if best is not None and results.is_comparison:
        yield Fact("Highest mAP", best.name, f"{_score(best, TOTAL)} in total")
    if best is not None:
        for group in stats.groups if results.is_comparison else (TOTAL, *stats.groups):
            named = f"mAP, {group}"
            yield Fact(named, _score(best, group), f"of {best.name}" if results.is_comparison else "in percent")
    for method in () if results.is_tested else results.methods:
        for group, value in (method.validation or {}).get("mAP", {}).items():
            yield Fact(f"mAP, {group}", "–" if value is None else f"{value:.2f}", f"on {validation_name(method)}")
    groups = ", ".join(f"{len(members):,} {name}" for name, members in stats.groups.items())
    yield Fact("Classes", f"{stats.num_classes:,}", groups)
    yield Fact("Training images", f"{train[1]:,}", f"split {train[0]}")
    if test is None:
        yield Fact("Test images", "none", "tested on nothing")
    else:
        yield Fact("Test images", f"{test[1]:,}", f"split {test[0]}")
    if results.is_comparison:
        seeds = counted(len(results.seeds), "seed")
        yield Fact("Methods", f"{len(results.methods)}", f"{seeds} each, mode {results.mode}")


def _score(method: MethodResults, group: str) -> str:
    mean = method.mean(group)
    return "–" if mean is None else f"{mean:.2f}"


def _curves(methods: Sequence[MethodResults]) -> dict[int, PagePlot]:
    """The probability curves of each method's first run, by the method's place."""
    found = {}
    for place, method in enumerate(methods):
        curves = plots.read_curves(method.trained / CURVES_FILE) if method.trained is not None else None
        if curves is not None:
            found[place] = plots.probability_curves(method.name, place, curves)
    return found


def _shared(results: Results) -> dict[str, Any]:
    """What the runs have in common, as the page prints it."""
    if results.is_comparison:
        return dict(results.shared)
    folder = results.methods[0].trained or results.folder
    written: dict[str, Any] = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return written


def _versions(methods: Sequence[MethodResults]) -> dict[str, str]:
    """Versions of what computed the numbers, as the first run recorded them."""
    folder = next((method.folders[0] for method in methods if method.folders), None)
    versions: dict[str, str] = {} if folder is None else read_json(folder / METRICS_FILE).get("versions", {})
    return versions


def _page_data(
    results: Results, methods: Sequence[MethodResults], evidence: Evidence, order: Sequence[int]
) -> dict[str, Any]:
    """What the page's script needs to know beside the figures and tables."""
    tail = set(results.stats.groups.get("tail", np.empty(0, dtype=int)).tolist())
    positives = None if evidence.positives is None else evidence.positives.tolist()
    known = None if evidence.known is None else evidence.known.tolist()
    with_curve = [k for k in order if positives and known and 0 < positives[k] < known[k]]
    return {
        "classes": list(results.stats.class_names),
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
