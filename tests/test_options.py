"""Spellings of options on the command line: dashes, and options without a value, on every command."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from tailwise.cli import main
from tailwise.command_line import add_options, canonical, from_namespace
from tailwise.commands import train
from tailwise.training.config import TrainConfig

COMMANDS = ("demo", "inspect", "build", "compare", "train", "guide", "evaluate", "report", "reproduce")


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
