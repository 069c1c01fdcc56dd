"""Options by name: spellings on every command line, keyword arguments of Python, and the way back to a command line."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from tailwise.cli import main
from tailwise.command_line import add_options, canonical, from_namespace, to_arguments
from tailwise.commands import train
from tailwise.errors import InputError
from tailwise.models.model_config import ModelConfig
from tailwise.options import from_names
from tailwise.training.config import OptimConfig, TrainConfig, changes, to_mapping

COMMANDS = ("demo", "inspect", "build", "compare", "train", "guide", "evaluate", "report", "reproduce")


def named(**options: Any) -> TrainConfig:
    """A training run from keywords, as the Python functions take them."""
    return from_names(TrainConfig, options)


def parsed(*arguments: str) -> TrainConfig:
    """A training run as its command reads it."""
    parser = ArgumentParser(exit_on_error=False)
    add_options(parser, train.Options)
    given = canonical(["--data", "a-b.csv", "--output", "x", *arguments], train.Options)
    return from_namespace(train.Options, parser.parse_args(given))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_may_have_dashes(command: str) -> None:
    options = import_module(f"tailwise.commands.{command}").Options
    for entry in fields(options):
        if "bool" in str(entry.type):
            continue
        with_dashes = entry.name.replace("_", "-")
        for value in (["2-3_4"], []):
            assert canonical([f"--{with_dashes}", *value], options) == [f"--{entry.name}", *value]
        assert canonical([f"--{with_dashes}=2-3_4"], options) == [f"--{entry.name}=2-3_4"]


def test_options_within_options_may_have_dashes_and_values_keep_theirs() -> None:
    config = parsed(
        *("--image-size", "64", "--optim.warmup-steps=7", "--test-split=my-test"),
        *("--model.label-words", '{"a-b": "c"}'),
        *("--loss-options.neg_scale", "3", "--split-ratios.my-train=0.5", "--split-ratios.my-test=0.5"),
    )
    assert (config.image_size, config.optim.warmup_steps, config.test_split) == (64, 7, "my-test")
    assert (config.data, config.model.label_words, config.loss_options) == ("a-b.csv", {"a-b": "c"}, {"neg_scale": 3})
    assert config.split_ratios == {"my-train": 0.5, "my-test": 0.5}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--resume"], True),
        (["--resume", "--quiet"], True),
        (["--resume", "true"], True),
        (["--resume", "False"], False),
        (["--resume=false"], False),
        (["--resume", "no"], False),
        ([], False),
    ],
)
def test_what_is_true_or_false_needs_no_value(arguments: list[str], expected: bool) -> None:
    assert parsed(*arguments).resume is expected


def test_options_that_may_be_left_open_need_no_value_either() -> None:
    assert parsed("--standardize-features").standardize_features is True
    assert parsed("--standardize-features", "null").standardize_features is None
    assert parsed("--model.pretrained", "false", "--quiet").model.pretrained is False


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table without images, in a folder of its own."""
    (tmp_path / "labels.csv").write_text("image,split,labels\na.jpg,train,cat\nb.jpg,test,dog\n")
    return tmp_path / "labels.csv"


@pytest.mark.parametrize(
    "line", ["--check-images {}", "{} --check-images", "{} --check_images true", "--check-images=yes {}"]
)
def test_what_follows_an_option_without_a_value_is_not_swallowed(
    table: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *line.format(table).split()]) == 0
    assert "checked 2 of 2 images, 2 missing" in capsys.readouterr().err


def test_nothing_is_read_as_an_option_after_two_dashes() -> None:
    options = import_module("tailwise.commands.inspect").Options
    assert canonical(["--quiet", "--", "--check-images"], options) == ["--quiet=true", "--", "--check-images"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("inspect {} --check-imags", "did you mean '--check-images'?"),
        ("train --data {} --output x --optm.warmup-steps 3", "did you mean '--warmup-steps'?"),
        ("train --data {} --output x --imagesize 3", "did you mean '--image-size'?"),
        ("train --data {} --output x --resume 1", "--resume: expected bool, got 1"),
        ("inspect {} --check-images maybe", "unrecognized arguments: maybe"),
    ],
)
def test_misspelt_options_are_answered_with_the_right_one(
    table: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.format(table).split()) == 2
    assert message in capsys.readouterr().err


def test_values_that_begin_like_options_stay_values() -> None:
    assert parsed("--loss_options=" + json.dumps({"a--b-c": 1})).loss_options == {"a--b-c": 1}
    assert parsed("--root=--some-where").root == "--some-where"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--no-keep-backbone"], False),
        (["--no_keep_backbone"], False),
        (["--no-keep-backbone", "--keep-backbone"], True),
        (["--keep-backbone", "--no-keep-backbone"], False),
        (["--keep-backbone=false"], False),
        ([], True),
    ],
)
def test_no_before_an_option_makes_it_false(arguments: list[str], expected: bool) -> None:
    assert parsed(*arguments).keep_backbone is expected


def test_no_before_an_option_of_a_group_makes_it_false() -> None:
    config = parsed("--no-pretrained", "--no-augment.photometric", "--no-standardize-features")
    assert (config.model.pretrained, config.augment.photometric, config.standardize_features) == (False, False, False)


@pytest.mark.parametrize("line", ["--no-lr", "--no-image-size 3", "--no-keep-backbones"])
def test_no_belongs_to_options_that_are_true_or_false(table: Path, line: str, capsys) -> None:
    assert main(["train", "--data", str(table), "--output", "x", *line.split()]) == 2
    assert f"unrecognized arguments: {line.split()[0]}" in capsys.readouterr().err


def test_keywords_are_the_names_of_the_command_line() -> None:
    config = named(data="a.csv", output="x", lr=0.5, backbone="test_resnet", hue=0.0, **{"optim.decay": 0.2})
    assert (config.optim, config.model) == (OptimConfig(lr=0.5, decay=0.2), ModelConfig("test_resnet"))
    assert config.augment.hue == 0.0


def test_an_option_wins_over_its_group_in_any_order() -> None:
    for given in (
        {"optim": {"lr": 0.1, "epochs": 3}, "lr": 0.2},
        {"lr": 0.2, "optim": {"lr": 0.1, "epochs": 3}},
        {"optim": OptimConfig(lr=0.1, epochs=3), "optim.lr": 0.2},
    ):
        assert named(data="a.csv", output="x", **given).optim == OptimConfig(lr=0.2, epochs=3)


def test_names_change_a_configuration_and_leave_the_rest() -> None:
    base = TrainConfig(data="a.csv", output="x", seed=3, optim=OptimConfig(lr=0.1, epochs=3))
    changed = from_names(TrainConfig, {"lr": 0.2, "mode": "probe"}, base)
    assert changed == replace(base, mode="probe", optim=OptimConfig(lr=0.2, epochs=3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": "a.csv", "output": "x", "learning": 1}, "there is no option 'learning'"),
        ({"data": "a.csv", "output": "x", "warmup_step": 1}, r"'warmup_step' \(did you mean 'warmup_steps'\?\)"),
        ({"data": "a.csv", "output": "x", "optim": {"lrr": 1}}, r"'lrr' \(did you mean 'lr'\?\)"),
        ({"data": "a.csv", "output": "x", "lr": -1.0}, "--lr must be above 0, got -1.0"),
        ({"data": "a.csv"}, "--output is required"),
    ],
)
def test_keywords_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        named(**given)


def test_a_command_line_made_of_values_is_read_back_as_these_values() -> None:
    config = named(
        **{"data": "a-b.csv", "output": "x", "lr": 1e-7, "milestones": (1, 3), "clip_norm": None, "pretrained": False},
        **{"keep_backbone": False, "compile": True, "standardize_features": True, "thresholds": (5, 9)},
        **{"loss_options": {"neg_slope": {"tail": 2.0}, "adaptive": []}, "label_words": {"a-b": "é"}, "seed": 2**62},
    )
    usual, values = parsed(), {}
    plain = to_mapping(config)
    for key, _, _ in changes(usual, config):
        name, _, inner = key.partition(".")
        whole = name in ("loss_options",) or key.startswith("model.label_words")
        path = name if name == "loss_options" else "model.label_words" if whole else key
        group = plain[name]
        values[path] = group if path == name else group[inner.partition(".")[0]]
    arguments = to_arguments({**values, "keep_backbone": False, "compile": True}, TrainConfig)
    assert parsed(*arguments) == config
    assert {"--no-pretrained", "--no-keep-backbone", "--compile", "--lr"} <= set(arguments)
