"""The examples run as they stand, on less than they would take by themselves."""

from __future__ import annotations

import json
import re
import runpy
import sys
import warnings
from pathlib import Path

import nbformat
import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
# What is left out has no arguments.
SMALLER = {
    "features": ["--epochs", "3"],
    "million_labels": ["--labels", "2000", "--steps", "3"],
    "plain_loop": ["--steps", "5"],
}
EXPECTED = {
    "features": r"\nbce +\d(.*\n)+On held-out folds .*\n\n0 +\[(.*\n)+ridge regression +total 6\d\.\d .*\nlogistic",
    "million_labels": r"step 2  loss \d+\.\d+  .*\n.* taken 1 MB\n$",
    "own_loss": r"^formula  value \d\.\d+ .*\nclass    value \d\.\d+ .*\n$",
    "plain_loop": r"^BCE, uniform sampling +total \d.*\nDB-Focal, class-aware sampling +total \d.* tail \d+\.\d\n$",
}


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_the_script_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAILWISE_CACHE", str(tmp_path))
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


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Jupyter's own packages
        from nbclient import NotebookClient

        for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TAILWISE_CACHE", "TMPDIR"):
            (tmp_path / variable).mkdir()
            monkeypatch.setenv(variable, str(tmp_path / variable))
        book = nbformat.read(notebook, as_version=4)
        resources = {"metadata": {"path": str(EXAMPLES)}}
        NotebookClient(book, timeout=300, kernel_name="python3", resources=resources).execute()
    shown = [output for cell in book.cells for output in cell.get("outputs", ())]
    pages = [output.data["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert sum("<table" in page for page in pages) >= 3
    assert sum(page.startswith("<iframe srcdoc=") for page in pages) == 1
