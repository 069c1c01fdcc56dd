"""Running a model over a whole table."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from tailwise.config import Accelerator, Precision
from tailwise.errors import InputError
from tailwise.training.progress import bar
from tailwise.training.tables import Table

PRECISION_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def forward_table(
    forward: Callable[[Tensor], Tensor],
    table: Table,
    *,
    device: torch.device,
    batch_size: int,
    description: str = "computing",
    show: bool = False,
) -> Tensor:
    """Apply ``forward`` to every row, without gradients.

    Args:
        forward: maps a batch of rows, on ``device``, to (B, ...) outputs.
        table: N rows.
        device: where to compute.
        batch_size: rows per batch.
        description: what the progress bar says.
        show: whether to show one.

    Returns:
        (N, ...) float32 outputs in the order of the rows, on the CPU.
    """
    outputs = []
    with torch.inference_mode(), bar(description, len(table), show=show) as advance:
        for rows in torch.split(torch.arange(len(table)), batch_size):
            outputs.append(forward(table.batch(rows).to(device, non_blocking=True)).float().cpu())
            advance(len(rows), description)
    return torch.cat(outputs)


def choose_device(accelerator: Accelerator, precision: Precision) -> torch.device:
    """The device that an accelerator option means on this machine, and in this process of several.

    Raises:
        InputError: it is not there, or cannot compute in the precision.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    if accelerator == "auto":
        device = found or torch.device("cpu")
    elif accelerator == "cpu":
        device = torch.device("cpu")
    else:
        device = torch.device("cuda" if accelerator == "gpu" else accelerator)
        if found is None or found.type != device.type:
            raise InputError(f"accelerator {accelerator!r} is not available on this machine; use auto or cpu")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if precision == "fp16" and device.type == "cpu":
        raise InputError("precision fp16 needs a GPU, and this run would be on the CPU; use bf16 or fp32")
    return device
