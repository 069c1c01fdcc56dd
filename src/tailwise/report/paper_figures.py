"""The papers' figures by name, drawn from recorded runs, from labels, or from a loss.

``db-*`` are of the supplement of Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed
Datasets", ECCV 2020; ``pg-*`` of Lin, "Probability Guided Loss for Long-Tailed Multi-Label Image Classification", AAAI
2023. Its figures 1, 3, 4 and 5 have a panel for each row of Tables 2, 3, 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from tailwise import losses
from tailwise.data.long_tail import build_long_tail, reference_counts
from tailwise.data.reading import read
from tailwise.errors import InputError
from tailwise.experiments.methods import METHODS, Method
from tailwise.experiments.published import GROUPS
from tailwise.experiments.reproduction import Experiment
from tailwise.experiments.results import MethodResult
from tailwise.labels import LabelStats
from tailwise.losses import RECIPES
from tailwise.metrics.curves import ProbabilityCurves
from tailwise.report import figures as drawing
from tailwise.report.figures import CurvePanel, GradientCurve
from tailwise.training.folder import CURVES_FILE

PARETO_SHAPES = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0)
PUBLISHED_SHAPE = 6.0
_SWEPT_LOSS = "db-focal"
_LOGITS = np.linspace(-8, 8, 321)


@dataclass(frozen=True)
class Sweep:
    """An option of DB-Focal, the values it is given, and the one it has where the recipe is silent."""

    option: str
    symbol: str
    values: tuple[float, ...]
    default: float

    def recipe_value(self, experiment: Experiment) -> float:
        """The value in the experiment's recipe."""
        value: float = RECIPES[experiment.recipe][_SWEPT_LOSS].get(self.option, self.default)
        return value

    def methods(self, experiment: Experiment) -> dict[float, Method]:
        """A method for each value; the recipe's own value is the plain method, whose runs tables have as well."""
        plain = METHODS[_SWEPT_LOSS]
        found = {}
        for value in sorted({*self.values, self.recipe_value(experiment)}):
            changed = plain.tried({"loss_options": {self.option: value}})
            other = replace(changed, name=f"{plain.name},{self.option}={value:g}")
            found[value] = experiment.scheduled(plain if value == self.recipe_value(experiment) else other)
        return found


MU = Sweep("mu", "μ", (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9), default=0.2)
KAPPA = Sweep("kappa", "κ", (0.0, 0.025, 0.05, 0.1, 0.2, 0.4), default=0.05)


@dataclass(frozen=True)
class PaperFigure:
    """A figure of a paper.

    Attributes:
        caption: what it shows.
        draw: draws it from the experiment and the results of its methods by name.
        methods: the methods it needs.
    """

    caption: str
    draw: Callable[[Experiment, Mapping[str, MethodResult]], Figure]
    methods: Callable[[Experiment], list[Method]] = lambda _experiment: []


def gradient_on_negatives(name: str, experiment: Experiment) -> GradientCurve:
    """The gradient of a loss on a negative label of a tail class, by the loss's own backward pass.

    The class is the median one of the tail, or the rarest where there is no tail. It is the only class, in samples
    without any positive: rebalanced weights are then α + 1, and the ratio that guides PG is 1.

    Raises:
        InputError: there is no such loss.
    """
    train = read(experiment.shared.data, experiment.shared).select(experiment.shared.train_split)
    stats = train.stats(experiment.shared.thresholds)
    tail = np.sort(stats.class_counts[stats.groups["tail"]])
    count = tail[len(tail) // 2] if len(tail) else stats.class_counts.min()
    alone = LabelStats([max(int(count), 1)], stats.num_samples, thresholds=experiment.shared.thresholds)
    try:
        loss = losses.create(name, alone, experiment.recipe, reduction="sum")
    except ValueError as error:
        raise InputError(f"--losses: {error}") from error
    logits = torch.from_numpy(_LOGITS)[:, None].requires_grad_()
    loss(logits, torch.zeros(logits.shape, dtype=torch.int8)).backward()
    assert logits.grad is not None
    return GradientCurve(_written(name), _LOGITS, logits.grad[:, 0].numpy())


def _reference_curves(experiment: Experiment, _: Mapping[str, MethodResult]) -> Figure:
    num_classes = len(read(experiment.shared.data, experiment.shared).class_names)
    counts = {
        shape: reference_counts(num_classes, num_max=experiment.num_max, pareto_b=shape) for shape in PARETO_SHAPES
    }
    return drawing.reference_curves(counts, PUBLISHED_SHAPE)


def _construction(experiment: Experiment, _: Mapping[str, MethodResult]) -> Figure:
    pool = experiment.pool()
    subset = build_long_tail(
        pool.targets, pool.class_names, num_max=experiment.num_max, pareto_b=PUBLISHED_SHAPE, seed=0
    )
    return drawing.construction(subset.history, subset.order, subset.reference, pool.class_names)


def _test_counts(experiment: Experiment, _: Mapping[str, MethodResult]) -> Figure:
    shared = experiment.shared
    labels = read(shared.data, shared)
    train = labels.select(shared.train_split).stats(shared.thresholds)
    test = labels.select(shared.test_split).stats(shared.thresholds)
    return drawing.test_counts(train.class_counts, test.class_counts, train.groups, train.class_names)


def _sweep(sweep: Sweep, experiment: Experiment, found: Mapping[str, MethodResult]) -> Figure:
    tests = {value: found[method.name].test for value, method in sweep.methods(experiment).items()}
    scores = {value: test.by_run for value, test in tests.items() if test is not None}
    return drawing.sweep(sweep.symbol, scores, sweep.recipe_value(experiment), GROUPS)


def _probabilities(number: int, experiment: Experiment, _: Mapping[str, MethodResult]) -> Figure:
    # A method with two published rows has one panel.
    labels = {row.method.name: row.label for row in reversed(experiment.rows(number))}
    methods = {method.name: method for method in experiment.methods(number)}
    panels = [
        CurvePanel(
            labels[name],
            [_recorded_curves(experiment.folder(method, seed)) for seed in experiment.seeds],
        )
        for name, method in methods.items()
    ]
    return drawing.probability_panels(panels)


def _recorded_curves(run: Path) -> ProbabilityCurves:
    try:
        return ProbabilityCurves.load(run / CURVES_FILE)
    except (OSError, ValueError) as error:
        raise InputError(f"{run} has no probability curves ({error}); remove it to repeat the run") from error


def _gradients(experiment: Experiment, _: Mapping[str, MethodResult]) -> Figure:
    return drawing.negative_gradients([gradient_on_negatives(name, experiment) for name in experiment.losses])


def _written(name: str) -> str:
    """A loss's name as texts write it: abbreviations in capitals."""
    return "-".join(part.title() if len(part) > 4 else part.upper() for part in name.split("-"))


def sweep_figure(sweep: Sweep) -> PaperFigure:
    """The figure of mAP against an option."""
    return PaperFigure(
        f"mAP of DB-Focal against {sweep.symbol}",
        partial(_sweep, sweep),
        lambda experiment: list(sweep.methods(experiment).values()),
    )


def _curves(number: int, caption: str) -> PaperFigure:
    return PaperFigure(
        f"Mean predicted probability of positives (solid) and negatives (dotted) during training, by group: {caption}",
        partial(_probabilities, number),
        lambda experiment: experiment.methods(number),
    )


FIGURES: dict[str, PaperFigure] = {
    "db-1a": PaperFigure("Wanted positives per class for several shapes of the Pareto distribution", _reference_curves),
    "db-1b": PaperFigure("Positives per class after each step of the construction of the subset", _construction),
    "db-2": PaperFigure("Test positives per class, in the order of training positives", _test_counts),
    "db-3a": sweep_figure(MU),
    "db-3b": sweep_figure(KAPPA),
    "pg-1": _curves(2, "the methods of Table 2"),
    "pg-2": PaperFigure("Gradient on a negative label of a tail class against its logit", _gradients),
    "pg-3": _curves(3, "raised factors of PR"),
    "pg-4": _curves(4, "fixed (F) and adaptive (A) factors of PG"),
    "pg-5": _curves(5, "focal exponents, with and without APR"),
}
"""The figures by name."""
