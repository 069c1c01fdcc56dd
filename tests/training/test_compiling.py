"""A compiled backbone trains as an uncompiled one does, and leaves no trace in what is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from tailwise.errors import InputError
from tailwise.models.heads import Classifier, Head
from tailwise.training.config import TrainConfig
from tailwise.training.finetune import require_compiler
from tailwise.training.run import Result, evaluate, train
from tests.training.conftest import Interruption

Tiny = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def compiled() -> Iterator[Callable[[], int]]:
    """How many graphs have been compiled since the test began; it begins with none at hand."""
    torch.compiler.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch.compiler.reset()


@pytest.fixture
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without the C++ compiler: everything is traced and split into graphs, which torch's own kernels run."""
    in_place = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: in_place(module, backend="aot_eager"))
    monkeypatch.setattr("tailwise.training.run.require_compiler", lambda device: None)


def network() -> Classifier:
    """In double precision: the batch norms magnify rounding."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        neck = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        return Classifier(
            backbone, Head(neck, nn.Linear(16, 3)), mean=(0.5,) * 3, std=(0.5,) * 3, running_stats=False
        ).to(dtype=torch.float64, memory_format=torch.channels_last)


def test_compiled_code_gives_the_values_and_gradients_of_the_network(compiled: Callable[[], int]) -> None:
    try:
        require_compiler(torch.device("cpu"))
    except InputError as error:
        pytest.skip(str(error))
    plain, fast = network(), network()
    fast.backbone.compile()
    before = compiled()
    generator = torch.Generator().manual_seed(0)
    for count in (8, 8, 6, 5, 8, 2, 7, 31):
        images = torch.randn(count, 3, 16, 16, generator=generator, dtype=torch.float64)
        images = images.contiguous(memory_format=torch.channels_last)
        logits = []
        for model in (plain, fast):
            model.zero_grad()
            with torch.random.fork_rng():
                torch.manual_seed(count)
                logits.append(model(images))
            (logits[-1] * torch.arange(3)).square().sum().backward()
        torch.testing.assert_close(*logits, rtol=1e-8, atol=1e-10)
        for (name, value), expected in zip(fast.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(value.grad, expected.grad, rtol=1e-6, atol=1e-8, msg=name)
    for (name, value), (expected_name, expected) in zip(
        fast.state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert name == expected_name
        torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-10, msg=name)
    # For the first size, and for all others together.
    assert compiled() - before == 2


def saved(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return state


def assert_close(first: Path, second: Path) -> None:
    one, two = saved(first), saved(second)
    assert one["global_step"] == two["global_step"]
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, two["state_dict"][name], rtol=1e-3, atol=1e-4, msg=name)


def finished(config: TrainConfig) -> Result:
    result = train(config)
    assert result is not None
    return result


@pytest.mark.usefixtures("_quickly")
def test_a_run_is_that_of_the_plain_network_and_is_tested_without_compiling(
    tiny: Tiny, tmp_path: Path, compiled: Callable[[], int]
) -> None:
    plain = finished(tiny(output=str(tmp_path / "plain"), sampler="uniform"))
    assert compiled() == 0
    fast = finished(tiny(output=str(tmp_path / "fast"), sampler="uniform", compile=True))
    # For whole batches, and for the last one of an epoch; the larger ones of the test are not compiled for.
    assert compiled() == 2
    assert_close(tmp_path / "plain", tmp_path / "fast")
    assert fast.metrics["mAP"] == pytest.approx(plain.metrics["mAP"], abs=0.02)
    again = evaluate(tmp_path / "fast")
    assert compiled() == 2
    assert again.metrics["mAP"] == fast.metrics["mAP"]
    assert again.metrics["AP"] == fast.metrics["AP"]


@pytest.mark.usefixtures("_quickly")
@pytest.mark.parametrize("first", [True, False])
def test_an_interrupted_run_goes_on_with_or_without_compiling(
    tiny: Tiny, tmp_path: Path, interruption: Interruption, compiled: Callable[[], int], first: bool
) -> None:
    whole = tiny(output=str(tmp_path / "whole"))
    train(whole)
    config = tiny(output=str(tmp_path / "parts"), compile=first)
    with interruption(lambda module: module.current_epoch == 1):
        train(config)
    assert (compiled() > 0) == first
    torch.compiler.reset()
    counters.clear()
    train(replace(config, compile=not first, resume=True))
    assert (compiled() > 0) == (not first)
    assert_close(tmp_path / "whole", tmp_path / "parts")


def test_a_machine_without_a_compiler_is_told_of_before_images_are_decoded(tiny: Tiny, tmp_path: Path) -> None:
    from torch._inductor import config as inductor

    config = tiny(compile=True, cache=str(tmp_path / "cache"), accelerator="cpu")
    with (
        inductor.patch({"cpp.cxx": (None, str(tmp_path / "no-compiler"))}),
        pytest.raises(InputError, match=r"^--compile: .*no-compiler.*; install a C\+\+ compiler .*$") as caught,
    ):
        train(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()
    assert not Path(config.output).exists()


def test_a_probe_is_not_compiled(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="--compile is for --mode finetune"):
        train(tiny(mode="probe", compile=True))
