"""The options of optimizer and schedule, and the values that they have in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, Literal, TypeVar

from tailwise.errors import InputError
from tailwise.options import check_fields, option

T = TypeVar("T")

PUBLISHED: Final[Mapping[str, Any]] = {
    "name": "sgd",
    "lr": 0.02,
    "weight_decay": 1e-4,
    "decay_all": True,
    "backbone_rate": 1.0,
    "schedule": "steps",
    "warmup_steps": 500,
    "ema": 0.0,
}
"""Options of the recipe of the distribution-balanced loss (Wu et al., ECCV 2020), where the user gives no others."""

CURRENT: Final[Mapping[str, Any]] = {
    "name": "adamw",
    "lr": 5e-5,
    "backbone_rate": 10.0,
    "weight_decay": 0.05,
    "decay_all": False,
    "schedule": "cosine",
    "epochs": 4,
    "ema": 1.0,
}
"""Options of fine-tuning from a solved head, which needs smaller steps than the backbone."""

FROM_RANDOM: Final[Mapping[str, Any]] = {**CURRENT, "lr": 5e-3, "backbone_rate": 0.1, "epochs": 12, "ema": 0.1}
"""Options of fine-tuning from a random head, which needs larger steps and more of them."""

# Epochs and milestones. An epoch of any sampler but the class-aware one is about as long as the training set.
_CLASS_AWARE_SCHEDULE = (8, (5, 7))
_OTHER_SCHEDULE = (80, (55, 75))


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and schedule. What is left open has its value from a recipe; see :func:`completed`."""

    name: Literal["sgd", "adamw"] | None = option(default=None, prefixed=True)
    """The optimizer. SGD with momentum, or AdamW (Loshchilov and Hutter, ICLR 2019)."""
    lr: float | None = option(default=None, first=True, above=0)
    """Learning rate after the warm-up."""
    backbone_rate: float | None = option(default=None, at_least=0)
    """Learning rate of the backbone, as a multiple of --lr, which is that of the head."""
    layer_decay: float = option(default=1.0, above=0, at_most=1)
    """Factor of the learning rate from each layer of the backbone to the one before it."""
    momentum: float = option(default=0.9, at_least=0, below=1)
    """Momentum of SGD."""
    weight_decay: float | None = option(default=None, at_least=0)
    """Weight decay."""
    decay_all: bool | None = None
    """Whether norms and biases have weight decay too."""
    clip_norm: float | None = option(default=35.0, above=0)
    """Largest norm of the gradient of all parameters together; null for no clipping."""
    schedule: Literal["steps", "cosine"] | None = None
    """Learning rate after the warm-up: divided at --milestones (steps), or along a cosine to 0 (cosine)."""
    warmup_steps: int | None = option(default=None, at_least=0)
    """Steps over which the learning rate rises linearly to --lr; 0 for no warm-up."""
    warmup_ratio: float = option(default=1 / 3, above=0, at_most=1)
    """Learning rate of the first step, as a share of --lr."""
    epochs: int | None = option(default=None, first=True, at_least=1)
    """Number of epochs. By default 4 from a solved head and 12 from a random one; in published recipes 8 with the
    class-aware sampler and 80 with the others."""
    milestones: tuple[int, ...] | None = None
    """Epochs after which the learning rate is multiplied by --optim.decay. By default 5 and 7 of 8 epochs, 55 and 75 of
    80, and in proportion for other numbers, but never in the first half."""
    decay: float = option(default=0.1, prefixed=True, above=0)
    """Factor of the learning rate at each milestone."""
    ema: float | None = option(default=None, prefixed=True, at_least=0)
    """Length of a moving average of the weights, as a share of all steps. It is tested and kept in place of the last
    weights. With 1, the weights at the start keep a share of 1/e; 0 is for no average."""

    def __post_init__(self) -> None:
        check_fields(self, "optim")


def completed(optim: OptimConfig, recipe: Mapping[str, Any], *, is_class_aware: bool) -> OptimConfig:
    """Fill in what is left open: options from a recipe, then epochs and milestones. The warm-up may stay open.

    Args:
        optim: the options of the user, which win.
        recipe: values by name of the option.
        is_class_aware: whether the sampler is the class-aware one, whose epochs are longer.

    Raises:
        InputError: milestones are given that do not rise, or are not between 0 and the number of epochs.

    >>> completed(OptimConfig(lr=0.1, epochs=16), PUBLISHED, is_class_aware=True).milestones
    (10, 14)
    """
    optim = filled(optim, recipe)
    recipe_epochs, recipe_milestones = _CLASS_AWARE_SCHEDULE if is_class_aware else _OTHER_SCHEDULE
    epochs = recipe_epochs if optim.epochs is None else optim.epochs
    milestones = optim.milestones
    if milestones is None:
        # Milestones keep the proportions of the recipe, rounded down. With few epochs, some would be at the start, or
        # coincide.
        places = (max(epoch * epochs // recipe_epochs, -(-epochs // 2)) for epoch in recipe_milestones)
        milestones = tuple(sorted({place for place in places if place < epochs}))
    elif not all(low < high for low, high in pairwise((0, *milestones, epochs))):
        raise InputError(
            f"--milestones must rise, above 0 and below the {epochs} epochs, got {list(milestones)}; leave them "
            "out (null) for those of the recipe in proportion"
        )
    return replace(optim, epochs=epochs, milestones=milestones)


def filled(optim: OptimConfig, recipe: Mapping[str, Any]) -> OptimConfig:
    """The options with those of a recipe where they are left open."""
    return replace(optim, **{name: value for name, value in recipe.items() if getattr(optim, name) is None})


def known(value: T | None) -> T:
    """A value that :func:`completed` has filled in.

    Raises:
        ValueError: it is left open: the configuration of the run is not resolved.
    """
    if value is None:
        raise ValueError("the configuration of the run is not resolved: an option is left open")
    return value
