"""``tailwise reproduce`` on a tiny CSV file: tables and figures from the command line, and what they are made of."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import get_args

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tailwise.cli import main
from tailwise.commands.reproduce import FigureName
from tailwise.data.long_tail import build_long_tail
from tailwise.experiments.published import TABLES, published_table
from tailwise.experiments.reproduction import Experiment, shortened
from tailwise.labels import LabelStats
from tailwise.losses import create
from tailwise.metrics import ProbabilityCurves
from tailwise.models.model_config import ModelConfig
from tailwise.report import figures as drawing
from tailwise.report.paper_figures import FIGURES, KAPPA, MU, gradient_on_negatives, sweep_figure
from tailwise.report.results_tables import published_table as results_table
from tailwise.training.config import TrainConfig, load
from tailwise.training.optim_config import PUBLISHED, OptimConfig
from tests.experiments.given import result_of
from tests.formats import read_csv

Outcome = tuple[int, str, str]
LABELS = {"db": "DB", "pr-neg_slope": "λ₁⁻+", "pr-pos_divisor": "λ₂⁺+", "pr": "λ₁⁻+ λ₂⁺+"}
FAST = (
    "--mode probe --image-size 32 --batch-size 8 --epochs 2 --thresholds [10,20] --backbone test_resnet "
    "--no-pretrained --accelerator cpu --quiet"
)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[[str], Outcome]:
    """Runs a command line: (exit code, standard output, standard error)."""

    def run(line: str) -> Outcome:
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written."""
    kept: list[Figure] = []
    save = drawing.save_figure

    def keep(figure: Figure, *args: object) -> list[Path]:
        kept.append(figure)
        return save(figure, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(drawing, "save_figure", keep)
    return kept


@pytest.fixture(scope="module")
def line(tiny_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A command line whose runs take a second; all tests share its output, in which finished runs are kept."""
    output = tmp_path_factory.mktemp("reproduce") / "out"
    return f"reproduce photos --data {tiny_labels} --output {output} --cache {output.parent / 'cache'} --seeds 2 {FAST}"


@pytest.fixture
def output(line: str) -> Path:
    return Path(shlex.split(line)[shlex.split(line).index("--output") + 1])


def experiment(tiny_labels: Path, **changes: object) -> Experiment:
    options: dict = {
        "data_name": "tiny",
        "recipe": "voc-mlt",
        "is_published": False,
        "shared": TrainConfig(data=str(tiny_labels), output="runs", recipe="voc-mlt", thresholds=(10, 20)),
        "seeds": range(3),
        "workers": 1,
        "epochs": None,
        "pool": lambda: read_csv(tiny_labels),
        "num_max": 30,
        "losses": ("bce",),
    }
    return Experiment(**{**options, **changes})


def test_a_table_holds_what_the_runs_found(cli: Callable[[str], Outcome], line: str, output: Path) -> None:
    code, out, err = cli(f"{line} --table 3")
    assert code == 0, err
    with (output / "table3.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == list(LABELS.values())
    for method, row in zip(LABELS, rows, strict=True):
        found = [json.loads((output / f"runs/{method}/seed{seed}/metrics.json").read_text()) for seed in (0, 1)]
        for group in ("total", "tail"):
            values = [metrics["mAP"][group] for metrics in found]
            assert float(row[f"{group}_mean"]) == pytest.approx(fmean(values), abs=1e-4)
            assert float(row[f"{group}_std"]) == pytest.approx(stdev(values), abs=1e-4)
            assert row[f"{group}_published"] == row[f"{group}_difference"] == ""
        assert f"{fmean([metrics['mAP']['total'] for metrics in found]):.2f} ±" in out
    assert "no published numbers are shown" in out
    assert "77.29" not in (output / "table3.md").read_text() + (output / "table3.tex").read_text() + out
    said = re.sub(r"\s+", " ", out)
    for departure in (
        "--mode probe (recipe: finetune)",
        "--backbone test_resnet (recipe: resnet50.tv_in1k)",
        "--image-size 32 (recipe: 224)",
        "--epochs 2 with class-aware sampling and 20 without (recipe: 8 and 80)",
        "--warmup-steps 125 (recipe: 500)",
        "2 of the 3 seeds",
    ):
        assert departure in said
        assert departure in err
        assert departure in (output / "table3.md").read_text(encoding="utf-8")


def test_all_methods_of_table_2_run_and_have_a_panel(
    cli: Callable[[str], Outcome], line: str, output: Path, drawn: list[Figure]
) -> None:
    short = (
        line.replace(f"--output {output}", f"--output {output}-2")
        .replace("--epochs 2 ", "--epochs 1 ")
        .replace("--batch-size 8", "--batch-size 16")
    )
    code, out, err = cli(f"{short} --seeds 1 --table 2 --figure pg-1 --figure-formats [png]")
    assert code == 0, err
    labels = ["ERM", "RW", "Focal", "RS", "ML-GCN", "LDAM", "CB Focal", "ASL", "DB Focal", "PG"]
    assert re.findall(r"^│ (\S.*?)  *│", out, re.MULTILINE) == labels
    assert [axes.get_title() for axes in drawn[0].axes if axes.axison] == labels
    runs = Path(f"{output}-2/runs")
    graph, erm, cb = (load(runs / f"{name}@uniform/seed0/config.yaml") for name in ("ml-gcn", "bce", "cb-focal"))
    assert (graph.model.head, erm.model.head) == ("gcn", "linear")
    assert replace(graph, output="", model=erm.model, standardize_features=None) == replace(
        erm, output="", standardize_features=None
    )
    assert (erm.sampler, erm.optim.epochs, erm.optim.lr, cb.optim.lr) == ("uniform", 10, 0.02, 0.1)


def test_tables_share_their_runs(cli: Callable[[str], Outcome], line: str, output: Path) -> None:
    assert cli(f"{line} --table 4")[0] == 0
    finished = {path: path.stat().st_mtime_ns for path in output.glob("runs/pg/*/metrics.json")}
    assert len(finished) == 2
    assert cli(f"{line} --table 5")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in output.glob("runs/pg/*/metrics.json")} == finished
    tables = {number: (output / f"table{number}.csv").read_text(encoding="utf-8") for number in (4, 5)}
    (fixed,) = re.findall(r"^AF,(.*),$", tables[4], re.MULTILINE)
    assert f"\nAPR+APAF,{fixed},\n" in tables[5]
    config = load(output / "runs/apr-focal/seed1/config.yaml")
    assert (config.loss, config.loss_options, config.sampler) == ("pg", {"exponent": "fixed"}, "class-aware")
    assert (config.optim.lr, config.optim.epochs, config.seed) == (0.02, 2, 1)


def test_curves_are_those_of_the_recorded_runs(
    cli: Callable[[str], Outcome], line: str, output: Path, drawn: list[Figure]
) -> None:
    code, _, err = cli(f"{line} --figure pg-3 --figure-formats [png,svg]")
    assert code == 0, err
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == list(LABELS.values())
    for axes, method in zip(figure.axes, LABELS, strict=True):
        runs = [ProbabilityCurves.load(output / f"runs/{method}/seed{seed}/curves.npz") for seed in (0, 1)]
        (tail,) = runs[0].groups["tail"]
        counts = sum(run.negative_count[:, tail] for run in runs)
        expected = sum(run.negative_sum[:, tail] for run in runs)[counts > 0] / counts[counts > 0]
        shown = [line.get_ydata() for line in axes.lines if line.get_linestyle() == ":"]
        assert any(len(values) == len(expected) and np.allclose(values, expected, rtol=1e-5) for values in shown)
    assert {path.name for path in output.glob("pg-3.*")} == {"pg-3.png", "pg-3.svg"}
    assert "--mode probe (recipe: finetune)" in re.sub(r"\s+", " ", (output / "pg-3.svg").read_text(encoding="utf-8"))
    (output / "runs/db/seed1/curves.npz").unlink()
    code, _, err = cli(f"{line} --figure pg-3")
    assert code == 2
    assert re.search(r"runs/db/seed1 has no probability curves .*; remove it to repeat the run", err)


def test_sweeps_show_the_runs_of_each_value(
    cli: Callable[[str], Outcome], line: str, output: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIGURES, "db-3a", sweep_figure(replace(MU, values=(0.1,))))
    code, _, err = cli(f"{line} --figure db-3a --figure-formats [png]")
    assert code == 0, err
    panel = drawn[0].axes[0]
    expected = {
        0.1: output / "runs/db-focal,mu=0.1",
        0.3: output / "runs/db-focal",
    }
    for (value, mean), (key, folder) in zip(panel.lines[0].get_xydata(), expected.items(), strict=True):
        found = [json.loads((folder / f"seed{seed}/metrics.json").read_text())["mAP"]["total"] for seed in (0, 1)]
        assert (value, mean) == (key, pytest.approx(fmean(found)))
    assert load(output / "runs/db-focal,mu=0.1/seed0/config.yaml").loss_options == {"mu": 0.1}


def test_figures_of_labels_show_the_labels(
    cli: Callable[[str], Outcome], line: str, tiny_labels: Path, drawn: list[Figure]
) -> None:
    for name in ("db-1a", "db-1b", "db-2"):
        code, _, err = cli(f"{line} --figure {name} --num-max 25 --figure-formats [png]")
        assert code == 0, err
    reference, construction, counts = drawn
    assert len(reference.axes[0].lines) == 6
    assert all(curve.get_ydata()[0] == 25 for curve in reference.axes[0].lines)
    labels = read_csv(tiny_labels)
    train, test = labels.select("train"), labels.select("test")
    subset = build_long_tail(train.targets, train.class_names, num_max=25)
    heights = [bar.get_height() for bar in construction.axes[1].patches]
    assert heights == subset.counts[subset.order].tolist()
    order = np.argsort(-(train.targets == 1).sum(axis=0), kind="stable")
    assert [bar.get_height() for bar in counts.axes[0].patches] == (test.targets == 1).sum(axis=0)[order].tolist()


def test_gradients_are_drawn_for_the_losses_that_are_named(
    cli: Callable[[str], Outcome], line: str, drawn: list[Figure]
) -> None:
    assert cli(f"{line} --figure pg-2 --losses [bce,db-focal] --figure-formats [png]")[0] == 0
    assert [curve.get_label() for curve in drawn[0].axes[0].lines] == ["BCE", "DB-Focal"]
    code, _, err = cli(f"{line} --figure pg-2 --losses [bcee]")
    assert (code, "--losses: unknown loss 'bcee' (did you mean 'bce'" in err) == (2, True)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("bce", lambda z, v: 1 / (1 + np.exp(-z))),
        ("ntr", lambda z, v: 1 / (1 + np.exp(-5 * (z - v)))),
        ("focal", lambda z, v: _focal_gradient(z)),
    ],
)
def test_gradients_are_those_of_the_formulas(name: str, formula: Callable, tiny_labels: Path) -> None:
    curve = gradient_on_negatives(name, experiment(tiny_labels))
    train = read_csv(tiny_labels).select("train")
    count = (train.targets == 1).sum(axis=0).min()  # the only tail class
    shift = 0.05 / 5 * np.log(len(train) / count - 1)
    np.testing.assert_allclose(curve.gradient, formula(curve.logits, shift), atol=1e-6)


@pytest.mark.parametrize("name", ["asl", "db", "pg", "cb-focal", "ldam"])
def test_gradients_of_any_loss_agree_with_differences_of_its_values(name: str, tiny_labels: Path) -> None:
    curve = gradient_on_negatives(name, experiment(tiny_labels))
    train = read_csv(tiny_labels).select("train")
    stats = LabelStats([int((train.targets == 1).sum(axis=0).min())], len(train), thresholds=(10, 20))
    loss = create(name, stats, "voc-mlt", reduction="none")
    step = 1e-4
    values = [
        loss(torch.from_numpy(curve.logits + way)[:, None], torch.zeros(len(curve.logits), 1, dtype=torch.int8))[:, 0]
        for way in (-step, step)
    ]
    np.testing.assert_allclose(curve.gradient, ((values[1] - values[0]) / (2 * step)).numpy(), atol=1e-4)


def test_sweeps_share_the_recipe_s_own_value_with_the_tables(tiny_labels: Path) -> None:
    for recipe, value in (("voc-mlt", 0.3), ("coco-mlt", 0.2)):
        methods = MU.methods(experiment(tiny_labels, recipe=recipe))
        assert [key for key, method in methods.items() if method.name == "db-focal"] == [value]
        assert all(method.options["loss_options"] == {"mu": key} for key, method in methods.items() if key != value)
    stats = LabelStats([30, 4], 100)
    kappa = KAPPA.recipe_value(experiment(tiny_labels))
    silent, given = create("db-focal", stats), create("db-focal", stats, kappa=kappa)
    torch.testing.assert_close(silent.positive_shift, given.positive_shift)


def test_published_data_are_trained_as_their_papers_say_and_others_as_db_says(tiny_labels: Path) -> None:
    pg = published_table("voc-mlt", 2).rows[-1]
    apaf = published_table("coco-mlt", 5).rows[1]
    here = experiment(tiny_labels)
    there = experiment(tiny_labels, is_published=True)
    assert here.method(pg).configure(here.shared, 0).optim == OptimConfig()
    assert there.method(pg).configure(there.shared, 0).optim == OptimConfig(lr=8e-3, warmup_ratio=0.5)
    assert there.method(apaf).configure(there.shared, 0).optim == OptimConfig(lr=1e-2, warmup_ratio=0.5)
    baseline = published_table("voc-mlt", 2).rows[0]
    assert there.method(baseline).configure(there.shared, 0).optim == OptimConfig()
    cb = published_table("voc-mlt", 2).rows[6]
    assert here.method(cb).configure(here.shared, 0).optim == OptimConfig(lr=0.1)


def test_fewer_epochs_keep_the_proportions(tiny_labels: Path) -> None:
    short = experiment(tiny_labels, epochs=2)
    uniform, _, _, class_aware = (short.method(row) for row in short.rows(2)[:4])
    assert uniform.options["optim"] == {"epochs": 20}
    assert class_aware.options["optim"] == {"epochs": 2}
    assert shortened(2).warmup_steps == 125
    assert shortened(None) == OptimConfig(**PUBLISHED)


def test_the_recipe_departs_from_nothing(tiny_labels: Path) -> None:
    whole = experiment(tiny_labels, shared=TrainConfig(data="a.csv", output="b", root="c", train_split="train_lt"))
    assert whole.departures() == []
    changed = replace(whole.shared, precision="bf16", model=ModelConfig(weights=Path("/somewhere/weights.bin")))
    assert replace(whole, shared=changed).departures() == [
        "--weights weights.bin (recipe: none)",
        "--precision bf16 (recipe: fp32)",
    ]


def test_tables_with_the_graph_head_say_what_its_label_embeddings_are(tiny_labels: Path) -> None:
    said = {}
    for file in (None, Path("/vectors/glove.txt")):
        shared = TrainConfig(data="a.csv", output="b", model=ModelConfig(label_embeddings=file))
        whole = experiment(tiny_labels, shared=shared)
        assert whole.departures() == []
        for number in (2, 3):
            found = {method.name: result_of(method.name, {"total": [1.0]}) for method in whole.methods(number)}
            notes = results_table(whole, number, found).notes
            said[file, number] = [note for note in notes if "ML-GCN" in note]
    assert said == {
        (None, 2): ["Label embeddings of ML-GCN: random orthogonal vectors of each run's seed."],
        (Path("/vectors/glove.txt"), 2): ["Label embeddings of ML-GCN: those of glove.txt."],
        (None, 3): [],
        (Path("/vectors/glove.txt"), 3): [],
    }


def test_a_method_with_two_published_rows_has_one_on_other_data(tiny_labels: Path) -> None:
    here = [row.label for row in experiment(tiny_labels).rows(2)]
    there = [row.label for row in experiment(tiny_labels, is_published=True).rows(2)]
    assert here == ["ERM", "RW", "Focal", "RS", "ML-GCN", "LDAM", "CB Focal", "ASL", "DB Focal", "PG"]
    assert there == [*here[:-1], *here[-2:]]


def test_the_command_names_the_figures_and_tables_there_are() -> None:
    assert get_args(FigureName) == (*FIGURES, "all")
    assert TABLES == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("photos --table 7", r"--table: expected one of 2, 3, 4, 5, 'all', null, got 7"),
        ("photos --figure pg-9", r"--figure: expected one of .*'pg-5', 'all', null, got pg-9"),
        ("photos --seeds 0", "--seeds must be at least 1 and at most 1000, got 0"),
        ("photos --workers -1", "--workers must be at least 1 and at most 1000, got -1"),
        ("photos --workers 0", "--workers must be at least 1 and at most 1000, got 0"),
        ("photos --seeds 1000000000000000000000000000000", "--seeds must be at least 1 and at most 1000, got"),
        ("photos --epochs 1000000000000000000000000000000", "--epochs must be at least 1 and at most 1000, got"),
        ("photos --losses []", "--losses names no loss"),
        ("photos --num-max 0", "--num-max must be at least 1, got 0"),
        ("photos --epochs 0", "--epochs must be at least 1 and at most 1000, got 0"),
        ("photos --data {folder}/none.csv --table 3", "cannot read .*none.csv"),
        ("photos --no-download", "--download does not apply to photos: only voc-mlt and coco-mlt take it"),
        ("photos --lists x", "--lists does not apply to photos"),
        ("voc-mlt --table 3", "--root is needed: the folder of the images of voc-mlt, which are downloaded into it"),
        ("coco-mlt", "--root is needed"),
        ("voc-mlt --root x --data y.csv", "--data does not apply to voc-mlt: the data .* are published"),
        ("voc-mlt --root x --separator ;", "--separator does not apply to voc-mlt"),
        ("voc-mlt --root {folder}/x --no-download", "is missing, and nothing may be downloaded"),
        ("imagenet", "expected one of 'voc-mlt', 'coco-mlt', 'photos'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(
    cli: Callable[[str], Outcome], tmp_path: Path, options: str, message: str
) -> None:
    code, _, err = cli(f"reproduce {options.format(folder=tmp_path)} --output {tmp_path / 'out'} --quiet")
    assert code == 2
    assert re.search(message, " ".join(err.split())), err


def test_output_that_cannot_be_made_is_refused(cli: Callable[[str], Outcome], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = cli(f"reproduce photos --output {tmp_path / 'file' / 'out'}")
    assert (code, "cannot be made" in err) == (2, True)


def _focal_gradient(z: np.ndarray) -> np.ndarray:
    """Derivative of 2 p² log(1 + eᶻ) with p = σ(z)."""
    p = 1 / (1 + np.exp(-z))
    return 2 * (2 * p * p * (1 - p) * np.log1p(np.exp(z)) + p**3)
