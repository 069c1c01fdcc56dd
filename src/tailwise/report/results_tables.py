"""Tables of results: methods, differences, classes, options, and measured next to published mAP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.experiments.published import GROUPS
from tailwise.experiments.reproduction import Experiment
from tailwise.experiments.results import REFERENCES, SINGLE_SCORES, Comparison, MethodResult, Reference
from tailwise.metrics.groups import TOTAL
from tailwise.report.tables import Column, Kind, Table, Value, best_cells
from tailwise.spelling import counted
from tailwise.training.config import flatten
from tailwise.training.testing import describe_left_out


def summary_table(results: Comparison) -> Table:
    """Every method with mAP, difference to the baseline, mAP on held-out folds, seconds per run and relative cost."""
    groups, baseline = (TOTAL, *results.data.groups), results.baseline
    columns = [
        Column("method", "text"),
        *(Column(group, "spread") for group in groups),
        *([Column(f"against {baseline}", "difference")] if baseline is not None else []),
        *([Column("held-out folds", "decimal")] if results.folds else []),
        Column("s per run", "decimal", digits=1),
        Column("cost", "factor"),
    ]
    times = [method.seconds for method in results.methods]
    cheapest = min((time for time in times if time is not None), default=1.0)
    rows: list[list[Value]] = []
    for method, time in zip(results.methods, times, strict=True):
        row: list[Value] = [method.name, *(_spread(method, group) for group in groups)]
        row += [_difference(results, method, "baseline", TOTAL)] if baseline is not None else []
        row += [method.validation.means[TOTAL] if method.validation else None] if results.folds else []
        rows.append([*row, *([time, time / cheapest] if time is not None and method.test else [None, None])])
    names = [method.name for method in results.methods]
    seeds = counted(len(results.seeds), "seed")
    return Table(
        "summary-table",
        f"mAP on split {results.data.test_split!r} (%), mean ± deviation over {seeds}",
        columns,
        rows,
        failed=_failed(results),
        best_row=names.index(results.highest.test) if results.highest.test is not None else None,
    )


def published_table(experiment: Experiment, number: int, found: Mapping[str, MethodResult]) -> Table:
    """A published table with the mAP measured here and the published one for the same data.

    Args:
        experiment: the data, and how methods were run on them.
        number: number of the published table.
        found: results of its methods at least, by name.
    """
    published, rows = experiment.table(number), experiment.rows(number)
    columns = [Column("method", "text"), Column("runs", "count", only_csv=True)]
    for group in GROUPS:
        columns.append(Column(group, "spread"))
        columns.append(Column("published", "published", key=group, only_csv=not experiment.is_published, is_below=True))
    values: list[list[Value]] = []
    failed = {}
    for place, row in enumerate(rows):
        method = found[row.method.name]
        label = f"{row.label} ({row.remark})" if row.remark and experiment.is_published else row.label
        cells: list[Value] = [label, len(method.test.runs) if method.test else 0]
        for group in GROUPS:
            measured, given = method.mean(group), row.published(group) if experiment.is_published else None
            gap = None if measured is None or given is None else measured - given
            cells += [_spread(method, group), None if given is None else [given, gap]]
        values.append(cells)
        if method.failed is not None:
            failed[place] = str(method.failed)
    notes = experiment.notes()
    if any(row.method.options.get("model", {}).get("head") == "gcn" for row in rows):
        notes.append(f"Label embeddings of ML-GCN: {experiment.label_embeddings}.")
    if experiment.is_published:
        notes += [f"Published: {published.source}; in brackets, ours minus published.", *published.notes]
    notes += [f"{values[place][0]} failed ({reason})." for place, reason in failed.items()]
    title = f"{published.title}: {experiment.data_name}"
    best = best_cells(columns, values)
    return Table(f"table{number}", title, columns, values, failed=failed, best=best, notes=notes)


def method_table(results: Comparison) -> Table:
    """Every method with its mAP, its differences to the baseline and the best, F1, calibration and seconds per run."""
    tested_groups = (TOTAL, *results.data.groups) if results.data.test_split is not None else ()
    references = _references(results)
    # Users apply tuned thresholds; without them, 1/2.
    tests = [method.test for method in results.methods if method.test is not None]
    keys = [key for key in SINGLE_SCORES if any(getattr(test, key) is not None for test in tests)]
    if "CF1_tuned" in keys:
        keys = [key for key in keys if key not in ("CF1", "OF1")]
    is_validated = any(method.validation for method in results.methods)
    columns = [
        Column("method", "named"),
        *(Column(group, "spread") for group in tested_groups),
        *(Column(f"vs {reference}", "difference") for reference in references),
        *(Column(SINGLE_SCORES[key], "decimal") for key in keys),
        *([Column("validation mAP", "decimal")] if is_validated else []),
        Column("s per run", "decimal"),
    ]
    rows: list[list[Value]] = []
    for method in results.methods:
        row: list[Value] = [[method.name, _role(results, method)]]
        row += [_spread(method, group) for group in tested_groups]
        row += [_difference(results, method, reference, TOTAL) for reference in references]
        row += [getattr(method.test, key) if method.test else None for key in keys]
        row += [method.validation.means.get(TOTAL) if method.validation else None] if is_validated else []
        rows.append([*row, method.seconds])
    return Table(
        "method-table",
        "Methods",
        columns,
        rows,
        " ".join(_notes(results, references, keys)),
        "method",
        sort_by=1 if tested_groups else -1,
        failed=_failed(results),
    )


def difference_table(results: Comparison) -> Table | None:
    """Differences in mAP by group; None without any."""
    references = _references(results)
    if not references:
        return None
    pairs = [(reference, group) for reference in references for group in (TOTAL, *results.data.groups)]
    columns = (Column("method", "text"), *(Column(f"{g} vs {r}", "difference") for r, g in pairs))
    rows: list[list[Value]] = [
        [method.name, *(_difference(results, method, reference, group) for reference, group in pairs)]
        for method in results.methods
        if method.test is not None
    ]
    return Table("difference-table", "Differences by group", columns, rows, filter_hint="method")


def class_table(
    results: Comparison,
    methods: Sequence[MethodResult],
    order: NDArray[np.intp],
    test_counts: Sequence[int] | None,
    *,
    has_curves: bool,
) -> Table:
    """Every class with its counts and the average precision of every method, which the page shows and hides.

    Args:
        results: gives the classes.
        methods: the methods.
        order: class indices in the order of the rows.
        test_counts: K positives in the test split, if they are known.
        has_curves: whether the page shows the curves of a class that is chosen.
    """
    stats = results.stats
    group_of = {int(k): group for group, members in stats.groups.items() for k in members}
    kind: Kind = "interval" if any(method.test and method.test.AP_low for method in methods) else "decimal"
    columns = (
        Column("class", "text"),
        Column("group", "group"),
        Column("training images", "count"),
        *([Column("test images", "count")] if test_counts is not None else []),
        *(Column(f"AP {method.name}", kind, series=place) for place, method in enumerate(methods)),
    )
    rows: list[list[Value]] = []
    for k in order.tolist():
        row: list[Value] = [stats.class_names[k], group_of[k], int(stats.class_counts[k])]
        row += [int(test_counts[k])] if test_counts is not None else []
        rows.append([*row, *(_class_score(method, k, kind) for method in methods)])
    picks = "Show the precision-recall curves of" if has_curves else ""
    return Table("class-table", "Classes", columns, rows, filter_hint="class or group", picks=picks)


def option_table(results: Comparison) -> Table:
    """The training options in which the methods differ."""
    searched = any(method.chosen for method in results.methods)
    columns = (Column("method", "named"), Column("options", "text"), *([Column("found by search", "text")] * searched))
    rows: list[list[Value]] = [
        [
            [method.name, method.title if method.title != method.name else ""],
            written(method.options),
            *([written(method.chosen)] if searched else []),
        ]
        for method in results.methods
    ]
    return Table("option-table", "Options of the methods", columns, rows, filter_hint="method or option")


def written(options: Mapping[str, Any] | None) -> str | None:
    """Options on one line, those of nested mappings with dots; None without any."""
    return "; ".join(f"{name} = {value}" for name, value in flatten(options or {}).items()) or None


def left_out(results: Comparison, where: str) -> str | None:
    """A sentence on the classes that means over the test split exclude; None if there are none."""
    test = next((method.test for method in results.methods if method.test is not None), None)
    if test is None:
        return None
    return describe_left_out(dict(zip(results.data.class_names, test.AP, strict=True)), where)


def _references(results: Comparison) -> list[Reference]:
    return [reference for reference in REFERENCES if any(method.against(reference) for method in results.methods)]


def _failed(results: Comparison) -> dict[int, str]:
    return {row: str(method.failed) for row, method in enumerate(results.methods) if method.failed is not None}


def _role(results: Comparison, method: MethodResult) -> str:
    recommended = results.recommendation.methods
    roles = (
        ("recommended", method.name in recommended[:1]),
        ("statistically tied", method.name in recommended[1:]),
        ("best on test", method.name == results.highest.test),
        ("baseline", method.name == results.baseline),
    )
    return " · ".join(name for name, holds in roles if holds and results.is_comparison)


def _notes(results: Comparison, references: Sequence[Reference], keys: Sequence[str]) -> Iterator[str]:
    if results.data.test_split is None:
        for method in results.methods:
            if method.validation is not None:
                yield f"mAP on {method.validation.where}, in percent; not tested."
        return
    seeds = len(results.seeds)
    yield "mAP on the test split, in percent" + (
        f": mean ± standard deviation over {seeds} seeds." if seeds > 1 else ", of one run."
    )
    if references:
        level = f"{results.bootstrap.level:.0%} intervals" if results.bootstrap is not None else "intervals"
        yield f"“vs”: difference in total mAP in points, with {level}; bold where the interval excludes 0."
    if len(results.recommendation.methods) > 1:
        yield "“Statistically tied”: with the recommended method, on the data that chose it; the interval contains 0."
    if "CF1_tuned" in keys:
        yield "Tuned F1 has a threshold per class, tuned on validation images."
    if (sentence := left_out(results, "the test split")) is not None:
        yield sentence


def _spread(method: MethodResult, group: str) -> Value:
    mean = method.mean(group)
    return None if mean is None or method.test is None else [mean, method.test.deviations.get(group)]


def _difference(results: Comparison, method: MethodResult, reference: Reference, group: str) -> Value:
    found = method.against(reference).get(group)
    if method.name == results.reference(reference) or found is None or found.difference is None:
        return None
    return [found.difference, found.low, found.high]


def _class_score(method: MethodResult, k: int, kind: Kind) -> Value:
    test = method.test
    if test is None or test.AP[k] is None:
        return None
    value = round(test.AP[k], 2)  # type: ignore[arg-type]
    if kind == "decimal":
        return value
    ends = [None if given is None else given[k] for given in (test.AP_low, test.AP_high)]
    return [value, *(None if end is None else round(end, 2) for end in ends)]
