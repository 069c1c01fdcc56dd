"""Methods side by side: what is run, what is kept, and the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tailwise.commands.demo import configuration
from tailwise.errors import InputError
from tailwise.experiments.comparison import compare
from tailwise.experiments.methods import Method
from tailwise.experiments.plan import Plan
from tailwise.training.config import HeadConfig, OptimConfig, TrainConfig
from tailwise.training.run import train


@pytest.fixture
def shared(tmp_path) -> TrainConfig:
    """One epoch of the demo's network on the digits, frozen: seconds per run."""
    config = configuration(tmp_path / "runs")
    return replace(
        config,
        mode="probe",
        head=HeadConfig(solver="sgd"),
        cache=str(tmp_path / "cache"),
        optim=OptimConfig(epochs=1, warmup_steps=5),
    )


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


def plan(shared: TrainConfig, *methods: Method, seeds: tuple[int, ...] = (0,)) -> Plan:
    return Plan(folder=Path(shared.output), shared=shared, methods=methods, seeds=seeds, folds=0, replicates=5)


def test_results_are_those_of_single_runs_and_finished_runs_are_kept(shared):
    methods = [Method("bce", {"loss": "bce", "sampler": "uniform"}), Method("pg", {"loss": "pg"})]
    found = compare(plan(shared, *methods, seeds=(0, 1)), workers=1)
    assert [method.name for method in found.methods] == ["bce", "pg"]
    alone = train(replace(methods[1].configure(shared, seed=1), output=shared.output + "-alone"))
    assert {group: values[1] for group, values in found.methods[1].test.by_run.items()} == pytest.approx(
        alone.metrics["mAP"], abs=0.5
    )  # other thread counts

    written = {path: path.stat().st_mtime_ns for path in Path(shared.output).rglob("metrics.json")}
    assert len(written) == 4
    again = compare(plan(shared, *methods, seeds=(0, 1)), workers=1)
    assert again == found
    assert {path: path.stat().st_mtime_ns for path in Path(shared.output).rglob("metrics.json")} == written


def test_runs_with_other_options_are_not_taken_for_these(shared):
    compare(plan(shared, Method("bce", {"loss": "bce"})), workers=1)
    with pytest.raises(InputError, match="other options"):
        compare(plan(shared, Method("bce", {"loss": "bce", "batch_size": 16})), workers=1)


def test_parallel_runs_find_what_runs_in_turn_find(shared):
    methods = [Method("bce", {"loss": "bce"}), Method("db", {"loss": "db"})]
    in_turn = compare(plan(shared, *methods), workers=1)
    parallel = compare(plan(replace(shared, output=shared.output + "-2"), *methods), workers=2)
    assert parallel == in_turn


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
