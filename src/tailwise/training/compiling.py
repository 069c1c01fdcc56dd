"""Compiling the backbone for training, and finding out first whether this machine can."""

from __future__ import annotations

import torch
from torch import Tensor

from tailwise.errors import InputError
from tailwise.models.heads import Classifier


def compile_backbone(model: Classifier) -> None:
    """Have the backbone compiled at its first call, in place: the names of its weights stay.

    It is compiled for the size of the first batch, and once more, for any size, at the first batch of another. The head
    is left as it is, so that its dropout draws the same numbers. A checkpoint does not tell whether the network was
    compiled.

    Args:
        model: what to compile the backbone of.
    """
    model.backbone.compile()


def require_compiler(device: torch.device) -> None:
    """Compile something small, so that what is missing shows before images are decoded.

    Args:
        device: what the network will run on.

    Raises:
        InputError: it cannot be done here: there is no C++ compiler, or for a GPU no Triton.
    """
    # Not found compiled, the trial needs the compiler each time.
    trial = torch.compile(_doubled, options={"fx_graph_cache": False})
    try:
        trial(torch.zeros(8, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--compile true: nothing can be compiled on this machine ({reason}); install a C++ compiler such as g++ "
            "(a GPU needs Triton too), or train without --compile"
        ) from error


def _doubled(values: Tensor) -> Tensor:
    return values * 2
