"""The optimizer and schedule of the recipe, and a step in each precision against one written out."""

from __future__ import annotations

import copy
import math
from itertools import product
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from torch import nn

from tailwise.models.backbone import seeded
from tailwise.training.datamodule import Batch
from tailwise.training.optim_config import CURRENT, PUBLISHED, OptimConfig, completed
from tailwise.training.trainer import MultiLabelModule, contained


def make(optim: OptimConfig, steps_per_epoch: int = 121, seed: int = 0, recipe: Any = PUBLISHED) -> MultiLabelModule:
    with seeded(0):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    optim = completed(optim, recipe, is_class_aware=True)
    return MultiLabelModule(model, nn.BCEWithLogitsLoss(), optim, steps_per_epoch=steps_per_epoch, seed=seed)


def rates(module: MultiLabelModule, steps: int) -> list[float]:
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_learning_rate_follows_the_recipe_of_voc_mlt() -> None:
    seen = rates(make(OptimConfig()), 968)
    assert seen[0] == pytest.approx(0.02 / 3)
    assert seen[250] == pytest.approx(0.02 * (1 / 3 + 2 / 3 * 250 / 500))
    assert seen[499] == pytest.approx(0.02 * (1 / 3 + 2 / 3 * 499 / 500))
    assert seen[500] == seen[604] == pytest.approx(0.02)
    assert seen[605] == seen[846] == pytest.approx(0.002)
    assert seen[847] == seen[967] == pytest.approx(0.0002)


def test_milestone_inside_the_warm_up_multiplies_both() -> None:
    seen = rates(
        make(OptimConfig(epochs=3, milestones=(1,), lr=1.0, warmup_steps=10, warmup_ratio=0.5, decay=0.1), 4), 12
    )
    expected = [(0.5 + 0.5 * min(1, t / 10)) * (0.1 if t >= 4 else 1) for t in range(12)]
    assert seen == pytest.approx(expected)


def test_no_warm_up_starts_at_the_full_rate() -> None:
    assert rates(make(OptimConfig(warmup_steps=0)), 2) == pytest.approx([0.02, 0.02])


def test_all_trained_parameters_are_decayed_and_frozen_ones_left_out() -> None:
    module = make(OptimConfig())
    (group,) = module.configure_optimizers()["optimizer"].param_groups
    trained = {id(parameter) for parameter in module.model.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in group["params"]} == trained
    assert (group["weight_decay"], group["momentum"], group["nesterov"]) == (1e-4, 0.9, False)


def test_cosine_ends_at_zero_after_a_warm_up_of_a_tenth() -> None:
    seen = rates(make(OptimConfig(lr=2.0, epochs=5, warmup_ratio=0.2), recipe=CURRENT), 5 * 121)
    expected = [(0.2 + 0.8 * min(1, t / 60)) * (1 + math.cos(math.pi * t / 605)) for t in range(605)]
    assert seen == pytest.approx(expected, rel=1e-6)
    assert 0 < seen[-1] < 1e-4


def test_one_step_equals_sgd_written_out() -> None:
    module = make(OptimConfig(warmup_steps=0, lr=0.5, weight_decay=0.1))
    optimizer = module.configure_optimizers()["optimizer"]
    weight = module.model[2].weight
    start = weight.detach().clone()
    momentum = torch.zeros_like(start)
    expected = start.clone()
    for _ in range(2):
        optimizer.zero_grad()
        loss = module.loss(module.model(torch.eye(3)), torch.ones(3, 2))
        loss.backward()
        momentum = 0.9 * momentum + weight.grad + 0.1 * expected
        expected = expected - 0.5 * momentum
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)


def test_random_numbers_are_those_of_seed_epoch_step_and_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def dropped(seed: int, epoch: int, step: int, process: int) -> tuple[float, ...]:
        module = make(OptimConfig(), seed=seed)
        monkeypatch.setattr(MultiLabelModule, "current_epoch", epoch)
        monkeypatch.setattr(MultiLabelModule, "global_rank", process)
        torch.rand(3)
        module.on_train_batch_start(None, step)
        return tuple(nn.functional.dropout(torch.ones(64)).tolist())

    with torch.random.fork_rng():
        places = list(product((0, 1), repeat=4))
        first = [dropped(*place) for place in places]
        assert len(set(first)) == len(places)
        assert [dropped(*place) for place in reversed(places)] == first[::-1]


def batches(scales: list[float]) -> list[Batch]:
    """A batch for each scale of its inputs."""
    generator = torch.Generator().manual_seed(5)
    return [
        Batch(
            scale * torch.randn(6, 3, generator=generator),
            torch.randint(0, 2, (6, 2), generator=generator).float(),
            np.arange(6),
        )
        for scale in scales
    ]


def trained(module: MultiLabelModule, given: list[Batch], folder: Path, clip: float | None, plugin: Precision) -> None:
    with contained():
        pl.Trainer(
            accelerator="cpu",
            plugins=[plugin],
            gradient_clip_val=clip,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        ).fit(module, torch.utils.data.DataLoader(given, batch_size=None))


@pytest.mark.parametrize("clip", [None, 0.1, 1e6])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_equals_a_loop_written_out(tmp_path: Path, precision: str, clip: float | None) -> None:
    """Also where gradients are clipped, and where the scaler of fp16 skips a step whose gradients overflow."""
    module = make(OptimConfig(warmup_steps=0, lr=0.5))
    module.model[0].weight.requires_grad_(True)
    reference: Any = copy.deepcopy(module.model).train()
    start = copy.deepcopy(reference)
    given = batches([1.0, 40.0, 5e4 if precision == "fp16" else 3.0, 1.0])
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-4)
    skipped = 0
    for batch in given:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=precision != "fp32"):
            loss = nn.functional.binary_cross_entropy_with_logits(reference(batch.inputs), batch.targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if clip is not None:
            nn.utils.clip_grad_norm_(reference.parameters(), clip)
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped += scaler.get_scale() < scale
    assert (skipped > 0) == (precision == "fp16")
    plugin = Precision() if precision == "fp32" else MixedPrecision("bf16-mixed", "cpu")
    trained(module, given, tmp_path, clip, MixedPrecision("16-mixed", "cpu") if precision == "fp16" else plugin)
    for (name, value), expected, first in zip(
        module.model.named_parameters(), reference.parameters(), start.parameters(), strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=name)
        assert not torch.equal(value, first)
