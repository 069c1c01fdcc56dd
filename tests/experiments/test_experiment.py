"""What the papers' tables are run on, and what is said of it: without a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tailwise.experiments.methods import Method
from tailwise.experiments.plan import Plan
from tailwise.experiments.published import GROUPS, published_table
from tailwise.experiments.reproduction import RECIPE_SEEDS, Experiment, shortened
from tailwise.experiments.results import MethodResult, RunFailure
from tailwise.report.results_tables import published_table as results_table
from tailwise.training.config import TrainConfig
from tests.experiments.given import comparison_of, result_of
from tests.formats import read_csv


def experiment(**changes: Any) -> Experiment:
    options: dict[str, Any] = {
        "data_name": "VOC-MLT",
        "recipe": "voc-mlt",
        "is_published": True,
        "shared": TrainConfig(data="a.csv", output="runs", recipe="voc-mlt"),
        "seeds": (0, 1, 2),
        "workers": 1,
        "epochs": None,
        "pool": lambda: read_csv("a.csv"),
        "num_max": 800,
        "losses": ("bce",),
    }
    return Experiment(**{**options, **changes})


@pytest.mark.parametrize(
    ("epochs", "departures"),
    [
        (None, []),
        (8, []),
        (2, ["--epochs 2 with class-aware sampling and 20 without (recipe: 8 and 80)"]),
        (9, ["--epochs 9 with class-aware sampling and 90 without (recipe: 8 and 80)"]),
    ],
)
def test_other_epochs_are_a_departure(epochs: int | None, departures: list[str]) -> None:
    assert experiment(epochs=epochs).departures() == departures


def test_three_seeds_are_enough() -> None:
    assert RECIPE_SEEDS == 3
    assert experiment(seeds=(0, 1, 2, 3)).departures() == []
    assert experiment(seeds=(0, 1)).departures() == ["2 of the 3 seeds that a deviation needs"]
    assert experiment(seeds=(4,)).departures() == ["1 of the 3 seeds that a deviation needs"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("split_file", "splits.csv"),
        ("split_ratios", {"train": 0.8, "test": 0.2}),
        ("negative", "-1"),
        ("blank", "unknown"),
        ("root", "images"),
        ("on_error", "skip"),
        ("accelerator", "cpu"),
    ],
)
def test_the_data_and_the_machine_are_no_departure(option: str, value: Any) -> None:
    shared = experiment().shared
    assert experiment(shared=replace(shared, **{option: value})).departures() == []
    assert experiment(shared=replace(shared, image_size=64)).departures() == ["--image-size 64 (recipe: 224)"]


def test_notes_say_what_the_numbers_are() -> None:
    said = "Final epoch, mean ± standard deviation over 3 runs; mAP in percent on the raw logits."
    assert experiment().notes() == [said]
    one = experiment(seeds=(0,), is_published=False).notes()
    assert one[0] == "Final epoch, one run; mAP in percent on the raw logits."
    assert one[1].startswith("The data are not those of the papers, so no published numbers are shown")
    assert one[1].endswith("options for voc-mlt.")
    assert one[2:] == ["Not the recipe: 1 of the 3 seeds that a deviation needs."]


def test_runs_without_resampling_take_ten_times_the_epochs() -> None:
    given = experiment(epochs=3)
    for sampler, epochs in (("uniform", 30), ("class-aware", 3), (None, 3), ("repeat-factor", 3)):
        method = Method("m", {} if sampler is None else {"sampler": sampler})
        assert given.scheduled(method).options["optim"] == {"epochs": epochs}
        assert experiment().scheduled(method) is method


@pytest.mark.parametrize(("epochs", "steps"), [(1, 62), (2, 125), (4, 250), (8, 500), (16, 1000)])
def test_the_warm_up_is_in_proportion(epochs: int, steps: int) -> None:
    found = shortened(epochs)
    assert (found.name, found.lr, found.schedule, found.warmup_steps) == ("sgd", 0.02, "steps", steps)


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_published_numbers_stand_in_the_row_of_their_method(number: int) -> None:
    given = experiment()
    found = {
        method.name: result_of(method.name, {group: [float(place)] for group in GROUPS})
        for place, method in enumerate(given.methods(number))
    }
    table = results_table(given, number, found)
    published = published_table("voc-mlt", number)
    assert table.caption == f"{published.title}: VOC-MLT"
    for place, (row, known) in enumerate(zip(table.rows, published.rows, strict=True)):
        assert row[0] == known.label + (f" ({known.remark})" if known.remark else "")
        mean = found[known.method.name].mean()
        for number_of_group, value in enumerate(known.scores):
            assert row[2 + 2 * number_of_group] == [mean, None]
            shown = row[3 + 2 * number_of_group]
            assert shown == (None if value is None else [value, mean - value]), place
    said = f"Published: Lin, AAAI 2023, Table {number}; in brackets, ours minus published."
    assert table.notes[-1] == said
    elsewhere = results_table(experiment(is_published=False, data_name="photos"), number, found)
    assert {value for row in elsewhere.rows for value in row[3::2]} == {None}
    assert not any("Published" in note for note in elsewhere.notes)
    assert elsewhere.caption.endswith(": photos")


def test_methods_that_failed_are_rows_with_their_reason() -> None:
    given = experiment(is_published=False)
    found = {method.name: result_of(method.name, {"total": [1.0]}) for method in given.methods(3)}
    found["pr"] = MethodResult("pr", failed=RunFailure("runs/pr/seed0", "no luck"))
    table = results_table(given, 3, found)
    assert table.cells(3) == ["λ₁⁻+ λ₂⁺+", "failed", "-", "-", "-"]
    assert table.notes[-1] == "λ₁⁻+ λ₂⁺+ failed (runs/pr/seed0: no luck)."


def test_what_the_source_does_not_show_is_noted() -> None:
    given = experiment(recipe="coco-mlt")
    found = {method.name: result_of(method.name, {group: [1.0] for group in GROUPS}) for method in given.methods(4)}
    assert results_table(given, 4, found).notes[-1].startswith("54.18 / 51.05 / 57.24 / 52.80")


def test_methods_of_two_rows_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Plan] = []

    def compare(plan: Plan, *, workers: int) -> Any:
        assert workers == 2
        asked.append(plan)
        return replace(
            comparison_of({"seeds": [0], "methods": [], "bootstrap": None, "data": {}}),
            methods=tuple(result_of(method.name, {"total": [1.0]}) for method in plan.methods),
        )

    monkeypatch.setattr("tailwise.experiments.reproduction.compare", compare)
    given = experiment(workers=2)
    found = given.run([*given.methods(2)[-3:], *given.methods(5)])
    assert list(found) == ["db-focal", "pg", "focal", "apaf", "apr-focal"]
    (plan,) = asked
    assert ([method.name for method in plan.methods], plan.seeds, plan.folds) == (list(found), (0, 1, 2), 0)
    assert (plan.folder, plan.holds_more) == (Path("runs").absolute(), True)
    assert given.run([]) == {}


def test_a_run_lies_below_the_shared_output() -> None:
    assert experiment().folder(Method("pg"), 2) == Path("runs/runs/pg/seed2")
