"""The examples run as they stand, on less than they would take by themselves."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
# What is left out has no arguments.
SMALLER = {
    "million_labels": ["--labels", "2000", "--steps", "3"],
    "plain_loop": ["--steps", "5"],
}
EXPECTED = {
    "million_labels": r"step 2  loss \d+\.\d+  .*\n.* taken 1 MB\n$",
    "own_loss": r"^formula  value \d\.\d+ .*\nclass    value \d\.\d+ .*\n$",
    "plain_loop": r"^BCE, uniform sampling +total \d.*\nDB-Focal, class-aware sampling +total \d.* tail \d+\.\d\n$",
}


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_the_script_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *SMALLER.get(name, [])])
    monkeypatch.syspath_prepend(EXAMPLES)
    with torch.random.fork_rng():
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert re.search(EXPECTED[name], capsys.readouterr().out)
    assert name not in SMALLER or SMALLER[name][0] in (EXAMPLES / f"{name}.py").read_text()


def test_the_loss_of_the_example_is_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from tailwise import LabelStats
    from tailwise.losses import create_custom

    monkeypatch.syspath_prepend(EXAMPLES)
    loss = create_custom("own_loss:SmoothedBCE", LabelStats([5, 1], 8), smoothing=0.0)
    logits = torch.tensor([[0.3, -2.0]])
    known = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, :1], torch.ones(1, 1))
    assert loss(logits, torch.tensor([[1, -1]])) == pytest.approx(known.item())


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_kept_without_output(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
