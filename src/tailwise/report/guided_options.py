"""Options that carry out advice on PG's factors, for a run's own loss."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tailwise.labels import LabelStats
from tailwise.losses import RECIPES, FormulaLoss, Loss, create
from tailwise.report.guide import Advice
from tailwise.training.config import TrainConfig

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
        advice: what to move.

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
