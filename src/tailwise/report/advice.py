"""Advice on PG's factors from the probability curves of a run, and training options that follow it.

The rules compare odds, p/(1 − p): a factor between two odds means the same for small and for large probabilities, and
does not depend on how many classes or images there are. docs/guide.md gives the reasons for the thresholds.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tailwise.labels import LabelStats
from tailwise.losses import RECIPES, FormulaLoss, Loss, create
from tailwise.losses.guidance import FactorName
from tailwise.metrics import ProbabilityCurves
from tailwise.training.config import TrainConfig

OTHERS = 1.5
"""Factor between a group's odds, or its gap, and those of the other groups from which on they differ."""
RISE = 1.25
"""Factor by which the odds of negatives grow during training from which on they rise."""
NARROW = 2.0
"""Odds of positives over odds of negatives below which positives and negatives of a group are hardly separated."""
SHARE = 0.1
"""Start, middle and end of a training are each this share of its steps."""

STEP = 1.5
"""A factor that is raised is multiplied by this, one that is lowered divided."""

_FIXED: dict[str, Any] = {"adaptive": [], "exponent": "fixed"}
_PLAIN: dict[str, Any] = {"rebalance": False, "neg_scale": 1.0, "kappa": 0.0}
# Losses without factors of their own, as the same loss that has them.
_WITH_FACTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "bce": ("pr", _PLAIN),
    "focal": ("pg", _PLAIN | _FIXED),
    "apaf": ("pg", _PLAIN | {"adaptive": []}),
    "r-bce": ("pr", {"neg_scale": 1.0, "kappa": 0.0}),
    "ntr": ("pr", {"rebalance": False}),
    "db": ("pr", {}),
    "db-focal": ("pg", _FIXED),
    "pr": ("pr", {}),
    "pg": ("pg", {}),
    "formula": ("formula", {}),
}
Direction: TypeAlias = Literal["raise", "lower"]
_EFFECTS: dict[tuple[FactorName, Direction], str] = {
    ("neg_slope", "raise"): "both lower",
    ("neg_slope", "lower"): "both higher",
    ("neg_divisor", "raise"): "positives higher, negatives lower",
    ("pos_slope", "raise"): "positives higher, negatives lower",
    ("pos_divisor", "raise"): "positives lower, negatives higher",
}
_FEWEST_POINTS = 3
_EPSILON = 1e-6


@dataclass(frozen=True)
class Window:
    """Mean probabilities of a group over a part of the training.

    Attributes:
        positive: mean over the classes of the mean probability of positive pairs; NaN without any.
        negative: likewise of negative pairs.
        predicted: predicted positives per positive: the sum of all probabilities over the number of positive pairs. It
            is 1 where probabilities agree with how often the sampler draws the classes.
    """

    positive: float
    negative: float
    predicted: float

    @property
    def gap(self) -> float:
        """Odds of positives over odds of negatives."""
        return odds(self.positive) / odds(self.negative)


@dataclass(frozen=True)
class GroupCourse:
    """A group at the start, in the middle and at the end of a training."""

    group: str
    num_classes: int
    start: Window
    middle: Window
    end: Window


@dataclass(frozen=True)
class Advice:
    """One finding, and the factor that changes it.

    Attributes:
        group: of which classes.
        finding: a sentence on the curves.
        factor: the factor to move.
        direction: where to.
    """

    group: str
    finding: str
    factor: FactorName
    direction: Direction

    @property
    def effect(self) -> str:
        """Effect on the probabilities, by Table 1 of the PG paper."""
        return _EFFECTS[self.factor, self.direction]


def odds(probability: float) -> float:
    """p/(1 − p), with p kept off 0 and 1."""
    p = min(max(probability, _EPSILON), 1 - _EPSILON) if not math.isnan(probability) else probability
    return p / (1 - p)


def courses(curves: ProbabilityCurves) -> list[GroupCourse]:
    """Start, middle and end of each group that has classes.

    Raises:
        ValueError: the curves have fewer than 3 points.
    """
    if len(curves.steps) < _FEWEST_POINTS:
        raise ValueError(f"the curves have {len(curves.steps)} points, and {_FEWEST_POINTS} are needed")
    last = float(curves.steps[-1])
    # A point covers the steps since the previous one.
    center = (curves.steps + np.concatenate([[0], curves.steps[:-1]])) / 2 / last
    parts = {
        "start": center <= max(SHARE, center[0]),
        "middle": np.abs(center - 0.5) <= max(SHARE / 2, np.abs(center - 0.5).min()),
        "end": center >= min(1 - SHARE, center[-1]),
    }
    return [
        GroupCourse(group, len(members), **{part: _window(curves, points, members) for part, points in parts.items()})
        for group, members in curves.groups.items()
        if len(members)
    ]


def advise(groups: Sequence[GroupCourse]) -> list[Advice]:
    """Apply the rules to every group; at most one piece of advice for each factor of a group, the first that holds."""
    advice: dict[tuple[str, FactorName], Advice] = {}
    for course in groups:
        others = [other for other in groups if other.group != course.group]
        for found in (*_by_probability(course, others), *_by_gap(course, others)):
            advice.setdefault((found.group, found.factor), found)
    return list(advice.values())


def _by_probability(course: GroupCourse, others: Sequence[GroupCourse]) -> Iterator[Advice]:
    """Positives that rise faster or slower than those of other groups; negatives that rise, or stay high."""
    group = course.group
    fast = _against(odds(course.middle.positive), [odds(other.middle.positive) for other in others])
    high = _against(odds(course.end.negative), [odds(other.end.negative) for other in others])
    rise = odds(course.end.negative) / odds(course.start.negative)
    if fast >= OTHERS and course.end.gap >= NARROW:
        text = f"positives of {group} classes rise too fast: half-way, their odds are {fast:.1f} times those of others"
        yield Advice(group, text, "pos_divisor", "raise")
    if rise >= RISE:
        text = (
            f"negatives of {group} classes rise, from {course.start.negative:.3f} to {course.end.negative:.3f}; "
            f"{course.end.predicted:.1f} positives are predicted for each there is"
        )
        yield Advice(group, text, "neg_slope", "raise")
    elif high >= OTHERS:
        text = (
            f"negatives of {group} classes stay high: at the end, their odds are {high:.1f} times those of others; "
            f"{course.end.predicted:.1f} positives are predicted for each there is"
        )
        yield Advice(group, text, "neg_slope", "raise")
    elif fast >= OTHERS and course.end.gap < NARROW:
        text = f"all probabilities of {group} classes rise: half-way, odds of positives are {fast:.1f} times others'"
        yield Advice(group, text, "neg_slope", "raise")
    elif fast <= 1 / OTHERS and high <= 1 / OTHERS:
        text = f"{group} classes are too low: odds of positives {fast:.2f} and of negatives {high:.2f} times others'"
        yield Advice(group, text, "neg_slope", "lower")
    elif fast <= 1 / OTHERS:
        text = f"positives of {group} classes rise slowly: half-way, their odds are {fast:.2f} times those of others"
        yield Advice(group, text, "neg_divisor", "raise")


def _by_gap(course: GroupCourse, others: Sequence[GroupCourse]) -> Iterator[Advice]:
    """Positives and negatives that are further apart than in other groups, or hardly apart."""
    group, gap = course.group, course.end.gap
    log_gaps = [math.log(other.end.gap) for other in others if other.end.gap > 1]
    wide = _against(math.log(gap), log_gaps) if gap > 1 else math.nan
    if gap < NARROW:
        text = (
            f"positives and negatives of {group} classes are hardly apart: their odds differ by a factor of {gap:.2f}"
        )
        yield Advice(group, text, "pos_slope", "raise")
    elif wide >= OTHERS:
        text = (
            f"the gap of {group} classes is wide: the odds of positives and negatives differ by a factor of {gap:.1f}, "
            f"those of others by {math.exp(float(np.mean(log_gaps))):.1f}"
        )
        yield Advice(group, text, "pos_divisor", "raise")


def _against(own: float, others: Sequence[float]) -> float:
    """Own value over the geometric mean of those of the other groups; NaN, which no rule holds for, without others."""
    known = [value for value in others if value > 0]
    return own / math.exp(float(np.mean(np.log(known)))) if known else math.nan


def _window(curves: ProbabilityCurves, points: NDArray[np.bool_], members: NDArray[np.intp]) -> Window:
    def total(series: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(series[points][:, members].sum(0, dtype=np.float64))

    positive_sum, positives = total(curves.positive_sum), total(curves.positive_count)
    negative_sum, negatives = total(curves.negative_sum), total(curves.negative_count)
    return Window(
        _mean(positive_sum, positives),
        _mean(negative_sum, negatives),
        float((positive_sum + negative_sum).sum() / positives.sum()) if positives.sum() else math.nan,
    )


def _mean(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    has = counts > 0
    return float(np.mean(sums[has] / counts[has])) if has.any() else math.nan


def with_factors(config: TrainConfig) -> tuple[str, dict[str, Any]] | None:
    """Name and options of the loss of a run as one whose factors can be set; None where there is no such loss."""
    if config.loss not in _WITH_FACTORS:
        return None
    published = RECIPES[config.recipe].get(config.loss, {}) if config.recipe is not None else {}
    name, defaults = _WITH_FACTORS[config.loss]
    options: dict[str, Any] = {**defaults, **published, **config.loss_options}
    if "gamma" in options:
        plain = {"balance": 1.0 if name == "pr" else 2.0}
        name, options = "pg", plain | _FIXED | {"base_exponent": options.pop("gamma")} | options
    return name, options


def options_to_paste(config: TrainConfig, stats: LabelStats, advice: Sequence[Advice]) -> str | None:
    """Options of ``tailwise train`` that move the factors as advised, and change nothing else.

    Args:
        config: the run that the advice is about.
        stats: statistics of its training labels.
        advice: the factors to move.

    Returns:
        ``--recipe null --loss ... --loss-options ...``, or None where the loss of the run has no factors.
    """
    if (found := with_factors(config)) is None:
        return None
    name, options = found
    for factor in dict.fromkeys(item.factor for item in advice):
        values = _values(create(name, stats, **options), factor, stats)
        for item in advice:
            if item.factor == factor:
                values[stats.groups[item.group]] *= STEP if item.direction == "raise" else 1 / STEP
        without = {option: value for option, value in options.items() if option != factor}
        base = _values(create(name, stats, **without), factor, stats)
        options[factor] = _shortest(values, base, stats)
    text = json.dumps(options, default=list)
    # The recipe's own options are among these already.
    return f"--recipe null --loss {name} --loss-options {shlex.quote(text)}"


def _values(loss: Loss, factor: str, stats: LabelStats) -> np.ndarray:
    """(K,) values of a factor."""
    assert isinstance(loss, FormulaLoss)
    side, field = factor.split("_")
    value = getattr(loss.side("positive" if side == "pos" else "negative"), field)
    return np.full(stats.num_classes, value.numpy() if isinstance(value, Tensor) else value, dtype=np.float64)


def _shortest(values: np.ndarray, base: np.ndarray, stats: LabelStats) -> float | dict[str, float] | list[float]:
    """The values as one number, as ``{group: value}`` of the groups that differ from the base, or as a list."""
    rounded = np.round(values, 4)
    if (rounded == rounded[0]).all():
        return float(rounded[0])
    members = {group: index for group, index in stats.groups.items() if len(index)}
    if any((rounded[index] != rounded[index[0]]).any() for index in members.values()):
        return [float(value) for value in rounded]
    return {
        group: float(rounded[index[0]])
        for group, index in members.items()
        if not np.allclose(rounded[index], base[index])
    }
