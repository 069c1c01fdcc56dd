"""The training step of every mode, with the recipe's optimizer and schedule, as a Lightning module."""

from __future__ import annotations

import math
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
from tailwise.errors import InputError
from tailwise.training.datamodule import Batch


class MultiLabelModule(pl.LightningModule):
    """Trains ``model`` with ``loss`` on batches of inputs and targets.

    A step never waits for the device: losses stay there and are read every ``log_every`` steps, logged as their mean,
    and checked. Random numbers of the model (dropout) restart in every epoch from (seed, epoch, process), so that a
    resumed run draws the same ones as an uninterrupted one.

    Args:
        model: maps inputs to (B, K) logits.
        loss: called with (logits, targets).
        optim: optimizer and schedule.
        milestones: epochs after which the learning rate is multiplied by ``optim.decay``.
        steps_per_epoch: optimizer steps in an epoch.
        seed: seed of the model's random numbers.
        log_every: steps between two looks at the losses.
        loss_name: what messages call the loss.
        fused: update each parameter in one pass over memory.
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
        log_every: int = 50,
        loss_name: str = "loss",
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.optim = optim
        self.milestones = milestones
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.loss_name = loss_name
        self.fused = fused
        self.last_mean_loss = math.nan
        self._losses: list[Tensor] = []
        self._log_every = log_every
        self._epoch_sum = 0.0
        self._rate = optim.lr

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = SGD(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=self.optim.lr,
            momentum=self.optim.momentum,
            weight_decay=self.optim.weight_decay,
            fused=self.fused,
        )
        schedule = warmup_and_decay(optimizer, self.optim, self.milestones, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def on_train_epoch_start(self) -> None:
        state = np.random.SeedSequence([self.seed, self.current_epoch, self.global_rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))
        self._losses.clear()
        self._epoch_sum = 0.0

    @override
    def training_step(self, batch: Batch) -> Tensor:
        loss: Tensor = self.loss(self.model(batch.inputs), batch.targets)
        self._losses.append(loss.detach())
        self._rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        return loss

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        is_last = batch_idx + 1 == self.steps_per_epoch
        if is_last or len(self._losses) == self._log_every:
            self._read_losses(is_last)

    def _read_losses(self, is_last: bool) -> None:
        losses = torch.stack(self._losses).tolist()
        self._losses.clear()
        first_step = self.global_step - len(losses)
        for offset, value in enumerate(losses):
            if not math.isfinite(value):
                raise InputError(
                    f"the {self.loss_name} loss became {value} at step {first_step + offset + 1} (epoch "
                    f"{self.current_epoch + 1}): lower optim.lr (now {self.optim.lr:g}), lengthen optim.warmup_steps, "
                    "or train with precision fp32"
                )
        self.last_mean_loss = sum(losses) / len(losses)
        self._epoch_sum += sum(losses)
        metrics = {"epoch": self.current_epoch + 1, "lr": self._rate, "loss": self.last_mean_loss}
        if is_last:
            metrics["epoch_loss"] = self._epoch_sum / self.steps_per_epoch
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.global_step)


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
