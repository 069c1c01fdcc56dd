"""The papers' figures: which runs, counts and losses each is drawn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pareto

from tailwise.experiments.reproduction import Experiment
from tailwise.labels import LabelStats
from tailwise.losses import create
from tailwise.metrics import ProbabilityCurves
from tailwise.report.paper_figures import FIGURES, gradient_on_negatives
from tailwise.training.config import TrainConfig
from tests.experiments.given import result_of
from tests.formats import read_csv

TABLE_2 = ["ERM", "RW", "Focal", "RS", "ML-GCN", "LDAM", "CB Focal", "ASL", "DB Focal", "PG"]
METHODS_2 = [
    *("bce@uniform", "rw@uniform", "focal@uniform", "bce", "ml-gcn@uniform", "ldam@uniform", "cb-focal@uniform"),
    *("asl@uniform", "db-focal", "pg"),
]
# Figure, data set, titles of the panels, and the methods whose runs they show.
PANELS = [
    ("pg-1", "voc-mlt", TABLE_2, METHODS_2),
    ("pg-1", "coco-mlt", TABLE_2, METHODS_2),
    ("pg-3", "voc-mlt", ["DB", "λ₁⁻+", "λ₂⁺+", "λ₁⁻+ λ₂⁺+"], ["db", "pr-neg_slope", "pr-pos_divisor", "pr"]),
    ("pg-3", "coco-mlt", ["DB", "λ₁⁻+", "λ₁⁺+", "λ₁⁻+ λ₁⁺+"], ["db", "pr-neg_slope", "pr-pos_slope", "pr"]),
    ("pg-4", "voc-mlt", ["FF", "AF", "FA", "AA"], ["pg-ff", "pg", "pg-fa", "pg-aa"]),
    ("pg-4", "coco-mlt", ["FF", "AF", "FA", "AA"], ["pg-ff", "pg", "pg-fa", "pg-aa"]),
    ("pg-5", "voc-mlt", ["Focal", "APAF", "APR+Focal", "APR+APAF"], ["focal", "apaf", "apr-focal", "pg"]),
    ("pg-5", "coco-mlt", ["Focal", "APAF", "APR+Focal", "APR+APAF"], ["focal", "apaf", "apr-focal", "pg"]),
]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Labels with three classes of the tail, of 3, 5 and 9 training images of 60."""
    counts = {"head": 40, "middle": 15, "rare": 3, "rarer": 5, "rarest": 9}
    lines = ["image,split,labels"]
    for row in range(60):
        shown = [name for name, count in counts.items() if row < count]
        lines.append(f"{row}.jpg,train,{'|'.join(shown)}")
    lines += ["t.jpg,test,head", "u.jpg,,head|middle"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "labels.csv"


def experiment(labels: Path, **changes: object) -> Experiment:
    recipe = changes.get("recipe", "voc-mlt")
    shared = TrainConfig(data=str(labels), output=str(labels.parent), recipe=recipe, thresholds=(10, 20))  # type: ignore[arg-type]
    options: dict = {
        "data_name": "tiny",
        "recipe": recipe,
        "is_published": False,
        "shared": shared,
        "seeds": (0, 1),
        "workers": 1,
        "epochs": None,
        "pool": lambda: read_csv(labels),
        "num_max": 30,
        "losses": ("bce",),
    }
    return Experiment(**{**options, **changes})


def curves(probability: float) -> ProbabilityCurves:
    """Positives with this probability and negatives with half of it, at two steps."""
    ones = np.ones((2, 1), dtype=np.float32)
    sums = (ones * probability, ones * probability / 2)
    return ProbabilityCurves(np.array([5, 9]), sums[0], ones, sums[1], ones, ("cat",), {"tail": np.array([0])})


@pytest.mark.parametrize("is_published", [False, True])
@pytest.mark.parametrize(("name", "recipe", "titles", "methods"), PANELS)
def test_panels_show_the_runs_of_the_rows_of_their_table(
    labels: Path, name: str, recipe: str, titles: list[str], methods: list[str], is_published: bool
) -> None:
    tiny = experiment(labels, recipe=recipe, is_published=is_published)
    needed = FIGURES[name].methods(tiny)
    assert list(dict.fromkeys(method.name for method in needed)) == methods
    for place, method in enumerate(methods):
        for seed in (0, 1):
            folder = labels.parent / "runs" / method / f"seed{seed}"
            folder.mkdir(parents=True)
            curves((place + 1) / 20 + seed / 100).save(folder / "curves.npz")
    drawn = FIGURES[name].draw(tiny, {})
    panels = [axes for axes in drawn.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == titles
    for place, axes in enumerate(panels):
        mean = (place + 1) / 20 + 0.005  # of the two runs
        shown = {line.get_linestyle(): line.get_ydata().tolist() for line in axes.lines}
        assert shown["-"] == pytest.approx([mean] * 2, rel=1e-5)
        assert shown[":"] == pytest.approx([mean / 2] * 2, rel=1e-5)


def test_reference_curves_are_those_of_the_pareto_distribution(labels: Path) -> None:
    (axes,) = FIGURES["db-1a"].draw(experiment(labels), {}).axes
    assert [line.get_label() for line in axes.lines] == [f"b = {shape}" for shape in (1, 2, 4, 6, 8, 12)]
    for line, shape in zip(axes.lines, (1, 2, 4, 6, 8, 12), strict=True):
        x = np.linspace(pareto.ppf(0, shape), pareto.ppf(0.99, shape), 5)
        expected = np.floor(pareto.pdf(x, shape) * (30 - 1) / shape + 1)
        assert line.get_ydata().tolist() == expected.tolist()
    assert [line.get_label() for line in axes.lines if line.get_linewidth() == 2] == ["b = 6"]


SWEPT = {"db-3a": ("mu", (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)), "db-3b": ("kappa", (0, 0.025, 0.05, 0.1, 0.2, 0.4))}


@pytest.mark.parametrize("recipe", ["voc-mlt", "coco-mlt"])
@pytest.mark.parametrize("name", SWEPT)
def test_sweeps_show_each_value_and_mark_the_recipe_s(labels: Path, name: str, recipe: str) -> None:
    option, values = SWEPT[name]
    own = {"mu": {"voc-mlt": 0.3, "coco-mlt": 0.2}[recipe], "kappa": 0.05}[option]
    tiny = experiment(labels, recipe=recipe, epochs=3)
    methods = FIGURES[name].methods(tiny)
    names = ["db-focal" if value == own else f"db-focal,{option}={value:g}" for value in values]
    assert [method.name for method in methods] == names
    for method, value in zip(methods, values, strict=True):
        assert method.options.get("loss_options", {option: own}) == {option: value}
        assert method.options["optim"] == {"epochs": 3}
    found = {n: result_of(n, {"total": [10.0 + i, 12.0 + i]}) for i, n in enumerate(names)}
    (axes,) = FIGURES[name].draw(tiny, found).axes
    assert axes.lines[0].get_xydata().tolist() == [[value, 11.0 + i] for i, value in enumerate(values)]
    assert axes.lines[-1].get_xdata() == [own, own]


def test_the_class_of_the_gradients_is_the_median_of_the_tail(labels: Path) -> None:
    logits = torch.linspace(-8, 8, 321, dtype=torch.float64)
    for thresholds, count in (((10, 20), 5), ((6, 20), 5), ((4, 20), 3), ((1, 2), 3)):
        shared = TrainConfig(data=str(labels), output="x", recipe="voc-mlt", thresholds=thresholds)
        tiny = experiment(labels, shared=shared)
        found = gradient_on_negatives("ntr", tiny)
        assert found.logits.tolist() == pytest.approx(logits.tolist())
        shift = 0.05 / 5 * np.log(60 / count - 1)
        expected = torch.sigmoid(5 * (logits - shift))
        np.testing.assert_allclose(found.gradient, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(("counts", "count"), [((1,), 1), ((0, 0), 1), ((40, 30), 30)])
def test_a_class_of_one_image_is_of_one_and_without_a_tail_the_rarest_counts(
    tmp_path: Path, counts: tuple[int, ...], count: int
) -> None:
    names = [f"class{k}" for k in range(len(counts))]
    rows = [f"{i}.jpg,train,{'|'.join(n for n, c in zip(names, counts, strict=True) if i < c)}" for i in range(60)]
    path = tmp_path / "few.csv"
    path.write_text("\n".join(["image,split,labels", *rows, f"t.jpg,test,{'|'.join(names)}"]))
    found = gradient_on_negatives("ntr", experiment(path))
    shift = 0.05 / 5 * np.log(60 / count - 1)
    np.testing.assert_allclose(found.gradient, 1 / (1 + np.exp(-5 * (found.logits - shift))), atol=1e-6)


def test_gradients_are_sums_and_not_means(labels: Path) -> None:
    stats = LabelStats([5], 60, thresholds=(10, 20))
    z = torch.tensor([[1.5]], dtype=torch.float64, requires_grad=True)
    create("bce", stats, reduction="sum")(z, torch.zeros(1, 1, dtype=torch.int8)).backward()
    found = gradient_on_negatives("bce", experiment(labels))
    at = int(np.argmin(np.abs(found.logits - 1.5)))
    assert found.gradient[at] == pytest.approx(z.grad.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "label"),
    [("bce", "BCE"), ("focal", "Focal"), ("db-focal", "DB-Focal"), ("ldam", "LDAM"), ("r-bce", "R-BCE"), ("pg", "PG")],
)
def test_losses_are_written_as_texts_write_them(labels: Path, name: str, label: str) -> None:
    assert gradient_on_negatives(name, experiment(labels)).label == label


def test_all_figures_have_a_name() -> None:
    assert list(FIGURES) == ["db-1a", "db-1b", "db-2", "db-3a", "db-3b", "pg-1", "pg-2", "pg-3", "pg-4", "pg-5"]
    for name, described in (("db-3a", "against μ"), ("db-3b", "against κ"), ("pg-1", "Table 2"), ("pg-5", "focal")):
        assert described in FIGURES[name].caption
