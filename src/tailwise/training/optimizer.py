"""Optimizers and learning-rate schedules, made of the options of a run."""

from __future__ import annotations

from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR

from tailwise.models.heads import Classifier
from tailwise.training.callbacks import WeightAverage
from tailwise.training.optim_config import OptimConfig, known

_STEPS_PER_WARMUP_STEP = 10


def create_optimizer(model: nn.Module, optim: OptimConfig) -> Optimizer:
    """Make the optimizer of the parameters that are trained.

    Args:
        model: the network; the backbone of a :class:`~tailwise.models.heads.Classifier` has a learning rate of its own.
        optim: its options, completed.
    """
    groups = _parameter_groups(model, optim)
    # Fused: one pass over memory, and no synchronization with a gradient scaler.
    if optim.name == "adamw":
        return AdamW(groups, lr=known(optim.lr), fused=True)
    return SGD(groups, lr=known(optim.lr), momentum=optim.momentum, fused=True)


def trained_parameters(optimizer: Optimizer) -> list[Tensor]:
    """All parameters of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def create_schedule(optimizer: Optimizer, optim: OptimConfig, steps_per_epoch: int) -> LRScheduler:
    """Linear warm-up times a decay, stepped after every optimizer step.

    The rate of step t = 0, 1, ... of T is lr · (r + (1 − r) min(1, t / W)) · d(t), with the warm-up ratio r and its W
    steps, by default T / 10. With milestones, d = decay^m, and m is the number of them that are at most
    t / steps_per_epoch; along a cosine, d = (1 + cos(π t / T)) / 2 (Loshchilov and Hutter, "SGDR", ICLR 2017, without
    restarts).

    Args:
        optimizer: its rates are those after the warm-up.
        optim: the options, completed.
        steps_per_epoch: optimizer steps in an epoch.
    """
    steps = known(optim.epochs) * steps_per_epoch
    parts: list[LRScheduler] = []
    if optim.schedule == "cosine":
        parts.append(CosineAnnealingLR(optimizer, T_max=steps))
    else:
        milestones = [epoch * steps_per_epoch for epoch in known(optim.milestones)]
        parts.append(MultiStepLR(optimizer, milestones, gamma=optim.decay))
    if warmup := warmup_steps(optim, steps):
        parts.append(LinearLR(optimizer, start_factor=optim.warmup_ratio, total_iters=warmup))
    return ChainedScheduler(parts, optimizer=optimizer)


def warmup_steps(optim: OptimConfig, steps: int) -> int:
    """Steps of the warm-up in a training of ``steps`` steps."""
    return steps // _STEPS_PER_WARMUP_STEP if optim.warmup_steps is None else optim.warmup_steps


def create_average(optim: OptimConfig, steps: int) -> WeightAverage | None:
    """Make the average of the weights over a training of ``steps`` steps, if there is to be one.

    An average as long as the training has a part of the weights that it started with, as in WiSE-FT (Wortsman et al.,
    "Robust fine-tuning of zero-shot models", CVPR 2022), and a part of its course.
    """
    length = known(optim.ema) * steps
    return WeightAverage(length) if length else None


def _parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Parameters that are trained, by learning rate and weight decay; those of the backbone first."""
    groups: list[dict[str, Any]]
    weight_decay, excluded = known(optim.weight_decay), not optim.decay_all
    if not isinstance(model, Classifier):
        groups = param_groups_weight_decay(model, weight_decay, weight_decay_exclude_1d=excluded)
        return groups
    backbone: Any = model.backbone
    # Names of parameters that their model wants without weight decay, such as embeddings of positions.
    spared = backbone.no_weight_decay() if excluded and hasattr(backbone, "no_weight_decay") else ()
    if optim.layer_decay < 1:
        groups = param_groups_layer_decay(
            backbone, weight_decay, spared, weight_decay_exclude_1d=excluded, layer_decay=optim.layer_decay
        )
    else:
        groups = param_groups_weight_decay(backbone, weight_decay, excluded, spared)
    rate = known(optim.lr) * known(optim.backbone_rate)
    for group in groups:
        group["lr"] = rate * group.pop("lr_scale", 1.0)
    groups += param_groups_weight_decay(model.head, weight_decay, weight_decay_exclude_1d=excluded)
    return groups
