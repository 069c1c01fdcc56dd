"""The optimizer and schedule of the recipe, and what the training step does when the loss breaks."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from tailwise.config import OptimConfig
from tailwise.training.module import MultiLabelModule


def make(
    optim: OptimConfig, milestones: tuple[int, ...] = (5, 7), steps_per_epoch: int = 121, seed: int = 0
) -> MultiLabelModule:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    return MultiLabelModule(
        model, nn.BCEWithLogitsLoss(), optim, milestones=milestones, steps_per_epoch=steps_per_epoch, seed=seed
    )


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
    seen = rates(make(OptimConfig(lr=1.0, warmup_steps=10, warmup_ratio=0.5, decay=0.1), (1,), 4), 12)
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
