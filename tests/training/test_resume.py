"""Runs interrupted inside an epoch, resumed to the same weights and the same logs."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tailwise.errors import InputError
from tailwise.metrics import ProbabilityCurves
from tailwise.training.config import TrainConfig
from tailwise.training.run import train
from tailwise.training.trainer import MultiLabelModule

Tiny = Callable[..., TrainConfig]
Step = Callable[[MultiLabelModule, Any], dict[str, torch.Tensor]]
STEP: Step = MultiLabelModule.training_step


@pytest.fixture(autouse=True)
def _frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are read, and the clock is looked at, every other step of the six in an epoch."""
    monkeypatch.setattr("tailwise.training.trainer._STEPS_BETWEEN_LOOKS", 2)


def saved(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return state


@pytest.fixture
def tiny(tiny: Tiny) -> Tiny:
    return partial(tiny, tensorboard=True)


def assert_same_end(first: Path, second: Path) -> None:
    """Weights, momentum, probability curves and logged losses are the same, bit for bit."""
    one, two = saved(first), saved(second)
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        other = two["state_dict"][name]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name
    for key, state in one["optimizer_states"][0]["state"].items():
        for name, moment in state.items():
            assert torch.equal(moment, two["optimizer_states"][0]["state"][key][name]), name
    assert one["global_step"] == two["global_step"]
    for name, series in recorded(first).items():
        np.testing.assert_array_equal(series, recorded(second)[name], err_msg=name)
    assert logged(first) == logged(second)
    assert shown(first) == shown(second)


def recorded(folder: Path) -> dict[str, np.ndarray]:
    """The series of the probability curves."""
    curves = ProbabilityCurves.load(folder / "curves.npz")
    assert curves.steps[-1] == saved(folder)["global_step"]
    return {"steps": curves.steps, "positive": curves.positive, "negative": curves.negative}


def logged(folder: Path) -> list[dict[str, str]]:
    """The rows of the logs of a run and of its continuations, of which some came to log nothing."""
    rows = []
    for path in sorted((folder / "logs").glob("version_?/metrics.csv")):
        with path.open(newline="") as file:
            rows += [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    return rows


def shown(folder: Path) -> list[tuple[int, float]]:
    """The losses that TensorBoard shows, with their steps."""
    # It reads files of one second in the alphabetical order of the number they end in, by which 10 comes before 9.
    for path in (folder / "tensorboard").glob("events.*"):
        head, _, number = path.name.rpartition(".")
        path.rename(path.with_name(f"{head}.{int(number):06d}"))
    events = EventAccumulator(str(folder / "tensorboard"))
    return [(event.step, event.value) for event in events.Reload().Scalars("loss")]


def interrupted_at(stops: list[int], taken: list[int]) -> Step:
    """A training step that stops the run before each of the numbered steps, once, and notes those it takes."""
    left = list(stops)

    def step(self: MultiLabelModule, batch: Any) -> dict[str, torch.Tensor]:
        if left and self.global_step == left[0]:
            left.pop(0)
            raise KeyboardInterrupt
        taken.append(self.global_step)
        return STEP(self, batch)

    return step


@pytest.mark.parametrize(
    ("mode", "num_workers", "sampler", "optim"),
    [
        ("finetune", 0, "class-aware", {}),
        ("finetune", 2, "repeat-factor", {"name": "adamw", "lr": 1e-3, "schedule": "cosine", "ema": 0.5}),
        ("probe", 0, "uniform", {}),
        ("probe", 2, "inverse-frequency", {}),
    ],
)
def test_run_interrupted_inside_epochs_resumes_to_the_same_end(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    num_workers: int,
    sampler: str,
    optim: dict[str, Any],
) -> None:
    options: dict[str, Any] = {"mode": mode, "num_workers": num_workers, "sampler": sampler, "loss": "pg"}
    options["optim"] = optim
    options["epoch_reduce"] = 2.0
    train(tiny(output=str(tmp_path / "whole"), **options))
    steps = saved(tmp_path / "whole")["global_step"]
    assert steps >= 3 * 6
    config = tiny(output=str(tmp_path / "parts"), checkpoint_minutes=1e-9, **options)
    taken: list[int] = []
    # Twice inside the first epoch, twice at the same step, right after a save, and at and across the end of an epoch.
    stops = [3, 5, 5, 8, 11, steps // 3 * 2, steps - 1]
    with monkeypatch.context() as patch:
        patch.setattr(MultiLabelModule, "training_step", interrupted_at(stops, taken))
        for stop in stops:
            with pytest.raises(KeyboardInterrupt):
                train(config)
            config = replace(config, resume=True)
            assert saved(tmp_path / "parts")["global_step"] in (stop - 1, stop)
        train(config)
    assert sorted(set(taken)) == list(range(steps))
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("stop", [7, 12])
def test_terminated_run_goes_on_after_the_step_it_was_in(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    config = tiny(output=str(tmp_path / "parts"), mode="probe", sampler="uniform")
    train(replace(config, output=str(tmp_path / "whole")))
    taken: list[int] = []

    def step(self: MultiLabelModule, batch: Any) -> dict[str, torch.Tensor]:
        taken.append(self.global_step)
        if self.global_step + 1 == stop and taken.count(self.global_step) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return STEP(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(MultiLabelModule, "training_step", step)
        with pytest.raises(SystemExit) as ended:
            train(config)
        assert ended.value.code == 143
        assert saved(tmp_path / "parts")["global_step"] == stop
        train(replace(config, resume=True))
    assert taken == list(range(18))
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_nothing_is_saved_inside_an_epoch_before_its_time(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(mode="probe", sampler="uniform", checkpoint_minutes=60.0)
    with monkeypatch.context() as patch:
        patch.setattr(MultiLabelModule, "training_step", interrupted_at([5], []))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert [row["step"] for row in logged(tmp_path / "run")] == ["2", "4"]
    # A run that starts over starts its logs over, also one killed in the middle of a row.
    with (tmp_path / "run" / "logs" / "version_0" / "metrics.csv").open("a") as file:
        file.write("1,0.5")
    train(replace(config, resume=True))
    assert [int(row["step"]) for row in logged(tmp_path / "run")] == list(range(2, 19, 2))


@pytest.mark.parametrize("resume", [False, True])
def test_run_killed_before_its_configuration_starts_anew(tiny: Tiny, tmp_path: Path, resume: bool) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / ".config.yaml.writing.yaml").write_text("data: lab")
    assert train(tiny(mode="probe", optim={"epochs": 1}, resume=resume)) is not None
    assert not list((tmp_path / "run").rglob(".*"))


def test_what_a_user_put_there_is_no_run(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "mine.ckpt").write_text("mine")
    with pytest.raises(InputError, match="holds no run"):
        train(tiny(mode="probe", resume=True))
    assert (tmp_path / "run" / "checkpoints" / "mine.ckpt").read_text() == "mine"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00bin\x80", b"", b"data: [1", b"- 1\n", b"mode: [2]\n", b"seed: x\n"])
def test_damaged_configuration_is_named(tiny: Tiny, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.yaml is damaged .*remove the folder") as refused:
        train(tiny(mode="probe", resume=True))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["stats.json", "checkpoints/last.ckpt"])
@pytest.mark.parametrize("content", [b"", b"\x80\x81binary", b"{}"])
def test_damaged_state_is_named(tiny: Tiny, tmp_path: Path, name: str, content: bytes) -> None:
    config = tiny(mode="probe", optim={"epochs": 1})
    train(config)
    (tmp_path / "run" / "metrics.json").unlink()
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} is damaged .*remove it"):
        train(replace(config, resume=True))
    (tmp_path / "run" / name).unlink()
    assert train(replace(config, resume=True)) is not None
