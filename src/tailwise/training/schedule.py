"""Optimizer and learning-rate schedule of a run, by default the recipe's for its sampler."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, LRScheduler, MultiStepLR

from tailwise.errors import InputError
from tailwise.options import check_fields, option

SamplerName = Literal["class-aware", "uniform", "repeat-factor", "inverse-frequency"]

# Epochs of all samplers but the class-aware one are about as long as the training set.
_RECIPE_EPOCHS: dict[SamplerName, int] = {
    "class-aware": 8,
    "uniform": 80,
    "repeat-factor": 80,
    "inverse-frequency": 80,
}
_RECIPE_MILESTONES: dict[SamplerName, tuple[int, ...]] = {
    "class-aware": (5, 7),
    "uniform": (55, 75),
    "repeat-factor": (55, 75),
    "inverse-frequency": (55, 75),
}


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and schedule: SGD with a linear warm-up, and a decay in steps."""

    lr: float = option(default=0.02, first=True, above=0)
    """Learning rate after the warm-up."""
    momentum: float = option(default=0.9, at_least=0, below=1)
    """Momentum of SGD."""
    weight_decay: float = option(default=1e-4, at_least=0)
    """Weight decay, of all parameters."""
    clip_norm: float | None = option(default=35.0, above=0)
    """Largest norm of the gradient of all parameters together; null for no clipping."""
    warmup_steps: int = option(default=500, at_least=0)
    """Steps over which the learning rate rises linearly to --lr; 0 for no warm-up."""
    warmup_ratio: float = option(default=1 / 3, above=0, at_most=1)
    """Learning rate of the first step, as a share of --lr."""
    epochs: int | None = option(default=None, first=True, at_least=1)
    """Number of epochs. By default 8 with the class-aware sampler and 80 with the others."""
    milestones: tuple[int, ...] | None = None
    """Epochs after which the learning rate is multiplied by --optim.decay. By default 5 and 7 of 8 epochs, 55 and 75 of
    80, and in proportion for other numbers, but never in the first half."""
    decay: float = option(default=0.1, prefixed=True, above=0)
    """Factor of the learning rate at each milestone."""

    def __post_init__(self) -> None:
        check_fields(self, "optim")


def scheduled(optim: OptimConfig, sampler: SamplerName) -> OptimConfig:
    """Fill in epochs and milestones.

    Raises:
        InputError: milestones are given that do not rise, or are not between 0 and the number of epochs.
    """
    recipe = _RECIPE_EPOCHS[sampler]
    epochs = recipe if optim.epochs is None else optim.epochs
    milestones = optim.milestones
    if milestones is None:
        # Another number of epochs keeps the proportions of the recipe, rounded down; in a few epochs that would be at
        # the start, or twice at once.
        places = (max(epoch * epochs // recipe, -(-epochs // 2)) for epoch in _RECIPE_MILESTONES[sampler])
        milestones = tuple(sorted({place for place in places if place < epochs}))
    elif not all(low < high for low, high in pairwise((0, *milestones, epochs))):
        raise InputError(
            f"--milestones must rise, above 0 and below the {epochs} epochs, got {list(milestones)}; leave them "
            "out (null) for those of the recipe in proportion"
        )
    return replace(optim, epochs=epochs, milestones=milestones)


def warmup_and_decay(
    optimizer: Optimizer, optim: OptimConfig, milestones: tuple[int, ...], steps_per_epoch: int
) -> LRScheduler:
    """Linear warm-up times multi-step decay, stepped after every optimizer step.

    The rate of step t = 0, 1, ... is lr · (r + (1 − r) min(1, t / W)) · decay^m, with the warm-up ratio r, its W
    steps, and m the number of milestones that are at most t / steps_per_epoch.
    """
    parts: list[LRScheduler] = [
        MultiStepLR(optimizer, [epoch * steps_per_epoch for epoch in milestones], gamma=optim.decay)
    ]
    if optim.warmup_steps:
        parts.append(LinearLR(optimizer, start_factor=optim.warmup_ratio, total_iters=optim.warmup_steps))
    return ChainedScheduler(parts, optimizer=optimizer)
