"""Losses by name, with the options that the papers published."""

from __future__ import annotations

import inspect
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

from tailwise.labels import LabelStats, require_stats
from tailwise.losses import named
from tailwise.losses.base import MultiLabelLoss
from tailwise.losses.formula import FormulaLoss
from tailwise.losses.steered import ProbabilitySteeredLoss
from tailwise.spelling import near

RecipeName: TypeAlias = Literal["voc-mlt", "coco-mlt"]

_LOSSES: dict[str, type[MultiLabelLoss]] = {
    "bce": named.BCELoss,
    "rw": named.ReweightedLoss,
    "focal": named.FocalLoss,
    "cb-focal": named.ClassBalancedFocalLoss,
    "ldam": named.LDAMLoss,
    "asl": named.AsymmetricLoss,
    "r-bce": named.RebalancedBCELoss,
    "ntr": named.NegativeTolerantLoss,
    "db": named.DistributionBalancedLoss,
    "db-focal": named.DistributionBalancedFocalLoss,
    "pr": named.ProbabilityRebalancedLoss,
    "apaf": named.AdaptiveFocalLoss,
    "pg": named.ProbabilityGuidedLoss,
    "pg-auto": ProbabilitySteeredLoss,
    "formula": FormulaLoss,
}

# α, β, κ, γ and c are the defaults of the classes: both data sets share them.
_VOC_MLT_WEIGHTS: dict[str, Any] = {"mu": 0.3}
_VOC_MLT_REGULARIZATION: dict[str, Any] = {"neg_scale": 5.0}
_COCO_MLT_WEIGHTS: dict[str, Any] = {"mu": 0.2}
_COCO_MLT_REGULARIZATION: dict[str, Any] = {"neg_scale": 2.0}
# Which factors PG raises is published, how far is not: these values are ours (docs/losses.md).
_VOC_MLT_FACTORS: dict[str, Any] = {"neg_slope": {"tail": 6.0}, "pos_divisor": {"tail": 1.5}}
_COCO_MLT_FACTORS: dict[str, Any] = {"neg_slope": 4.0, "pos_slope": 2.0}

RECIPES: dict[RecipeName, dict[str, dict[str, Any]]] = {
    "voc-mlt": {
        "cb-focal": {"beta": 0.99, "loss_weight": 10.0},
        "r-bce": _VOC_MLT_WEIGHTS,
        "ntr": _VOC_MLT_REGULARIZATION,
        "db": _VOC_MLT_WEIGHTS | _VOC_MLT_REGULARIZATION,
        "db-focal": _VOC_MLT_WEIGHTS | _VOC_MLT_REGULARIZATION,
        "pr": _VOC_MLT_WEIGHTS | _VOC_MLT_REGULARIZATION | _VOC_MLT_FACTORS,
        "pg": _VOC_MLT_WEIGHTS | _VOC_MLT_REGULARIZATION | _VOC_MLT_FACTORS | {"adaptive": ("neg_slope",)},
        "pg-auto": _VOC_MLT_WEIGHTS,
    },
    "coco-mlt": {
        "cb-focal": {"beta": 0.9, "loss_weight": 10.0},
        "r-bce": _COCO_MLT_WEIGHTS,
        "ntr": _COCO_MLT_REGULARIZATION,
        "db": _COCO_MLT_WEIGHTS | _COCO_MLT_REGULARIZATION,
        "db-focal": _COCO_MLT_WEIGHTS | _COCO_MLT_REGULARIZATION,
        "pr": _COCO_MLT_WEIGHTS | _COCO_MLT_REGULARIZATION | _COCO_MLT_FACTORS,
        "pg": _COCO_MLT_WEIGHTS | _COCO_MLT_REGULARIZATION | _COCO_MLT_FACTORS | {"adaptive": ("neg_slope",)},
        "pg-auto": _COCO_MLT_WEIGHTS,
    },
}
"""Options by data set and loss, as published for VOC-MLT and COCO-MLT; a loss without an entry keeps its defaults."""


def available() -> tuple[str, ...]:
    """Names that :func:`create` knows."""
    return tuple(_LOSSES)


def option_names(name: str) -> tuple[str, ...]:
    """Options that the loss ``name`` takes."""
    constructor = _loss_class(name).__init__
    hints = get_type_hints(constructor)
    names: list[str] = []
    for parameter in inspect.signature(constructor).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            names.append(parameter.name)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            (options,) = get_args(hints[parameter.name])
            names.extend(get_type_hints(options))
    return tuple(names)


def create(name: str, stats: LabelStats, recipe: RecipeName | None = None, **options: Any) -> MultiLabelLoss:
    """Make a loss by name.

    Args:
        name: one of :func:`available`.
        stats: statistics of the training labels.
        recipe: take the options published for ``"voc-mlt"`` or ``"coco-mlt"``; explicit options win.
        options: options of the loss.

    Raises:
        ValueError: ``stats`` is no LabelStats, an unknown name, recipe or option (the near ones are offered), or an
            option out of its range.
    """
    loss_class = _loss_class(name)
    require_stats(stats)
    if recipe is not None and recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}; there are {', '.join(RECIPES)}")
    known = option_names(name)
    for option in options:
        if option not in known:
            raise ValueError(
                f"loss {name!r} has no option {option!r}{near(option, known)}; it takes {', '.join(known)}"
            )
    published = RECIPES[recipe].get(name, {}) if recipe is not None else {}
    return loss_class(stats, **(published | options))


def _loss_class(name: str) -> type[MultiLabelLoss]:
    if name not in _LOSSES:
        raise ValueError(f"unknown loss {name!r}{near(name, available())}; there are {', '.join(available())}")
    return _LOSSES[name]
