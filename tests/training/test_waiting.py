"""A training step does not wait for the device: nothing it computes is read back, except where losses are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tailwise.losses import backends
from tailwise.losses.backends.eager import Eager
from tailwise.training import datamodule
from tailwise.training.config import TrainConfig
from tailwise.training.datamodule import TrainData
from tailwise.training.run import train

Tiny = Callable[..., TrainConfig]

CALLS = {"item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__float__", "__int__", "__index__"}
"""What brings values of a tensor to Python; on a CPU some of it passes no operator."""
SENDS = {"tensor", "as_tensor", "asarray", "from_numpy"}
"""What makes tensors of values that the host has: to send them from memory that is not pinned waits too."""
OPERATORS = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "unique_dim"}
"""Operators whose result has a value, or a shape, that the host must know."""
LOOK_EVERY = 4


class Reads:
    """Notes what is read from tensors between a batch's arrival on the device and the request for the next one."""

    def __init__(self) -> None:
        self.by_step: dict[int, list[str]] = {}
        self.in_step = False
        self.step = 0

    def note(self, name: str) -> None:
        if self.in_step:
            self.by_step.setdefault(self.step, []).append(name)


class Calls(TorchFunctionMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        # An index that is a mask, or a number that is a tensor.
        by_mask = name in ("__getitem__", "__setitem__") and any(
            isinstance(entry, torch.Tensor) and (entry.dtype == torch.bool or not entry.ndim)
            for entry in (args[1] if isinstance(args[1], tuple) else (args[1],))
        )
        if name in CALLS | SENDS or by_mask:
            self.reads.note(name)
        return func(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        result = func(*args, **(kwargs or {}))
        moved = name == "_to_copy" and result.device != args[0].device
        if name in OPERATORS or moved:
            self.reads.note(name)
        return result


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    reads = Reads()
    load, arrive = datamodule._Rows.__getitem__, TrainData.on_after_batch_transfer

    def loaded(self: Any, drawn: Any) -> Any:
        reads.in_step = False
        return load(self, drawn)

    def arrived(self: TrainData, batch: Any, dataloader_idx: int) -> Any:
        result = arrive(self, batch, dataloader_idx)
        reads.step += 1
        reads.in_step = True
        return result

    monkeypatch.setattr(datamodule._Rows, "__getitem__", loaded)
    monkeypatch.setattr(TrainData, "on_after_batch_transfer", arrived)
    monkeypatch.setattr("tailwise.training.trainer._STEPS_BETWEEN_LOOKS", LOOK_EVERY)
    with Calls(reads), Operators(reads):
        yield reads


@pytest.mark.parametrize(
    "read",
    [
        lambda x: float(x[0]),
        lambda x: int(x[0]),
        lambda x: bool(x[0] > 0),
        lambda x: "positive" if x.sum() > 0 else "negative",
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: x.cpu(),
        lambda x: x.to("meta"),
        lambda x: x[x > 0],
        lambda x: x[x.argmax()],
        lambda x: x.__setitem__(x > 0, 1.0),
        lambda x: x.nonzero(),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x + 1),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
    ],
)
def test_reads_are_noticed(read: Callable[[torch.Tensor], object]) -> None:
    reads, values = Reads(), torch.arange(3.0)
    with Calls(reads), Operators(reads):
        read(values)
        assert reads.by_step == {}
        reads.in_step = True
        values = (values * 2 + 1).clamp(min=0).sqrt()[:2]
        assert reads.by_step == {}
        read(torch.ones(3))
    assert reads.by_step[0]


@pytest.mark.parametrize(
    ("loss", "precision"), [("db-focal", "fp32"), ("db-focal", "bf16"), ("pg", "fp32"), ("pg-auto", "fp32")]
)
@pytest.mark.parametrize("mode", ["finetune", "probe"])
def test_nothing_is_read_but_the_losses_now_and_then(
    tiny: Tiny, reads: Reads, monkeypatch: pytest.MonkeyPatch, mode: str, loss: str, precision: str
) -> None:
    # Losses and curves as another device computes them: the loops of a CPU, and the look at a factor of 1, read its own
    # memory.
    monkeypatch.setattr(backends, "_automatic", lambda *_: "eager")
    monkeypatch.setattr(Eager, "scale_", lambda _self, gradient, factor: gradient.mul_(factor))
    config = tiny(mode=mode, loss=loss, precision=precision, sampler="uniform", optim={"epochs": 2})
    train(config)
    steps_per_epoch = 6
    assert reads.step == 2 * steps_per_epoch
    first, *later = sorted(reads.by_step)
    assert first == 1
    # The loss checks its first targets.
    assert set(reads.by_step[first]) <= {"__bool__", "is_nonzero", "_local_scalar_dense"}
    looked_at = {
        step
        for step in range(1, 2 * steps_per_epoch + 1)
        if (step - 1) % steps_per_epoch + 1 in (LOOK_EVERY, steps_per_epoch)
    }
    assert set(later) == looked_at
    assert reads.by_step[LOOK_EVERY] == ["tolist"]
