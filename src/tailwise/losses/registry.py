"""Registry of losses by name, with the options that the papers published."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from tailwise.labels import LabelStats
from tailwise.losses.coupled import Coupled, CoupledLoss
from tailwise.losses.loss import Formula, FormulaLoss, Loss
from tailwise.losses.statistics import Classes
from tailwise.spelling import near

RecipeName: TypeAlias = Literal["voc-mlt", "coco-mlt"]

COMMON = ("reduction", "validate", "impl")
"""Options of every loss; see :class:`tailwise.losses.loss.Loss`."""

# α, β, κ, γ and c are the defaults of the losses: both data sets share them.
_VOC_MLT: dict[str, Any] = {"mu": 0.3, "neg_scale": 5.0}
_COCO_MLT: dict[str, Any] = {"mu": 0.2, "neg_scale": 2.0}
# Which factors PG raises is published, how far is not: these values are ours (docs/losses.md).
_VOC_MLT_FACTORS: dict[str, Any] = {"neg_slope": {"tail": 6.0}, "pos_divisor": {"tail": 1.5}}
_COCO_MLT_FACTORS: dict[str, Any] = {"neg_slope": 4.0, "pos_slope": 2.0}


def _recipe(numbers: dict[str, Any], factors: dict[str, Any], beta: float) -> dict[str, dict[str, Any]]:
    weights, sides = {"mu": numbers["mu"]}, {"neg_scale": numbers["neg_scale"]}
    return {
        "cb-focal": {"beta": beta, "loss_weight": 10.0},
        "r-bce": weights,
        "ntr": sides,
        "db": numbers,
        "db-focal": numbers,
        "pr": numbers | factors,
        "pg": numbers | factors | {"adaptive": ("neg_slope",)},
        "pg-auto": weights,
    }


RECIPES: dict[RecipeName, dict[str, dict[str, Any]]] = {
    "voc-mlt": _recipe(_VOC_MLT, _VOC_MLT_FACTORS, beta=0.99),
    "coco-mlt": _recipe(_COCO_MLT, _COCO_MLT_FACTORS, beta=0.9),
}
"""Options by data set and loss, as published for VOC-MLT and COCO-MLT; a loss without an entry keeps its defaults."""


Maker: TypeAlias = Callable[..., Formula | Coupled]
_Made = TypeVar("_Made", bound=Maker)


class _Preset(NamedTuple):
    make: Maker
    options: tuple[str, ...]


_PRESETS: dict[str, _Preset] = {}


def preset(name: str, *parts: Callable[..., Any]) -> Callable[[_Made], _Made]:
    """Register a loss: a function of the classes and of options, which are its own and those of its parts."""

    def register(make: _Made) -> _Made:
        _PRESETS[name] = _Preset(make, options_of(make, *parts))
        return make

    return register


def options_of(*functions: Callable[..., Any]) -> tuple[str, ...]:
    """Options of functions and of the presets among them."""
    names: dict[str, None] = {}
    for function in functions:
        known = next((entry.options for entry in _PRESETS.values() if entry.make is function), None)
        parameters = inspect.signature(function).parameters.values()
        names |= dict.fromkeys(known or (entry.name for entry in parameters if entry.kind is entry.KEYWORD_ONLY))
    return tuple(names)


def options_for(part: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a part takes."""
    return {name: options[name] for name in options_of(part) if name in options}


def available() -> tuple[str, ...]:
    """Names that :func:`create` knows."""
    return tuple(_PRESETS)


def option_names(name: str) -> tuple[str, ...]:
    """Options of the loss ``name``.

    >>> option_names("focal")
    ('gamma', 'balance', 'reduction', 'validate', 'impl')

    Raises:
        ValueError: an unknown name; near ones are offered.
    """
    if name not in _PRESETS:
        raise ValueError(f"unknown loss {name!r}{near(name, available())}; there are {', '.join(available())}")
    return (*_PRESETS[name].options, *COMMON)


def create(name: str, stats: LabelStats, recipe: RecipeName | None = None, **options: Any) -> Loss:
    """Make a loss by name.

    >>> import torch
    >>> from tailwise import LabelStats
    >>> loss = create("db-focal", LabelStats([60, 9, 2], num_samples=80), neg_scale=5.0)
    >>> loss(torch.zeros(4, 3), torch.eye(4, 3)).shape
    torch.Size([])

    Args:
        name: one of :func:`available`.
        stats: statistics of the training labels.
        recipe: take the options published for ``"voc-mlt"`` or ``"coco-mlt"``; explicit options win.
        options: options of the loss, as its function in :mod:`tailwise.losses.presets` documents them, and
            ``reduction``, ``validate`` and ``impl`` of :class:`Loss`.

    Raises:
        ValueError: ``stats`` is no LabelStats, an unknown name, recipe or option (the near ones are offered), or an
            option out of its range.
    """
    known, classes = option_names(name), Classes(stats)
    if recipe is not None and recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}; there are {', '.join(RECIPES)}")
    for option in options:
        if option not in known:
            raise ValueError(
                f"loss {name!r} has no option {option!r}{near(option, known)}; it takes {', '.join(known)}"
            )
    published = RECIPES[recipe].get(name, {}) if recipe is not None else {}
    own = {option: value for option, value in (published | options).items() if option not in COMMON}
    common = {option: value for option, value in options.items() if option in COMMON}
    made = _PRESETS[name].make(classes, **own)
    return CoupledLoss(stats, made, **common) if isinstance(made, Coupled) else FormulaLoss(stats, made, **common)
