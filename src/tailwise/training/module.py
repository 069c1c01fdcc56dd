"""The training step of every mode, with the recipe's optimizer and schedule, as a Lightning module."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, LRScheduler, MultiStepLR
from typing_extensions import override

from tailwise.config import OptimConfig
from tailwise.training.datamodule import Batch


class MultiLabelModule(pl.LightningModule):
    """Trains ``model`` with ``loss`` on batches of inputs and targets.

    Random numbers of the model (dropout) restart in every step from (seed, epoch, step, process), so that a resumed run
    draws the same ones as an uninterrupted one.

    Args:
        model: maps inputs to (B, K) logits.
        loss: called with (logits, targets).
        optim: optimizer and schedule.
        milestones: epochs after which the learning rate is multiplied by ``optim.decay``.
        steps_per_epoch: optimizer steps in an epoch.
        seed: seed of the model's random numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        optim: OptimConfig,
        *,
        milestones: tuple[int, ...],
        steps_per_epoch: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.optim = optim
        self.milestones = milestones
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = SGD(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=self.optim.lr,
            momentum=self.optim.momentum,
            weight_decay=self.optim.weight_decay,
            fused=True,  # one pass over memory, and a gradient scaler need not be waited for
        )
        schedule = warmup_and_decay(optimizer, self.optim, self.milestones, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        entropy = [self.seed, self.current_epoch, batch_idx, self.global_rank]
        seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
        # Not torch.manual_seed, which takes 0.1 ms to tell every kind of device there might be.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    @override
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning refuses to clip for fused optimizers, because in fp16 they get scaled gradients.
        if gradient_clip_val is None:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], gradient_clip_val)

    @override
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        logits: Tensor = self.model(batch.inputs)
        return {"loss": self.loss(logits, batch.targets), "logits": logits.detach()}


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
