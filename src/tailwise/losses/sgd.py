"""Stochastic gradient descent on a head, some classes at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ChunkedSGD:
    """The rule of :class:`torch.optim.SGD` (momentum and weight decay) for rows of a head as their gradient is made.

    For :func:`tailwise.losses.linear_loss`, which calls it: the gradient of the whole head never exists. Parameters
    and momentum are updated in place.

    Args:
        lr: learning rate; set the attribute to follow a schedule.
        momentum: momentum; 0 keeps no buffers.
        weight_decay: L2 penalty.

    Raises:
        ValueError: a number is negative.
    """

    def __init__(self, lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._buffers: dict[str, Tensor] = {}

    def update(self, name: str, parameter: Tensor, rows: slice, gradient: Tensor) -> None:
        """Update some rows of a parameter; ``name`` tells the parameters of a head apart."""
        own = parameter[rows]
        if self.weight_decay:
            gradient = gradient.add(own, alpha=self.weight_decay)
        if self.momentum:
            if name not in self._buffers:
                self._buffers[name] = torch.zeros_like(parameter)
            gradient = self._buffers[name][rows].mul_(self.momentum).add_(gradient)
        own.sub_(gradient, alpha=self.lr)

    def state_dict(self) -> dict[str, Any]:
        """The rate and the momentum buffers."""
        return {"lr": self.lr, "buffers": dict(self._buffers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.lr = state["lr"]
        self._buffers = {name: buffer.clone() for name, buffer in state["buffers"].items()}
