"""What the README tells people to type works as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tailwise.cli import main
from tests.formats import examples, write_csv_lists

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
IN_A_LOOP, FROM_PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^    (tailwise \w+ .*)$", README, re.MULTILINE)
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))

# A network that is small and on every machine, and short trainings.
NETWORK = "--backbone test_resnet --no-pretrained --image-size 32"
SHORT = f"{NETWORK} --epochs 1 --optim.warmup-steps 1"
SMALLER = {
    "compare": f"{SHORT} --methods bce,db --seeds 1 --folds 2 --replicates 20 --workers 1 --accelerator cpu",
    "train": f"{NETWORK} --epochs 3 --optim.warmup-steps 1 --accelerator cpu --quiet",
    "reproduce": f"{NETWORK} --epochs 1 --seeds 1 --quiet",
}
PUBLISHED = re.compile(r"\b(voc|coco)-mlt\b")


def test_the_example_of_a_loop_runs():
    names: dict = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(IN_A_LOOP, names)
    assert names["logits"].grad.isfinite().all()
    assert names["logits"].grad.abs().sum() > 0


def test_the_example_of_the_python_interface_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    generator = np.random.default_rng(0)
    rows = examples()
    write_csv_lists(tmp_path, rows)
    np.save(tmp_path / "emb.npy", generator.normal(size=(len(rows), 6)))
    np.save(tmp_path / "new.npy", generator.normal(size=(3, 6)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAILWISE_CACHE", str(tmp_path / "cache"))
    short = ', epochs=2, warmup_steps=1, accelerator="cpu")'
    smaller = f', methods=["bce", "db"], seeds=1, folds=2, replicates=20, workers=1{short}'
    code = FROM_PYTHON.replace('output="comparison")', f'output="comparison"{smaller}')
    code = code.replace('output="runs/best")', f'output="runs/best"{short}')
    assert code.count(short) == 2
    names: dict = {}
    exec(code, names)
    assert names["model"].predict(np.load("new.npy")).shape == (3, 5)
    assert str(names["comparison"].recommendation) in capsys.readouterr().out
    assert (tmp_path / "inspection.html").stat().st_size > 0


def test_the_commands_run_in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that need no download, in their order: later ones take what earlier ones left."""
    write_csv_lists(tmp_path, examples())
    shutil.copy(tmp_path / "labels.csv", tmp_path / "other.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAILWISE_CACHE", str(tmp_path / "cache"))
    for command in COMMANDS:
        if PUBLISHED.search(command) or command.endswith("--help"):
            continue
        _, name, *arguments = shlex.split(command)
        assert main([name, *arguments, *SMALLER.get(name, "").split()]) == 0, command
    for left in ("inspection.html", "comparison/report.html", "runs/pg/report.html", "runs/pg-other/metrics.json"):
        assert (tmp_path / left).stat().st_size > 0
    assert (tmp_path / "reproduce-photos" / "table2.md").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_exists(command, capsys):
    _, subcommand, *arguments = shlex.split(command)
    assert main([subcommand, "--help-all"]) == 0
    shown = capsys.readouterr().out
    options = {argument for argument in arguments if argument.startswith("--")}
    assert all(re.search(rf"{option}\b", shown) for option in options), options


def test_the_commands_are_found():
    expected = {"inspect", "build", "compare", "train", "guide", "evaluate", "report", "reproduce", "cache"}
    assert {command.split()[1] for command in COMMANDS} == expected


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench", "docs"])
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_numbers_of_the_readme_are_those_of_the_results():
    results, published = (
        (ROOT / "docs" / name).read_text(encoding="utf-8").replace("**", "")
        for name in ("results.md", "results_2020.md")
    )
    tuned = published.partition("\n## Finetune")[2].partition("Three seeds leave")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| (.* ± .*) \|$", README, re.MULTILINE)
    assert len(rows) == 4
    assert all(f"\n| {loss} | {cells} |" in tuned for loss, cells in rows)
    solved, best = re.findall(r"`ridge`, which has (\d+\.\d) on 4,000.*?reaches (\d+\.\d) at best", README, re.DOTALL)[
        0
    ]
    frozen = published.partition("\n## Which loss")[2].partition("\n## Heads")[0]
    totals = [float(total) for total in re.findall(r"^\| [\w@-]+ \| (\d+\.\d+) ± ", frozen, re.MULTILINE)]
    assert (len(totals), f"{max(totals):.1f}") == (18, best)
    (ridge,) = re.findall(r"^\| ridge \| (\d+\.\d+) \|", results, re.MULTILINE)
    assert f"{float(ridge):.1f}" == solved
    assert re.search(r"^\| 128², default \| 44\.3 \|", results, re.MULTILINE)
    assert "BCE is at 44.3" in README
