"""What fine-tuning starts with, and what it does to networks with each head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tailwise as tw
from tailwise.errors import InputError
from tailwise.models.model_config import ModelConfig
from tailwise.training import finetune, probe
from tailwise.training.config import HeadConfig, TrainConfig
from tailwise.training.inputs import open_images, read_run
from tailwise.training.resolution import resolve
from tailwise.training.run import create_loss, evaluate, train

CPU = torch.device("cpu")
Tiny = Callable[..., TrainConfig]


@pytest.fixture
def tiny(tiny: Tiny) -> Tiny:
    return partial(tiny, head=HeadConfig())


@pytest.mark.parametrize("loss", ["bce", "asl@class-aware"])
def test_training_starts_with_the_head_of_an_exact_probe(
    tiny: Tiny, tmp_path: Path, weights: Path, labels: Path, loss: str
) -> None:
    model = ModelConfig("test_resnet", weights=weights)
    shared: dict[str, Any] = {"loss": loss, "model": model, "head": HeadConfig(transform="none")}
    train(tiny(mode="probe", output=str(tmp_path / "probe"), **shared))
    # Pixels of training images are those of the probe.
    config = resolve(tiny(cache_size=32, **shared))
    task = finetune.new_task(config, read_run(config), CPU, create_loss)
    images = task.train.table.batch(torch.arange(len(task.train.split)))
    with torch.no_grad():
        found = task.model.eval()(task.test_inputs(images))
    expected = tw.load(tmp_path / "probe", accelerator="cpu").logits(
        [labels.parent / n for n in task.train.split.names]
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_a_head_that_starts_at_random_is_that_of_the_seed(tiny: Tiny) -> None:
    config = resolve(tiny(head=HeadConfig(solver="sgd"), model=ModelConfig("test_resnet", pretrained=False)))
    task = finetune.new_task(config, read_run(config), CPU, create_loss)
    assert task.model.head.linear.bias.count_nonzero() == 0
    assert task.model.head.linear.weight.std().item() == pytest.approx(0.01, rel=0.2)


def test_a_resumed_run_solves_nothing(tiny: Tiny, interruption: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny()
    with interruption(lambda module: module.current_epoch == 1):
        train(config)
    monkeypatch.setattr(finetune, "start_with_solved_head", None)
    assert train(replace(config, resume=True)) is not None


HEADS: tuple[dict[str, Any], ...] = (
    {"tta": "flip"},
    {"pool": "catavgmax"},
    {"head": "csra", "csra_heads": 2},
    {"head": "ml-decoder", "tta": "flip"},
)


@pytest.mark.parametrize("options", HEADS, ids=lambda options: "-".join(map(str, options.values())))
def test_a_network_is_restored_as_it_was_tested(tiny: Tiny, labels: Path, options: dict[str, Any]) -> None:
    config = tiny(model=ModelConfig("test_resnet", pretrained=False, **options), optim={"epochs": 1})
    result = train(config)
    assert result is not None
    folder = Path(config.output)
    assert evaluate(folder).metrics["mAP"] == result.metrics["mAP"]
    predictions = tw.load(folder, accelerator="cpu")
    data = tw.read(labels).select("test")
    logits = predictions.logits([labels.parent / name for name in data.names])
    found = tw.metrics.average_precision(logits, data.targets)
    assert 100 * found.nanmean().item() == pytest.approx(result.metrics["mAP"]["total"], abs=0.5)


@pytest.mark.parametrize("head", ["csra", "ml-decoder"])
@pytest.mark.parametrize("loss", ["pg", "ldam", "db-focal"])
def test_heads_on_locations_train_with_every_kind_of_loss(tiny: Tiny, head: Any, loss: str) -> None:
    model = ModelConfig("test_resnet", pretrained=False, head=head)
    assert train(tiny(loss=loss, model=model, optim={"epochs": 1})) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "probe", "model": ModelConfig(head="csra")}, "--model.head csra needs the features of all locations"),
        ({"model": ModelConfig(head="csra"), "head": HeadConfig(solver="exact")}, "solves linear heads only"),
        ({"model": ModelConfig(neck="none"), "head": HeadConfig(solver="exact")}, "got --model.neck none"),
        ({"head": HeadConfig(transform="sqrt")}, "--head.transform sqrt is for --mode probe"),
        ({"loss": "ridge"}, "--loss ridge is for exact heads: give --mode probe"),
    ],
)
def test_what_does_not_go_together_is_refused(tiny: Tiny, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(tiny(**options))


def test_features_of_a_probe_are_means_over_image_and_mirror_image(tiny: Tiny, weights: Path) -> None:
    def features(**options: Any) -> tuple[str, torch.Tensor, torch.Tensor]:
        config = tiny(mode="probe", model=ModelConfig("test_resnet", weights=weights, **options))
        backbone = probe.Backbone.new(config, CPU)
        split = read_run(config).train
        images = open_images(split, config.image_size, config).table.batch(torch.arange(len(split)))
        kept = probe.features_of(config, split, backbone)[1]
        return backbone.key, torch.cat([kept, backbone.features(images.flip(-1), 32)]), kept

    key, both_ways, plain = features()
    mirrored_key, _, averaged = features(tta="flip")
    torch.testing.assert_close(averaged, (plain + both_ways[len(plain) :]) / 2, rtol=1e-4, atol=1e-5)
    assert len({key, mirrored_key, features(pool="max")[0]}) == 3
