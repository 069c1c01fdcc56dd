"""Learning rates and weight decay of the parts of a network, and averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tailwise.models.heads import Classifier, create_classifier
from tailwise.models.model_config import ModelConfig
from tailwise.training.config import TrainConfig
from tailwise.training.folder import model_state
from tailwise.training.optim_config import CURRENT, PUBLISHED, OptimConfig, completed, known
from tailwise.training.optimizer import create_optimizer, trained_parameters
from tailwise.training.run import evaluate, train
from tailwise.training.trainer import MultiLabelModule

Settings = dict[str, tuple[float, float]]


def network(backbone: str, frozen_stages: int = 0) -> Classifier:
    return create_classifier(ModelConfig(backbone, pretrained=False, frozen_stages=frozen_stages), 3)


def settings(model: nn.Module, optim: OptimConfig, recipe: Any) -> Settings:
    """Learning rate and weight decay of every parameter that is trained, each of which has one."""
    optimizer = create_optimizer(model, completed(optim, recipe, is_class_aware=False))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: Settings = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return found


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_parts_have_their_rates_and_norms_and_biases_no_decay(backbone: str) -> None:
    model = network(backbone)
    found = settings(model, OptimConfig(lr=0.5, backbone_rate=0.1, weight_decay=0.2), CURRENT)
    spared = model.backbone.no_weight_decay() if hasattr(model.backbone, "no_weight_decay") else ()
    for name, (rate, decay) in found.items():
        assert rate == pytest.approx(0.05 if name.startswith("backbone.") else 0.5), name
        is_spared = model.get_parameter(name).ndim == 1 or name.removeprefix("backbone.") in spared
        assert decay == (0.0 if is_spared else 0.2), name
    assert len({decay for _, decay in found.values()}) == 2


def test_published_recipe_has_one_rate_and_decays_everything() -> None:
    assert set(settings(network("test_resnet"), OptimConfig(), PUBLISHED).values()) == {(0.02, 1e-4)}


def test_layers_have_lower_rates_the_nearer_they_are_to_the_input() -> None:
    model = network("test_vit", frozen_stages=-1)
    found = settings(model, OptimConfig(lr=1.0, backbone_rate=0.5, layer_decay=0.8), CURRENT)
    blocks = [found[f"backbone.blocks.{n}.mlp.fc1.weight"][0] for n in range(len(model.backbone.blocks))]
    assert all(low / high == pytest.approx(0.8) for low, high in pairwise(blocks))
    assert found["backbone.patch_embed.proj.weight"][0] == pytest.approx(0.8 * blocks[0])
    assert found["head.linear.weight"][0] == 1.0
    assert max(rate for name, (rate, _) in found.items() if name.startswith("backbone.")) == pytest.approx(0.5)


def test_one_step_of_adamw_is_the_formula() -> None:
    """Loshchilov and Hutter, algorithm 2: after one step, both moments are those of a single gradient."""
    model = nn.Sequential(nn.Linear(3, 2))
    weight, bias = (parameter.detach().clone() for parameter in model[0].parameters())
    optim = completed(OptimConfig(lr=0.1, weight_decay=0.3), CURRENT, is_class_aware=False)
    optimizer = create_optimizer(model, optim)
    assert len(trained_parameters(optimizer)) == 2
    model(torch.tensor([[1.0, -2.0, 3.0]])).sum().backward()
    sign = torch.tensor([1.0, -1.0, 1.0]).expand(2, 3)
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), weight * (1 - 0.1 * 0.3) - 0.1 * sign)
    torch.testing.assert_close(model[0].bias.detach(), bias - 0.1)


def test_what_is_left_open_is_named() -> None:
    with pytest.raises(ValueError, match="not resolved"):
        known(OptimConfig().lr)


def test_averaged_weights_are_tested_and_kept(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights after every step, averaged by hand, are those of the run and of the model that is loaded."""
    config = tiny(optim={"ema": 0.25, "lr": 0.1, "epochs": 2})
    seen: list[Tensor] = []
    update = MultiLabelModule.optimizer_step

    def noted(self: MultiLabelModule, *arguments: Any, **options: Any) -> None:
        seen.append(self.model.head.linear.weight.detach().clone())
        update(self, *arguments, **options)
        last[:] = [self.model.head.linear.weight.detach().clone()]

    last: list[Tensor] = []
    monkeypatch.setattr(MultiLabelModule, "optimizer_step", noted)
    result = train(config)
    assert result is not None
    average, share = seen[0], 1 / (0.25 * len(seen))
    for weights in [*seen[1:], *last]:
        average = (1 - share) * average + share * weights
    assert 0 < share < 0.5
    assert not torch.allclose(average, last[0], atol=1e-4)
    torch.testing.assert_close(model_state(Path(config.output))["head.linear.weight"], average)
    assert evaluate(Path(config.output)).metrics["mAP"] == result.metrics["mAP"]
