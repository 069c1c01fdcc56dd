"""Plans of comparisons: what is refused, where runs lie, and how they are configured."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tailwise.data.dataset import Dataset
from tailwise.errors import InputError
from tailwise.experiments import comparison
from tailwise.experiments.comparison import _claimed, _key, _other_features, _Runner, default_workers
from tailwise.experiments.methods import Method
from tailwise.experiments.plan import Plan, candidates
from tailwise.metrics import bootstrap
from tailwise.models.model_config import ModelConfig
from tailwise.training.config import HeadConfig, TrainConfig
from tailwise.training.inputs import RunSplits

BCE = Method("bce", {"loss": "bce"})
PG = Method("pg", {"loss": "pg", "loss_options": {"mu": 0.1}}, search=({"loss_options": {"kappa": 0.2}},))


def plan(folder: Path = Path("out"), /, *, shared: dict[str, Any] | None = None, **options: Any) -> Plan:
    config = TrainConfig(
        data="labels.csv", output="elsewhere", **{"mode": "probe", "head": HeadConfig(solver="sgd"), **(shared or {})}
    )
    return Plan(folder=folder, shared=config, **{"methods": (BCE, PG), "seeds": (3, 5), "folds": 2, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": ()}, "seeds must be at least 1, got 0"),
        ({"folds": 1}, "folds must be 0, or 2 or more, got 1"),
        ({"folds": -2}, "folds must be 0, or 2 or more, got -2"),
        ({"replicates": 0}, "replicates must be from 1 to 100000, got 0"),
        ({"level": 0.0}, "level must be between 0 and 1, got 0.0"),
        ({"level": 1.0}, "level must be between 0 and 1, got 1.0"),
        ({"baseline": "db"}, "baseline 'db' is none of the methods that are compared: bce, pg"),
        ({"folds": 0, "search": True}, "give --folds 2 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(**options)


def test_the_smallest_plan() -> None:
    smallest = plan(seeds=(0,), folds=0, replicates=1, level=1e-9, methods=(BCE,), baseline="bce")
    assert [run.name for run in smallest.runs(BCE)] == ["runs/bce/seed0"]
    defaults = plan()
    assert (defaults.replicates, defaults.level, defaults.search, defaults.baseline) == (1000, 0.95, False, None)


def test_runs_lie_by_method_and_seed_and_hold_out_a_fold_each() -> None:
    given = plan(Path("out"))
    names = ["runs/pg/seed3", "runs/pg/seed5", "folds/pg/fold0", "folds/pg/fold1"]
    runs = given.runs(PG)
    assert [run.name for run in runs] == names
    assert [run.folder for run in runs] == [Path("out", name) for name in names]
    configs = [run.configure() for run in runs]
    assert [config.output for config in configs] == [str(run.folder) for run in runs]
    assert [config.seed for config in configs] == [3, 5, 0, 1]
    assert [(config.val_folds, config.val_fold) for config in configs] == [(0, 0), (0, 0), (2, 0), (2, 1)]
    assert {config.loss for config in configs} == {"pg"}


def test_a_search_tries_the_method_as_it_is_and_each_change_of_it() -> None:
    own, changed = candidates(PG)
    assert own is PG
    assert changed.options == {"loss": "pg", "loss_options": {"mu": 0.1, "kappa": 0.2}}
    assert list(candidates(BCE)) == [BCE]
    tried = plan().search_runs(PG)
    assert [[run.name for run in runs] for runs in tried] == [
        [f"search/pg/{index}/fold{fold}" for fold in (0, 1)] for index in (0, 1)
    ]
    assert [runs[1].configure().loss_options for runs in tried] == [
        own.options["loss_options"],
        {"mu": 0.1, "kappa": 0.2},
    ]
    assert [runs[1].configure().val_fold for runs in tried] == [1, 1]


@pytest.mark.parametrize(
    ("mode", "precision", "accelerator"),
    [("probe", "fp32", "cpu"), ("probe", "bf16", "cpu"), ("probe", "fp16", "gpu"), ("finetune", "fp32", "gpu")],
)
def test_heads_are_trained_on_cores(mode: str, precision: str, accelerator: str) -> None:
    given = plan(shared={"mode": mode, "precision": precision, "accelerator": "gpu"})
    assert {run.configure().accelerator for run in given.runs(BCE)} == {accelerator}


@pytest.mark.parametrize(
    ("mode", "device", "workers"),
    [
        ("probe", "cpu", 7),
        ("probe", "cuda", 7),
        ("finetune", "cpu", 7),
        ("finetune", "cuda", 1),
        ("finetune", "mps", 1),
    ],
)
def test_a_device_trains_one_network_at_a_time(
    monkeypatch: pytest.MonkeyPatch, mode: str, device: str, workers: int
) -> None:
    monkeypatch.setattr(comparison, "_num_cores", lambda: 7)
    monkeypatch.setattr(comparison, "choose_device", lambda *_: torch.device(device))
    assert default_workers(plan(shared={"mode": mode}).shared) == workers


@pytest.mark.parametrize(("mode", "workers", "threads"), [("probe", 1, 1), ("finetune", 2, 3), ("finetune", 9, 1)])
def test_runs_share_the_cores(monkeypatch: pytest.MonkeyPatch, mode: str, workers: int, threads: int) -> None:
    monkeypatch.setattr(comparison, "_num_cores", lambda: 7)
    train = Dataset.from_arrays(["a"], np.ones((1, 1)), ["x"])
    runner = _Runner(plan(shared={"mode": mode, "quiet": True}), workers, train)
    assert (runner.threads, runner.workers, runner.show) == (threads, workers, False)


def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison.os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert comparison._num_cores() == 3
    monkeypatch.delattr(comparison.os, "sched_getaffinity")
    monkeypatch.setattr(comparison.os, "cpu_count", lambda: 4)
    assert comparison._num_cores() == 4
    monkeypatch.setattr(comparison.os, "cpu_count", lambda: None)
    assert comparison._num_cores() == 1


def test_features_are_computed_once_for_each_kind(tmp_path: Path) -> None:
    fixed = {"mode": "probe", "model": ModelConfig(pretrained=True), "seed": 9}

    def kinds(*options: dict[str, Any], shared: dict[str, Any] = fixed) -> list[tuple[Any, ...]]:
        entries = tuple(Method(f"m{place}", {"loss": "bce", **given}) for place, given in enumerate(options))
        found = _other_features(plan(tmp_path, shared=shared, methods=entries))
        return [(config.image_size, config.model.backbone, config.model.weights, config.seed) for config in found]

    assert kinds({}, {"loss": "pg"}, {"batch_size": 4}, {"model": {"dropout": 0.1}}) == []
    assert kinds({"image_size": 64}, {"image_size": 64, "loss": "pg"}) == [(64, "resnet50.tv_in1k", None, 3)]
    assert kinds({"model": {"backbone": "vit"}}) == [(224, "vit", None, 3)]
    weights = {"model": {"weights": Path("w.bin")}}
    assert kinds(weights) == [(224, "resnet50.tv_in1k", Path("w.bin"), 3)]
    # Random weights are another backbone for every seed.
    random = {"mode": "probe", "model": ModelConfig(pretrained=False), "seed": 5}
    assert [kind[-1] for kind in kinds({}, shared=random)] == [3, 0, 1]
    given = {"mode": "probe", "model": ModelConfig(pretrained=False, weights=Path("w.bin")), "seed": 5}
    assert kinds({}, shared=given) == []
    # A method without a configuration fails when it is run.
    assert kinds({"no such option": 1}) == []


def test_keys_tell_data_apart() -> None:
    def key(images: str = "ab", classes: str = "xy", labels: tuple[int, ...] = (1, 0, 0, -1)) -> str:
        targets = np.array(labels, dtype=np.int8).reshape(2, 2)
        return _key(Dataset.from_arrays(list(images), targets, list(classes)))

    assert key() == key()
    assert len({key(), key(images="ac"), key(images="ba"), key(classes="yx"), key(labels=(1, 0, 0, 0))}) == 5
    with_groups = {_key(Dataset.from_arrays(["a", "b"], np.eye(2), ["x", "y"], groups=g)) for g in ("pp", "pq", "qp")}
    assert len({*with_groups, key(labels=(1, 0, 0, 1))}) == 4
    folded = np.asfortranarray(np.array([[1, 0], [0, -1]], dtype=np.int8))
    assert _key(Dataset.from_arrays(["a", "b"], folded, ["x", "y"], source="other")) == key()


def splits_of(labels: tuple[int, ...] = (1, 0, 0, 1)) -> RunSplits:
    split = Dataset.from_arrays(["a", "b"], np.array(labels).reshape(2, 2), ["x", "y"])
    return RunSplits(split, np.zeros(2, dtype=np.bool_), split, None)


def test_a_folder_is_of_one_comparison_of_the_same_data(tmp_path: Path) -> None:
    given = plan(tmp_path / "deep" / "out")
    for _ in range(2):  # made, and found again
        with _claimed(given, splits_of()):
            assert json.loads((given.folder / "data.json").read_text())["train"] == _key(splits_of().whole)
            with (
                pytest.raises(InputError, match="another process is writing the comparison"),
                _claimed(given, splits_of()),
            ):
                pass
    with pytest.raises(InputError, match="was started with other data"), _claimed(given, splits_of((1, 1, 0, 1))):
        pass


@pytest.mark.parametrize(("name", "refused"), [(".DS_Store", False), ("notes.txt", True)])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str, refused: bool) -> None:
    (tmp_path / name).touch()
    if refused:
        with (
            pytest.raises(InputError, match="exists and holds no comparison"),
            _claimed(plan(tmp_path), splits_of()),
        ):
            pass
        return
    with _claimed(plan(tmp_path), splits_of()):
        assert (tmp_path / "data.json").is_file()


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="holds no comparison"), _claimed(plan(tmp_path / "file"), splits_of()):
        pass
    with (
        pytest.raises(InputError, match="cannot be written: Not a directory"),
        _claimed(plan(tmp_path / "file" / "out"), splits_of()),
    ):
        pass


def test_what_is_given_by_name_only() -> None:
    for function, free in (
        (bootstrap.Resamples.draw, 3),
        (bootstrap.replicate, 4),
        (comparison.compare, 1),
    ):
        parameters = list(inspect.signature(function).parameters.values())
        assert {parameter.kind for parameter in parameters[:free]} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
        assert {parameter.kind for parameter in parameters[free:]} == {inspect.Parameter.KEYWORD_ONLY}
