"""The summary of constructed results: contents of cells, and that failures are visible."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from tailwise.experiments.results import RUNS
from tailwise.report import results_tables
from tailwise.report.results_page import ComparisonReport
from tailwise.report.summary import show, to_markdown
from tailwise.training.config import TrainConfig, save
from tests.experiments.given import comparison_of

GROUPS = ("total", "head", "medium", "tail")


def method(name, mean, **changes):
    against = {group: {"difference": mean - 40, "low": mean - 41, "high": mean - 39} for group in GROUPS}
    entry = {
        "name": name,
        "failed": None,
        "test": {
            "mean": {**dict.fromkeys(GROUPS, mean), "medium": None},
            "std": dict.fromkeys(GROUPS, 0.5),
            "against_baseline": against,
            "AP": [mean, None, mean],
        },
        "validation": {"mAP": dict.fromkeys(GROUPS, mean - 5)},
    }
    return {**entry, **changes}


@pytest.fixture
def results():
    failed = {"run": "runs/odd/seed0", "reason": "the loss became nan"}
    return {
        "data": {
            "source": "labels.csv",
            "train_split": "train",
            "test_split": "test",
            "num_train": 10,
            "num_test": 20,
            "class_names": ["cat", "dog", "cow"],
            "groups": {group: [] for group in GROUPS[1:]},
        },
        "methods": [
            method("bce", 40.0),
            method("pg", 42.0),
            method("odd", 0, test=None, validation=None, failed=failed),
        ],
        "best": {"test": "pg", "validation": "pg"},
        "baseline": "bce",
        "folds": 5,
        "seeds": [0, 1],
        "bootstrap": {"replicates": 100, "level": 0.95},
        "recommendation": {"methods": ["pg"], "text": ["Take pg."]},
    }


COSTS = {"bce": 4.0, "pg": 6.0}


def located(results, costs, folder):
    """The comparison, with a run of each method that took as many seconds."""
    for name, seconds in costs.items():
        run = folder / RUNS / name / "seed0"
        run.mkdir(parents=True, exist_ok=True)
        (run / "metrics.json").write_text(json.dumps({"seconds": seconds}))
    return comparison_of(results).located(folder)


@pytest.fixture
def page(tmp_path):
    """The page of Markdown of results."""
    return lambda results, costs=COSTS: to_markdown(located(results, costs, tmp_path))


@pytest.fixture
def table(tmp_path):
    """The table of results, for a terminal."""
    return lambda results: results_tables.summary_table(located(results, COSTS, tmp_path)).to_rich()


def left_out(results):
    return results_tables.left_out(comparison_of(results), "split 'test'")


def test_markdown_has_scores_differences_costs_failures_and_the_recommendation(results, page):
    lines = page(results).splitlines()
    assert "| method | total | head | medium | tail | against bce | held-out folds | s per run | cost |" in lines
    mean = "40.00 ± 0.50"
    assert f"| bce | {mean} | {mean} | - | {mean} | - | 35.00 | 4.0 | 1.0× |" in lines
    mean = "42.00 ± 0.50"
    assert f"| pg | {mean} | {mean} | - | {mean} | +2.0 (+1.0 to +3.0) | 37.00 | 6.0 | 1.5× |" in lines
    assert "| odd | failed | - | - | - | - | - | - | - |" in lines
    assert "odd failed (runs/odd/seed0): the loss became nan" in lines
    assert lines[-1] == "Take pg."


def test_classes_that_no_mean_counts_are_named(results, page):
    lines = page(results).splitlines()
    sentence = (
        "1 of 3 classes have no positive or no judged negative in split 'test' and are left out of the means: dog."
    )
    assert sentence in lines
    for method in results["methods"][:2]:
        method["test"]["AP"] = [None] * 3
    undefined = "No class has both a positive and a judged negative in split 'test', so that mAP is undefined."
    assert left_out(results) == undefined
    assert left_out({**results, "methods": results["methods"][2:]}) is None


def test_columns_without_content_are_left_out(results, page):
    assert "| method | total | head | medium | tail | s per run | cost |" in page(
        {**results, "baseline": None, "folds": 0}
    )


def test_failed_methods_are_red_on_a_terminal(results, table):
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=160)
    console.print(table(results))
    lines = console.file.getvalue().splitlines()
    red = [line for line in lines if "\x1b[31m" in line]
    assert len(red) == 1
    assert "odd" in red[0]


def test_the_best_on_the_test_is_bold_and_numbers_are_aligned_right(results, table):
    for best, bold in (("pg", "pg"), ("bce", "bce"), (None, None)):
        given = {**results, "best": {"test": best, "validation": "bce"}}
        shown = table(given)
        assert [row.style for row in shown.rows] == ["bold" if n == bold else "" for n in ("bce", "pg")] + ["red"]
    assert [column.justify for column in shown.columns] == ["left"] + ["right"] * 8
    assert all(column.no_wrap for column in shown.columns)
    assert shown.title == "mAP on split 'test' (%), mean ± deviation over 2 seeds"
    assert table({**results, "seeds": [0]}).title.endswith("over 1 seed")


def test_differences_that_are_not_defined_are_dashes(results, page):
    results["methods"][1]["test"]["against_baseline"]["total"] = {"difference": None, "low": None, "high": None}
    results["methods"][1]["test"]["std"] = dict.fromkeys(GROUPS)
    lines = page(results).splitlines()
    assert "| pg | 42.00 | 42.00 | - | 42.00 | - | 37.00 | 6.0 | 1.5× |" in lines
    results["methods"][1]["test"]["against_baseline"]["total"] = {"difference": -1.0, "low": None, "high": 2.0}
    assert "| pg | 42.00 | 42.00 | - | 42.00 | - | 37.00 |" in page(results)


def test_the_page_says_what_was_done(results, page):
    text = page(results)
    assert text.startswith("# Comparison on labels.csv\n\nmAP in percent on split 'test' (20 images)")
    assert "trained on 'train' (10 images); mean ± standard deviation over 2 seeds." in text
    assert "Intervals hold 95% of 100 bootstrap replicates over images and seeds." in text
    assert "\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n" in text
    results["methods"][0]["name"] = results["baseline"] = "a|b"
    assert "| a\\|b | 40.00" in page(results, {"a|b": 4.0, "pg": 6.0})


def test_costs_are_medians_of_finished_runs(results, tmp_path):
    for name, seconds in (("bce", (1.0, 9.0, 3.0, 4.0)), ("pg", (5.0, 2.0))):
        for seed, value in enumerate(seconds):
            folder = tmp_path / "runs" / name / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text(json.dumps({"seconds": value}))
    found = comparison_of({**results, "seeds": [0, 1, 2, 3]}).located(tmp_path)
    assert {method.name: method.seconds for method in found.methods} == {"bce": 3.5, "pg": 3.5, "odd": None}


def test_what_is_shown_ends_with_the_folder(results, tmp_path):
    comparison = located(results, {"bce": 2.0, "pg": 2.0}, tmp_path)
    for name in ("bce", "pg"):
        config = TrainConfig(data="digits", output="out", loss=name)
        save(config, tmp_path / "runs" / name / "seed0" / "config.yaml")
    console = Console(file=io.StringIO(), width=20)
    show(comparison, console)
    lines = console.file.getvalue().splitlines()
    assert any("held-out folds" in line and "cost" in line for line in lines)  # as wide as it is
    assert lines[-6:] == [
        "odd failed (runs/odd/seed0): the loss became nan",
        left_out(results),
        "Take pg.",
        "to train pg as it was here:",
        "    tailwise train --data digits --output pg --loss pg",
        f"results, table, page and all runs: {tmp_path}",
    ]


def test_a_notebook_shows_the_table_and_the_recommendation(results, tmp_path):
    report = ComparisonReport.of(located(results, COSTS, tmp_path))
    text = report._repr_html_()
    assert "<td>40.00 ± 0.50</td>" in text
    assert "<p>odd failed (runs/odd/seed0): the loss became nan</p>" in text
    assert text.endswith("<p>Take pg.</p>")
    assert (report.best, str(report.recommendation)) == ("pg", "Take pg.")
    assert report.table.loc["pg", ["total", "against_baseline", "held_out", "seconds"]].tolist() == [42, 2, 37, 6]
    assert report.table.loc["odd", "failed"] == "runs/odd/seed0: the loss became nan"
