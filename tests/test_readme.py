"""What the README tells people to type works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from tailwise.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (tailwise \w+ .*)$", README, re.MULTILINE)


def test_the_library_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(code, names)
    assert names["logits"].grad.isfinite().all()
    assert names["logits"].grad.abs().sum() > 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_exists(command, capsys):
    _, subcommand, *arguments = shlex.split(command)
    with pytest.raises(SystemExit) as exited:
        main([subcommand, "--help"])
    assert exited.value.code == 0
    shown = capsys.readouterr().out
    options = {argument for argument in arguments if argument.startswith("--")}
    assert all(re.search(rf"{option}\b", shown) for option in options), options


def test_the_commands_are_found():
    expected = {"inspect", "build", "compare", "train", "guide", "evaluate", "report", "reproduce", "cache"}
    assert {command.split()[1] for command in COMMANDS} == expected


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
