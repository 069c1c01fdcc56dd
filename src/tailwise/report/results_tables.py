"""Tables of results: the methods, their differences, and the classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.metrics.groups import TOTAL
from tailwise.report.page import Column, Kind, PageTable, Value
from tailwise.report.results import REFERENCES, SINGLE_SCORES, MethodResults, Reference, Results, validation_name
from tailwise.training.config import flatten
from tailwise.training.testing import describe_left_out


def method_table(results: Results) -> PageTable:
    """Every method with its mAP, its differences to the baseline and the best, F1, calibration and cost."""
    groups = (TOTAL, *results.stats.groups)
    references = [r for r in REFERENCES if any(m.against(r) for m in results.methods)]
    # Tuned thresholds are what anybody uses; without them, the middle is.
    keys = [key for key in SINGLE_SCORES if any((m.test or {}).get(key) is not None for m in results.methods)]
    if "CF1_tuned" in keys:
        keys = [key for key in keys if key not in ("CF1", "OF1")]
    validated = any(method.validation for method in results.methods)
    tested_groups = groups if results.is_tested else ()
    columns = [
        Column("method", "named"),
        *(Column(group, "spread") for group in tested_groups),
        *(Column(f"vs {reference}", "difference") for reference in references),
        *(Column(SINGLE_SCORES[key], "decimal") for key in keys),
        *([Column("validation mAP", "decimal")] if validated else []),
        Column("s per run", "decimal"),
    ]
    rows: list[list[Value]] = []
    for method in results.methods:
        test = method.test or {}
        row: list[Value] = [[method.name, _role(results, method)]]
        row += [_spread(test, group) for group in tested_groups]
        row += [_difference(results, method, reference, TOTAL) for reference in references]
        row += [test.get(key) for key in keys]
        row += [(method.validation or {}).get("mAP", {}).get(TOTAL)] if validated else []
        rows.append([*row, method.seconds])
    failed = {row: method.failed for row, method in enumerate(results.methods) if method.failed is not None}
    return PageTable(
        "method-table",
        "Methods",
        tuple(columns),
        rows,
        " ".join(_notes(results, references, keys)),
        "method",
        sort_by=1 if results.is_tested else -1,
        failed=failed,
    )


def difference_table(results: Results) -> PageTable | None:
    """Differences in mAP by group; None without any."""
    groups = (TOTAL, *results.stats.groups)
    references = [r for r in REFERENCES if any(m.against(r) for m in results.methods)]
    if not references:
        return None
    pairs = [(reference, group) for reference in references for group in groups]
    columns = (Column("method", "text"), *(Column(f"{g} vs {r}", "difference") for r, g in pairs))
    rows: list[list[Value]] = [
        [method.name, *(_difference(results, method, reference, group) for reference, group in pairs)]
        for method in results.methods
        if method.test is not None
    ]
    return PageTable("difference-table", "Differences by group", columns, rows, filter_hint="method")


def class_table(
    results: Results,
    methods: Sequence[MethodResults],
    order: NDArray[np.intp],
    test_counts: Sequence[int] | None,
    *,
    has_curves: bool,
) -> PageTable:
    """Every class with its counts and the average precision of every method, which the page shows and hides.

    Args:
        results: gives the classes.
        methods: the methods.
        order: the classes in the order wanted.
        test_counts: K positives in the test split, if they are known.
        has_curves: whether the page shows the curves of a class that is chosen.
    """
    stats = results.stats
    group_of = {int(k): group for group, members in stats.groups.items() for k in members}
    has_intervals = any("AP_low" in (method.test or {}) for method in methods)
    kind: Kind = "interval" if has_intervals else "decimal"
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
        rows.append([*row, *(_class_score(method.test or {}, k, has_intervals) for method in methods)])
    return PageTable(
        "class-table",
        "Classes",
        columns,
        rows,
        filter_hint="class or group",
        picks="Show the precision-recall curves of" if has_curves else "",
    )


def option_table(results: Results) -> PageTable:
    """What distinguishes the methods in training."""
    searched = any(method.chosen for method in results.methods)
    columns = (Column("method", "named"), Column("options", "text"), *([Column("found by search", "text")] * searched))
    rows: list[list[Value]] = [
        [[method.name, method.title], written(method.options), *([written(method.chosen)] if searched else [])]
        for method in results.methods
    ]
    return PageTable("option-table", "Options of the methods", columns, rows, filter_hint="method or option")


def written(options: Mapping[str, Any] | None) -> str | None:
    """Options on one line, those of nested mappings with dots; None without any."""
    return "; ".join(f"{name} = {value}" for name, value in flatten(options or {}).items()) or None


def _role(results: Results, method: MethodResults) -> str:
    roles = (
        ("recommended", method.name in results.recommended[:1]),
        ("not told apart", method.name in results.recommended[1:]),
        ("best on test", method.name == results.best),
        ("baseline", method.name == results.baseline),
    )
    return " · ".join(name for name, holds in roles if holds and results.is_comparison)


def _notes(results: Results, references: Sequence[Reference], keys: Sequence[str]) -> Iterator[str]:
    seeds = len(results.seeds)
    if not results.is_tested:
        for method in results.methods:
            if method.validation is not None:
                yield f"mAP on {validation_name(method)}, in percent; tested on nothing."
        return
    yield "mAP on the test split, in percent" + (
        f": mean ± standard deviation over {seeds} seeds." if seeds > 1 else ", of one run."
    )
    if references:
        level = f"{results.level:.0%} intervals" if results.level is not None else "intervals"
        yield f"“vs”: difference in total mAP in points, with {level}; bold where the interval leaves out 0."
    if len(results.recommended) > 1:
        yield "“Not told apart”: from the best one, on the data that chose."
    if "CF1_tuned" in keys:
        yield "Tuned F1 is that with a threshold per class, tuned on validation images."
    test = next((method.test for method in results.methods if method.test is not None), None)
    if test is not None:
        precision = dict(zip(results.stats.class_names, test["AP"], strict=True))
        if (left_out := describe_left_out(precision, "the test split")) is not None:
            yield left_out


def _spread(test: Mapping[str, Any], group: str) -> Value:
    mean = test.get("mean", {}).get(group)
    return None if mean is None else [mean, test.get("std", {}).get(group)]


def _difference(results: Results, method: MethodResults, reference: Reference, group: str) -> Value:
    entry = method.against(reference).get(group)
    if method.name == results.reference(reference) or entry is None or entry["difference"] is None:
        return None
    return [entry["difference"], entry["low"], entry["high"]]


def _class_score(test: Mapping[str, Any], k: int, has_intervals: bool) -> Value:
    value = test["AP"][k]
    if value is None or not has_intervals:
        return None if value is None else round(value, 2)
    ends = [test[key][k] if key in test else None for key in ("AP_low", "AP_high")]
    return [round(value, 2), *(None if end is None else round(end, 2) for end in ends)]
