"""Methods side by side: what is run, what is kept, and the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tailwise.errors import InputError
from tailwise.experiments.demo import configuration
from tailwise.experiments.methods import Method, Row, markdown_table, run_methods
from tailwise.training.config import OptimConfig, TrainConfig
from tailwise.training.run import train


@pytest.fixture
def shared(tmp_path) -> TrainConfig:
    """One epoch of the demo's network on the digits, frozen: seconds per run."""
    config = configuration(tmp_path / "runs")
    return replace(config, mode="probe", cache=str(tmp_path / "cache"), optim=OptimConfig(epochs=1, warmup_steps=5))


def test_a_method_changes_only_what_it_names(shared):
    method = Method("fast", {"loss": "bce", "optim": {"lr": 0.5}})
    config = method.configure(shared, seed=3)
    assert config == replace(
        shared,
        loss="bce",
        seed=3,
        optim=replace(shared.optim, lr=0.5),
        output=str(Path(shared.output) / "fast" / "seed3"),
    )


def test_rows_hold_what_single_runs_measure_and_finished_runs_are_kept(shared):
    methods = [Method("bce", {"loss": "bce", "sampler": "uniform"}), Method("pg", {"loss": "pg"})]
    rows = list(run_methods(shared, methods, seeds=(0, 1)))
    assert [row.method for row in rows] == ["bce", "pg"]
    alone = train(replace(methods[1].configure(shared, seed=1), output=shared.output + "-alone"))
    assert {group: values[1] for group, values in rows[1].scores.items()} == alone.metrics["mAP"]

    written = {path: path.stat().st_mtime_ns for path in Path(shared.output).rglob("metrics.json")}
    assert len(written) == 4
    again = list(run_methods(shared, methods, seeds=(0, 1)))
    assert again == rows
    assert {path: path.stat().st_mtime_ns for path in Path(shared.output).rglob("metrics.json")} == written


def test_runs_with_other_options_are_not_taken_for_these(shared):
    list(run_methods(shared, [Method("bce", {"loss": "bce"})], seeds=(0,)))
    with pytest.raises(InputError, match="other options"):
        list(run_methods(shared, [Method("bce", {"loss": "bce", "batch_size": 16})], seeds=(0,)))


def test_parallel_runs_find_what_runs_in_turn_find(shared):
    methods = [Method("bce", {"loss": "bce"}), Method("db", {"loss": "db"})]
    in_turn = list(run_methods(shared, methods, seeds=(0,)))
    parallel = list(run_methods(replace(shared, output=shared.output + "-2"), methods, seeds=(0,), workers=2))
    for one, other in zip(in_turn, parallel, strict=True):
        assert one.method == other.method
        assert one.scores["total"] == pytest.approx(other.scores["total"], abs=0.5)  # other thread counts


def test_markdown_table_marks_the_best_and_gives_deviations():
    rows = [
        Row("one", {"total": [50.0, 52.0], "tail": [10.0, 10.0], "odd": [None, None]}, [1.0, 3.0]),
        Row("two", {"total": [49.0, 49.0], "tail": [30.0, 34.0], "odd": [1.0, None]}, [5.0, 5.0]),
    ]
    assert markdown_table(rows, seconds=True).splitlines() == [
        "| method | total | tail | odd | s per run |",
        "|---|---|---|---|---|",
        "| one | **51.00 ± 1.41** | 10.00 ± 0.00 | - | 2.0 |",
        "| two | 49.00 ± 0.00 | **32.00 ± 2.83** | **1.00** | 5.0 |",
    ]


def test_a_row_of_one_run_or_none_has_no_deviation():
    row = Row("one", {"total": [50.0], "head": [None, 40.0], "tail": [None]}, [1.0])
    assert [row.cell(group) for group in ("total", "head", "tail")] == ["50.00", "40.00", "-"]
    assert markdown_table([row]).splitlines() == [
        "| method | total | head | tail |",
        "|---|---|---|---|",
        "| one | **50.00** | **40.00** | **-** |",
    ]


def test_what_is_tried_lies_over_the_own_options():
    method = Method("pg", {"loss": "pg", "loss_options": {"mu": 0.1, "kappa": 0.0}, "batch_size": 8}, "PG")
    changed = method.tried({"loss_options": {"mu": 0.3}, "optim": {"lr": 1.0}, "batch_size": 4})
    assert changed.options == {
        "loss": "pg",
        "loss_options": {"mu": 0.3, "kappa": 0.0},
        "batch_size": 4,
        "optim": {"lr": 1.0},
    }
    assert (changed.name, changed.title) == ("pg", "PG")
    assert method.options["loss_options"] == {"mu": 0.1, "kappa": 0.0}
    assert method.tried({"loss_options": None}).options["loss_options"] is None
    sampled = Method("own", {"loss": "bce"}).sampled("uniform")
    assert (sampled.name, sampled.title) == ("own@uniform", "own, uniform sampling")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batchsize": 8}, r"a run has no option 'batchsize' \(did you mean 'batch_size'"),
        ({"optim": {"lrr": 8}}, r"optim has no option 'lrr'"),
        ({"model": {"head": "gcm"}}, r"head must be"),
    ],
)
def test_options_that_are_not_there_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Method("one", options).configure(TrainConfig(data="a.csv", output="out"), seed=0)
