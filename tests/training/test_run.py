"""Whole runs: what they leave, that they repeat, resume and refuse, and that their numbers are right."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from tailwise import LabelStats
from tailwise.data.pixels.augment import Augmentation
from tailwise.data.samplers import (
    ClassAwareSampler,
    EpochSampler,
    InverseFrequencySampler,
    RepeatFactorSampler,
    UniformSampler,
)
from tailwise.errors import InputError
from tailwise.training import finetune
from tailwise.training.config import TrainConfig, load
from tailwise.training.resolution import resolve
from tailwise.training.run import Result, evaluate, train
from tailwise.training.trainer import MultiLabelModule, create_sampler
from tests.formats import read_csv
from tests.training.conftest import Interruption

Tiny = Callable[..., TrainConfig]


def weights(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def assert_same_weights(first: Path, second: Path) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]) if isinstance(value, torch.Tensor) else value == two[name], name


def run(config: TrainConfig) -> Result:
    result = train(config)
    assert result is not None
    return result


@pytest.fixture(params=["finetune", "probe"])
def finished(request: pytest.FixtureRequest, tiny: Tiny) -> tuple[TrainConfig, Result]:
    config = tiny(mode=request.param)
    return config, run(config)


def test_folder_holds_all_that_the_run_was(finished: tuple[TrainConfig, Result], labels: Path) -> None:
    config, result = finished
    folder = Path(config.output)
    assert load(folder / "config.yaml") == resolve(config)
    data = read_csv(labels)
    train_rows = data.select("train")
    assert LabelStats.load(folder / "stats.json") == LabelStats.from_targets(
        train_rows.targets, data.class_names, (10, 20)
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == result.metrics
    assert (metrics["split"], metrics["num_images"], metrics["epochs"], metrics["seed"]) == ("test", 30, 3, 0)
    assert metrics["versions"]["torch"] == torch.__version__
    log = pd.read_csv(folder / "logs" / "version_0" / "metrics.csv")
    assert log["epoch_loss"].count() == 3
    assert not (folder / "tensorboard").exists()
    assert not list(folder.rglob(".*"))


def test_metrics_are_those_of_the_predictions(finished: tuple[TrainConfig, Result], labels: Path) -> None:
    config, result = finished
    test = read_csv(labels).select("test")
    predictions = pd.read_parquet(Path(config.output) / "predictions.parquet")
    assert list(predictions.columns) == ["image", *test.class_names]
    assert tuple(predictions["image"]) == test.names
    assert set(predictions.dtypes.iloc[1:]) == {np.dtype("float32")}
    precision = {}
    for index, name in enumerate(test.class_names):
        known = test.targets[:, index] >= 0
        precision[name] = 100 * average_precision_score(test.targets[known, index], predictions[name][known])
    assert result.metrics["AP"] == pytest.approx(precision)
    assert result.metrics["mAP"]["total"] == pytest.approx(np.mean(list(precision.values())))
    stats = LabelStats.load(Path(config.output) / "stats.json")
    for group, members in stats.groups.items():
        expected = np.mean([precision[test.class_names[index]] for index in members])
        assert result.metrics["mAP"][group] == pytest.approx(expected)


def test_evaluation_of_the_checkpoint_repeats_the_metrics(finished: tuple[TrainConfig, Result], tmp_path: Path) -> None:
    config, result = finished
    again = evaluate(Path(config.output), output=tmp_path / "again")
    for name in ("mAP", "AP", "CF1", "OF1", "classes_left_out", "num_images"):
        assert again.metrics[name] == result.metrics[name]
    first, second = (
        pd.read_parquet(folder / "predictions.parquet") for folder in (Path(config.output), tmp_path / "again")
    )
    pd.testing.assert_frame_equal(first, second)


def test_evaluation_takes_other_splits_and_files(
    finished: tuple[TrainConfig, Result], labels: Path, tmp_path: Path
) -> None:
    config, _ = finished
    on_train = evaluate(Path(config.output), split="train")
    assert (on_train.metrics["split"], on_train.metrics["num_images"]) == ("train", 46)
    rows = read_csv(labels).select("train")
    other = labels.parent / f"{config.mode}-other.csv"
    lines = ["image,labels"]
    for image, targets in zip(rows.names, rows.targets, strict=True):
        lines.append(f"{image},{'|'.join(np.array(rows.class_names)[targets == 1])}")
    other.write_text("\n".join(lines) + "\n")
    everything = evaluate(Path(config.output), data=str(other), output=tmp_path / "other")
    first = pd.read_parquet(tmp_path / "other" / "predictions.parquet")
    assert (everything.metrics["num_images"], tuple(first["image"])) == (46, rows.names)


def test_same_configuration_gives_the_same_model_and_another_seed_another(tiny: Tiny, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        torch.rand(3)
        run(tiny(output=str(folder), seed=seed, optim={"epochs": 1}))
    assert_same_weights(folders[0], folders[1])
    first, other = weights(folders[0]), weights(folders[2])
    assert not torch.equal(first["model.head.linear.weight"], other["model.head.linear.weight"])


def test_workers_change_nothing(tiny: Tiny, tmp_path: Path) -> None:
    for workers in (0, 2):
        run(tiny(output=str(tmp_path / str(workers)), num_workers=workers, optim={"epochs": 2}))
    assert_same_weights(tmp_path / "0", tmp_path / "2")


@pytest.mark.parametrize(
    ("mode", "num_workers", "sampler"),
    [("finetune", 0, "class-aware"), ("finetune", 2, "uniform"), ("probe", 0, "uniform")],
)
def test_interrupted_run_resumes_to_the_same_end(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interruption: Interruption,
    mode: str,
    num_workers: int,
    sampler: str,
) -> None:
    options: dict[str, Any] = {"mode": mode, "num_workers": num_workers, "sampler": sampler, "loss": "pg"}
    monkeypatch.setattr("tailwise.training.trainer._STEPS_BETWEEN_PROBE_CHECKPOINTS", 1)
    whole = run(tiny(output=str(tmp_path / "whole"), **options))
    config = tiny(output=str(tmp_path / "parts"), **options)
    with interruption(lambda module: module.current_epoch == 2 and module.global_step % 2):
        run(config)
    with pytest.raises(InputError, match=r"unfinished run.*--resume"):
        run(config)
    resumed = run(replace(config, resume=True, quiet=False))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert resumed.metrics["AP"] == whole.metrics["AP"]


def test_samplers_have_the_options_of_the_configuration(tiny: Tiny) -> None:
    targets = torch.zeros(50, 3, dtype=torch.int8)
    targets[:, 0] = 1
    targets[:12, 1] = 1
    targets[:2, 2] = 1
    targets[40:, 0] = -1

    def make(sampler: str, **options: Any) -> EpochSampler:
        return create_sampler(tiny(sampler=sampler, seed=7, devices=2, num_nodes=3, **options), targets)

    shared: dict[str, Any] = {"seed": 7, "num_replicas": 6}
    for made, expected in (
        (make("uniform"), UniformSampler(50, **shared)),
        (
            make("class-aware", samples_per_class=2, epoch_reduce=0.5),
            ClassAwareSampler(targets, samples_per_class=2, reduce=0.5, **shared),
        ),
        (make("inverse-frequency"), InverseFrequencySampler(targets, background=1.0, **shared)),
        (make("inverse-frequency", background_weight=3.0), InverseFrequencySampler(targets, background=3.0, **shared)),
        # Classes with fewer images than a head class, 20 of the 50 here, are repeated.
        (make("repeat-factor"), RepeatFactorSampler(targets, threshold=0.4, **shared)),
        (make("repeat-factor", repeat_threshold=0.9), RepeatFactorSampler(targets, threshold=0.9, **shared)),
    ):
        assert type(made) is type(expected)
        assert made.state_dict() == expected.state_dict()
        assert list(made) == list(expected)


def test_interrupted_run_resumes_from_the_start_without_a_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(output=str(tmp_path / "parts"), optim={"epochs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(MultiLabelModule, "on_train_epoch_start", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(config)
    run(replace(config, resume=True))
    run(replace(config, output=str(tmp_path / "whole")))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_terminated_run_says_so_and_resumes(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(output=str(tmp_path / "parts"), optim={"epochs": 2})
    step = MultiLabelModule.training_step

    def terminated(self: MultiLabelModule, batch: Any) -> Any:
        if self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(MultiLabelModule, "training_step", terminated)
        with pytest.raises(SystemExit) as stopped:
            run(config)
    assert stopped.value.code == 143
    run(replace(config, resume=True))
    run(replace(config, output=str(tmp_path / "whole")))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_finished_run_is_kept(tiny: Tiny) -> None:
    config = tiny(mode="probe", optim={"epochs": 1})
    first = run(config)
    with pytest.raises(InputError, match=r"finished run.*--resume.*another output"):
        run(config)
    assert run(replace(config, resume=True)).metrics == first.metrics


def test_resume_refuses_other_options_and_other_labels(tiny: Tiny, labels: Path) -> None:
    copy = labels.parent / "copy.csv"
    copy.write_bytes(labels.read_bytes())
    config = tiny(mode="probe", data=str(copy), optim={"epochs": 1})
    run(config)
    with pytest.raises(InputError, match=r"--loss: 'db-focal', now 'bce'; --lr: 0.02, now 0.1"):
        run(replace(config, resume=True, loss="bce", optim=replace(config.optim, lr=0.1)))
    (Path(config.output) / "metrics.json").unlink()
    lines = copy.read_text().splitlines()
    copy.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    with pytest.raises(InputError, match="labels have changed"):
        run(replace(config, resume=True))


def test_foreign_folder_is_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no run"):
        run(tiny())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["letter.txt"]


def test_process_is_left_as_it_was(tiny: Tiny) -> None:
    threads = torch.get_num_threads()
    states = (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    filters = list(warnings.filters)
    run(tiny(mode="probe", optim={"epochs": 1}))
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert (threads, filters) == (torch.get_num_threads(), warnings.filters)
    assert torch.is_grad_enabled()


def test_damaged_and_missing_images_are_left_out_and_listed(tiny: Tiny, labels: Path, tmp_path: Path) -> None:
    rows = labels.read_text().splitlines()
    damaged, missing = "images/truncated.jpg", "images/missing.jpg"
    Image.new("RGB", (64, 64), "red").save(labels.parent / damaged)
    content = (labels.parent / damaged).read_bytes()
    (labels.parent / damaged).write_bytes(content[: len(content) // 2])
    data = labels.parent / "damaged.csv"
    data.write_text("\n".join([*rows, f"{damaged},train,1,0,0,0", f"{missing},test,1,0,0,0"]) + "\n")
    config = tiny(data=str(data), mode="probe", on_error="skip", optim={"epochs": 1})
    result = run(config)
    listed = (Path(config.output) / "skipped.txt").read_text()
    assert damaged in listed
    assert missing in listed
    assert result.metrics["num_images"] == 30
    assert LabelStats.load(Path(config.output) / "stats.json").num_samples == 46


def test_loss_that_breaks_stops_the_run_and_names_the_step(tiny: Tiny) -> None:
    config = tiny(optim={"lr": 1e30, "clip_norm": None, "warmup_steps": 0})
    with pytest.raises(InputError, match=r"db-focal loss became (nan|inf) at step \d+ \(epoch 1\).*--lr"):
        run(config)
    assert not (Path(config.output) / "checkpoints" / "last.ckpt").exists()


def test_class_without_training_image_is_told_of_and_trained_around(
    tiny: Tiny, labels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pd.read_csv(labels)
    table.loc[table["split"] == "train", "dark"] = 0
    data = labels.parent / "untaught.csv"
    table.to_csv(data, index=False)
    with pytest.warns(UserWarning, match="positive in no training sample.*'dark'") as told:
        result = run(tiny(data=str(data), mode="probe", optim={"epochs": 1}))
    assert len(told) == 1
    assert "1 of 4 classes have no image in split 'train'" in caplog.text
    assert result.metrics["AP"]["dark"] is not None


def test_class_without_test_image_is_left_out_of_the_mean(tiny: Tiny, labels: Path) -> None:
    table = pd.read_csv(labels)
    table.loc[table["split"] == "test", "dark"] = 0
    data = labels.parent / "unseen.csv"
    table.to_csv(data, index=False)
    metrics = run(tiny(data=str(data), mode="probe", optim={"epochs": 1})).metrics
    assert metrics["AP"]["dark"] is None
    assert metrics["classes_left_out"]["total"] == 1
    seen = [value for value in metrics["AP"].values() if value is not None]
    assert metrics["mAP"]["total"] == pytest.approx(np.mean(seen))


def test_training_learns(tiny: Tiny) -> None:
    plain = Augmentation(photometric=False)
    config = tiny(sampler="uniform", augment=plain, optim={"name": "sgd", "epochs": 20, "lr": 0.05, "warmup_steps": 10})
    trained = run(config).metrics["AP"]
    # By chance it would be below 60; a few test images decide the last points.
    assert np.mean([trained[name] for name in ("red", "green", "blue")]) > 90


def test_digits_need_no_files(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(data="digits", mode="probe", batch_size=32, thresholds=(20, 100), optim={"epochs": 2})
    result = run(config)
    assert result.metrics["num_images"] == 1000
    assert result.metrics["mAP"]["total"] > 25
    assert evaluate(tmp_path / "run").metrics["AP"] == result.metrics["AP"]


@pytest.mark.parametrize("mode", ["finetune", "probe"])
def test_bf16_trains_close_to_fp32(tiny: Tiny, tmp_path: Path, mode: str) -> None:
    scores = []
    for precision in ("fp32", "bf16"):
        config = tiny(mode=mode, output=str(tmp_path / precision), precision=precision, optim={"epochs": 1})
        scores.append(run(config).metrics["mAP"]["total"])
        assert evaluate(tmp_path / precision).metrics["mAP"]["total"] == scores[-1]
    assert scores[0] == pytest.approx(scores[1], abs=10)


def test_training_images_are_augmented_by_epoch_and_position_and_gradients_clipped(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, list[int]]] = []
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def recorded(inputs: torch.Tensor, *, epoch: int, positions: Any, **options: Any) -> torch.Tensor:
        seen.append((epoch, positions.tolist()))
        assert (inputs.dtype, inputs.shape[1:]) == (torch.uint8, (3, 40, 40))
        return original(inputs, epoch=epoch, positions=positions, **options)

    def clipped(parameters: Any, max_norm: float, **options: Any) -> torch.Tensor:
        norms.append(max_norm)
        return clip(parameters, max_norm, **options)

    original = finetune.augment
    monkeypatch.setattr(finetune, "augment", recorded)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    run(tiny(sampler="uniform", optim={"epochs": 2}))
    for epoch in range(2):
        assert [position for when, where in seen if when == epoch for position in where] == list(range(46))
    assert norms == [35.0] * len(seen)


@pytest.mark.parametrize(("warmup_steps", "is_short"), [(500, True), (4, True), (3, False), (0, False)])
def test_a_training_that_ends_in_its_warm_up_says_so(
    tiny: Tiny, caplog: pytest.LogCaptureFixture, warmup_steps: int, is_short: bool
) -> None:
    with caplog.at_level("WARNING", "tailwise"):
        result = train(tiny(mode="probe", optim={"epochs": 1, "warmup_steps": warmup_steps}))
    assert result is not None
    assert result.metrics["steps"] == 3
    assert ("never reaches --lr: lower --warmup-steps" in caplog.text) == is_short
