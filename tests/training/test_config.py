"""Configurations: defaults, files, and what counts as a change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from tailwise.data.pixels.augment import Augmentation
from tailwise.data.reading import ReadOptions
from tailwise.errors import InputError
from tailwise.models.model_config import ModelConfig
from tailwise.training import config as configuration
from tailwise.training.config import TrainConfig, differences
from tailwise.training.optim_config import CURRENT, FROM_RANDOM, PUBLISHED, OptimConfig, completed, known
from tailwise.training.optimizer import create_schedule
from tailwise.training.resolution import resolve


@pytest.mark.parametrize(
    ("sampler", "epochs", "milestones"),
    [
        ("class-aware", 8, (5, 7)),
        ("uniform", 80, (55, 75)),
        ("repeat-factor", 80, (55, 75)),
        ("inverse-frequency", 80, (55, 75)),
    ],
)
def test_a_published_recipe_is_whole(sampler: Any, epochs: int, milestones: tuple[int, ...]) -> None:
    config = resolve(TrainConfig(data="digits", output="run", sampler=sampler, recipe="voc-mlt"))
    optim = config.optim
    assert (optim.epochs, optim.milestones) == (epochs, milestones)
    assert (optim.lr, optim.momentum, optim.weight_decay, optim.clip_norm) == (0.02, 0.9, 1e-4, 35)
    assert (optim.warmup_steps, optim.warmup_ratio, optim.decay) == (500, pytest.approx(1 / 3), 0.1)
    assert (config.batch_size, config.image_size, config.loss) == (32, 224, "db-focal")


# Option, and the value that the configuration of DB has: its paper, supplement and published configuration.
RECIPE: dict[str, Any] = {
    "loss": "db-focal",
    "loss_options": {},
    "recipe": "voc-mlt",
    "mode": "finetune",
    "sampler": "class-aware",
    "head.solver": "sgd",
    "samples_per_class": 3,
    "epoch_reduce": 4.0,
    "repeat_threshold": None,
    "background_weight": 1.0,
    "thresholds": [20, 100],
    "difficult": "positive",
    "separator": "|",
    "on_error": "raise",
    "split_seed": 0,
    "image_size": 224,
    "cache_size": None,
    "batch_size": 32,
    "precision": "fp32",
    "seed": 0,
    "train_split": "train",
    "test_split": "test",
    "val_split": None,
    "val_folds": 0,
    "val_fold": 0,
    "threshold_objective": "f1",
    "threshold_target": None,
    "calibration": "platt",
    "devices": 1,
    "num_nodes": 1,
    "optim.lr": 0.02,
    "optim.momentum": 0.9,
    "optim.weight_decay": 0.0001,
    "optim.clip_norm": 35.0,
    "optim.warmup_steps": 500,
    "optim.warmup_ratio": pytest.approx(1 / 3, rel=1e-12),
    "optim.decay": 0.1,
    "optim.name": "sgd",
    "optim.schedule": "steps",
    "optim.decay_all": True,
    "optim.backbone_rate": 1.0,
    "optim.layer_decay": 1.0,
    "optim.ema": 0.0,
    "model.backbone": "resnet50.tv_in1k",
    "model.pretrained": True,
    "model.weights": None,
    "model.options": {},
    "model.frozen_stages": 1,
    "model.running_stats": True,
    "model.neck": "recipe",
    "model.neck_width": 256,
    "model.dropout": 0.5,
    "model.head": "linear",
    "model.label_width": 300,
    "model.graph_hidden": 256,
    "model.graph_threshold": 0.4,
    "model.graph_reweight": 0.25,
    "augment.photometric": True,
    "augment.brightness": 32.0,
    "augment.contrast": [0.5, 1.5],
    "augment.saturation": [0.5, 1.5],
    "augment.hue": 18.0,
    "augment.swap_channels": True,
    "augment.min_crop": 0.8,
    "augment.flip": 0.5,
}


@pytest.mark.parametrize("option", RECIPE)
def test_every_number_of_a_published_recipe_is_there(option: str) -> None:
    resolved = resolve(TrainConfig(data="digits", output="run", recipe="voc-mlt"))
    found = configuration.flatten(configuration.to_mapping(resolved))
    assert found[option] == RECIPE[option]
    assert type(found[option]) is type(RECIPE[option]) or option == "optim.warmup_ratio"


def test_the_neck_is_of_the_linear_head() -> None:
    for head, neck in (("linear", "recipe"), ("gcn", "none")):
        model = ModelConfig(head=head)  # type: ignore[arg-type]
        config = resolve(TrainConfig(data="digits", output="run", recipe="voc-mlt", model=model))
        assert config.model.neck == neck
        assert config.standardize_features is (head == "linear")


def test_fine_tuning_without_a_published_recipe_starts_with_a_solved_head_and_is_current() -> None:
    config = resolve(TrainConfig(data="digits", output="run"))
    assert (config.head.solver, config.model.neck, config.sampler) == ("exact", "unit", "uniform")
    assert {name: getattr(config.optim, name) for name in CURRENT} == dict(CURRENT)
    own = resolve(TrainConfig(data="digits", output="run", optim=OptimConfig(name="sgd", lr=0.5, schedule="steps")))
    assert (own.optim.name, own.optim.lr, own.optim.schedule) == ("sgd", 0.5, "steps")
    graph = resolve(TrainConfig(data="digits", output="run", model=ModelConfig(head="gcn")))
    assert (graph.head.solver, graph.model.neck, graph.optim.lr) == ("sgd", "none", FROM_RANDOM["lr"])
    assert config.model.frozen_stages == -1
    assert resolve(config) == config


def test_milestones_keep_their_place_in_another_number_of_epochs() -> None:
    config = resolve(TrainConfig(data="digits", output="run", recipe="voc-mlt", optim=OptimConfig(epochs=16)))
    assert config.optim.milestones == (10, 14)


@pytest.mark.parametrize("sampler", ["class-aware", "uniform"])
def test_milestones_of_a_few_epochs_lie_inside_the_second_half(sampler: Any) -> None:
    for epochs in range(1, 81):
        optim = resolve(
            TrainConfig(
                data="digits", output="run", sampler=sampler, recipe="voc-mlt", optim=OptimConfig(epochs=epochs)
            )
        ).optim
        assert optim.milestones is not None
        assert all(epochs / 2 <= milestone < epochs for milestone in optim.milestones)
        assert len(set(optim.milestones)) == len(optim.milestones) == min(2, max(0, epochs - 1 - (epochs == 3)))


def test_a_single_epoch_trains_at_its_whole_rate(tiny: Callable[..., TrainConfig]) -> None:
    config = resolve(tiny(recipe="voc-mlt", optim={"epochs": 1, "warmup_steps": 0}))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=known(config.optim.lr))
    schedule = create_schedule(optimizer, config.optim, steps_per_epoch=6)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [config.optim.lr] * 6


@pytest.mark.parametrize("milestones", [(0, 2), (2, 2), (3, 2), (2, 4), (5, 7), (-1,)])
def test_milestones_outside_the_schedule_or_not_rising_are_refused(milestones: tuple[int, ...]) -> None:
    optim = OptimConfig(epochs=4, milestones=milestones)
    with pytest.raises(InputError, match=r"--milestones must rise, above 0 and below the 4 epochs, got .*null"):
        resolve(TrainConfig(data="digits", output="run", optim=optim))
    given = OptimConfig(epochs=4, milestones=(1, 3))
    assert completed(given, PUBLISHED, is_class_aware=False).milestones == (1, 3)


# The checks of the tests would refuse first what ours must refuse.
pytestmark = pytest.mark.usefixtures("unchecked")
CONFIGURATIONS = (TrainConfig, OptimConfig, ModelConfig, Augmentation, ReadOptions)


def flag(name: str) -> str:
    """How messages name an option, as a pattern; some have the name of their group before it."""
    return rf"(--|\.){name.replace('_', '-')}"


def fields_of(kind: Any) -> list[Any]:
    """Every option with a type of words or numbers, as (configuration, name, parts of its type)."""
    cases = []
    for configuration_type in CONFIGURATIONS:
        hints = get_type_hints(configuration_type)
        for entry in fields(configuration_type):
            hint = hints[entry.name]
            parts = [part for part in (hint, *get_args(hint)) if get_origin(part) is kind or part is kind]
            if parts:
                cases.append(
                    pytest.param(configuration_type, entry.name, id=f"{configuration_type.__name__}.{entry.name}")
                )
    return cases


def make(configuration_type: Any, **options: Any) -> Any:
    return configuration_type(
        **({"data": "digits", "output": "run"} if configuration_type is TrainConfig else {}), **options
    )


@pytest.mark.parametrize(("configuration_type", "name"), fields_of(Literal))
def test_words_that_are_no_choice_are_refused_when_the_configuration_is_made(
    configuration_type: Any, name: str
) -> None:
    with pytest.raises(InputError, match=rf"{flag(name)} must be .*one of .*got 'nonsense'"):
        make(configuration_type, **{name: "nonsense"})
    with pytest.raises(InputError, match=rf"{flag(name)} must be .*one of"):
        make(configuration_type, **{name: ["nonsense"]})


def test_the_nearest_choice_is_suggested() -> None:
    with pytest.raises(InputError, match=r"--mode must be one of .*got 'probee' \(did you mean 'probe'"):
        TrainConfig(data="digits", output="run", mode="probee")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"--head must be .*\(did you mean 'linear'"):
        ModelConfig(head="lineer")  # type: ignore[arg-type]


@pytest.mark.parametrize(("configuration_type", "name"), fields_of(float))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, "0.5", True, [1.0]])
def test_numbers_must_be_numbers_and_finite(configuration_type: Any, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"{flag(name)} must be .*a finite number"):
        make(configuration_type, **{name: value})


@pytest.mark.parametrize(("configuration_type", "name"), fields_of(float))
def test_negative_numbers_are_refused(configuration_type: Any, name: str) -> None:
    with pytest.raises(InputError, match=flag(name)):
        resolve(replace(TrainConfig(data="digits", output="run"), **nested(configuration_type, {name: -1.0})))


def nested(configuration_type: Any, options: dict[str, Any]) -> dict[str, Any]:
    names = {OptimConfig: "optim", ModelConfig: "model", Augmentation: "augment"}
    name = names.get(configuration_type)
    return options if name is None else {name: configuration_type(**options)}


@pytest.mark.parametrize(("configuration_type", "name"), fields_of(int))
@pytest.mark.parametrize("value", [1.5, "3", True])
def test_whole_numbers_must_be_whole(configuration_type: Any, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"{flag(name)} must be .*a whole number"):
        make(configuration_type, **{name: value})


def test_lists_and_text_become_what_is_asked_for() -> None:
    assert TrainConfig(data="digits", output="run", thresholds=[5, 9]).thresholds == (5, 9)  # type: ignore[arg-type]
    assert ModelConfig(weights="w.safetensors").weights == Path("w.safetensors")  # type: ignore[arg-type]
    for options in ({"thresholds": (1, 2, 3)}, {"thresholds": ("a", "b")}, {"loss_options": {1: 2}}, {"loss": None}):
        with pytest.raises(InputError, match=f"{flag(next(iter(options)))} must be"):
            TrainConfig(data="digits", output="run", **options)


def test_file_gives_back_what_was_written(tmp_path: Path) -> None:
    config = TrainConfig(
        data="labels.csv",
        output="Ausgabe/Läufe",
        loss="pg",
        loss_options={"neg_slope": {"tail": 10.0}, "adaptive": ["neg_slope"], "kappa": 0.05},
        recipe="voc-mlt",
        mode="probe",
        thresholds=(5, 50),
        model=ModelConfig("mobilenetv2_100", weights=Path("w.safetensors"), options={"pad_type": "same"}, mean=(0.5,)),
        optim=OptimConfig(lr=1e-3, clip_norm=None, warmup_ratio=1 / 3, milestones=(2, 4)),
        augment=Augmentation(hue=3.5, contrast=(0.9, 1.1)),
    )
    configuration.save(config, tmp_path / "config.yaml")
    assert configuration.load(tmp_path / "config.yaml") == config


def test_a_configuration_of_an_earlier_revision_is_read() -> None:
    config = configuration.load(Path(__file__).with_name("earlier_config.yaml"))
    assert config == TrainConfig(
        data="labels.csv",
        output="runs/pg",
        loss="pg",
        loss_options={"neg_slope": {"tail": 10.0}, "adaptive": ["neg_slope"], "kappa": 0.05},
        recipe="voc-mlt",
        mode="probe",
        val_folds=5,
        thresholds=(5, 50),
        model=ModelConfig(
            "mobilenetv2_100",
            weights=Path("w.safetensors"),
            options={"pad_type": "same"},
            frozen_stages=1,
            mean=(0.5, 0.4, 0.3),
        ),
        optim=OptimConfig(lr=1e-3, weight_decay=1e-4, clip_norm=None, warmup_steps=500, milestones=(2, 4), epochs=6),
        augment=Augmentation(hue=3.5, contrast=(0.9, 1.1)),
    )


def test_differences_name_what_changes_the_result(tiny: Callable[..., TrainConfig]) -> None:
    old = resolve(tiny(recipe="voc-mlt", loss_options={"mu": 0.3}))
    assert differences(old, replace(old, output="elsewhere", quiet=False, resume=True, num_workers=2)) == []
    assert differences(old, replace(old, checkpoint_minutes=1.0, compile=True)) == []
    new = replace(old, seed=4, loss_options={"mu": 0.2}, optim=replace(old.optim, lr=0.1))
    assert differences(old, new) == [
        "--loss-options.mu: 0.3, now 0.2",
        "--lr: 0.02, now 0.1",
        "--seed: 0, now 4",
    ]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"batch_size": 1}, "--batch-size must be at least 2"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**63}, "--seed must be at least 0 and below 9223372036854775808"),
        ({"seed": 10**30}, "seed"),
        ({"split_seed": -1}, "--split-seed"),
        ({"num_workers": -1}, "--num-workers must be at least 0 and at most 1024"),
        ({"num_workers": 10**30}, "--num-workers must be at least 0 and at most 1024"),
        ({"image_size": 10**30}, "--image-size must be at least 1 and at most 16384"),
        ({"output": " "}, "--output must be the name of a folder"),
        ({"test_split": "train"}, "--test-split"),
        ({"thresholds": (30, 10)}, "--thresholds"),
        ({"repeat_threshold": 0.0}, "--repeat-threshold"),
        ({"repeat_threshold": 1.5}, "--repeat-threshold"),
        ({"background_weight": -1.0}, "--background-weight"),
        ({"checkpoint_minutes": 0.0}, "--checkpoint-minutes"),
        ({"optim": {"lr": 0.0}}, "--lr must be above 0"),
        ({"optim": {"warmup_ratio": 0.0}}, "--warmup-ratio"),
        ({"optim": {"epochs": 0}}, "--epochs"),
        ({"optim": {"clip_norm": 0.0}}, "--clip-norm"),
    ],
)
def test_ranges_are_checked(tiny: Callable[..., TrainConfig], options: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        resolve(tiny(**options))


def test_cache_folder_is_the_option_then_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(data="digits", output="run")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.delenv("TAILWISE_CACHE", raising=False)
    assert config.cache_folder == Path("/somewhere/tailwise")
    monkeypatch.setenv("TAILWISE_CACHE", "/named")
    assert config.cache_folder == Path("/named")
    assert replace(config, cache="/chosen").cache_folder == Path("/chosen")


def test_places_become_absolute_and_names_of_data_sets_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"data": "a/../b.csv", "classes": "c.json", "root": ".", "features": "f.npy", "split_file": "s.csv"}
    config = resolve(TrainConfig(output="run", **places))
    expected = {"data": "b.csv", "classes": "c.json", "root": "", "features": "f.npy", "split_file": "s.csv"}
    for name, place in {**expected, "output": "run"}.items():
        assert getattr(config, name) == str(tmp_path / place)
    for name in ("digits", "hf:owner/name"):
        assert resolve(TrainConfig(data=name, output="run")).data == name


def test_a_loss_may_name_its_sampler(tmp_path: Path) -> None:
    shared: Any = {"data": "digits", "output": "run", "recipe": "coco-mlt"}
    plain = resolve(TrainConfig(**shared, loss="pg", sampler="uniform"))
    for sampler in (None, "uniform"):
        assert resolve(TrainConfig(**shared, loss="pg@uniform", sampler=sampler)) == plain
    assert resolve(plain) == plain
    assert plain.optim.epochs == 80
    assert resolve(TrainConfig(**shared)).sampler == "class-aware"
    assert resolve(TrainConfig(data="digits", output="run")).sampler == "uniform"
    (tmp_path / "a@b.yaml").write_text("neg_slope: 5")
    for loss in (str(tmp_path / "a@b.yaml"), f"{tmp_path / 'a@b.yaml'}@repeat-factor"):
        own = resolve(TrainConfig(**shared, loss=loss))
        assert (own.loss, own.loss_options) == ("formula", {"neg_slope": 5})
        assert own.sampler == ("repeat-factor" if "@repeat" in loss else "class-aware")


@pytest.mark.parametrize(
    ("loss", "sampler", "message"),
    [
        ("bce@uniform", "class-aware", "--loss bce@uniform and --sampler class-aware name two samplers"),
        ("bce@uniform", "repeat-factor", "name two samplers; leave one out"),
        ("bce@unifrm", None, r"--loss bce@unifrm: no sampler 'unifrm' \(did you mean 'uniform'\?\)"),
        ("bce@", None, "--loss bce@: no sampler ''"),
    ],
)
def test_a_loss_with_a_sampler_that_cannot_be_is_refused(loss: str, sampler: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(TrainConfig(data="digits", output="run", loss=loss, sampler=sampler))
