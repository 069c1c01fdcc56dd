"""A loss of your own, without code and with it: ``python examples/own_loss.py``.

From the folder of this file, commands take the class as well: ``tailwise train --loss own_loss:SmoothedBCE ...``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from tailwise import LabelStats
from tailwise.losses import create, create_custom

# Any point of the formula: DB-Focal with steeper negatives of tail classes. The same mapping in a YAML file is a
# loss too: --loss mine.yaml.
STEEPER_TAIL = {
    "weight": {"rule": "rebalanced", "alpha": 0.1, "beta": 10, "mu": 0.3},
    "pos_shift": {"rule": "prior", "strength": 0.01},
    "neg_shift": {"rule": "prior", "strength": 0.01},
    "neg_slope": {"head": 5, "medium": 5, "tail": 10},
    "neg_divisor": 5,
    "pos_exponent": 2,
    "neg_exponent": 2,
    "balance": 2,
}


class SmoothedBCE(nn.Module):
    """BCE with smoothed labels.

    Args:
        stats: counts, names and groups of the training labels; every loss gets them.
        smoothing: distance of the labels from 0 and 1.
    """

    def __init__(self, stats: LabelStats, smoothing: float = 0.1) -> None:
        super().__init__()
        self.num_classes = stats.num_classes
        self.smoothing = smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over all known pairs of (B, K) logits and targets: 1, 0, and -1 for unknown."""
        known = targets >= 0
        smooth = targets[known].to(logits.dtype) * (1 - 2 * self.smoothing) + self.smoothing
        return binary_cross_entropy_with_logits(logits[known], smooth)


def main() -> None:
    """Evaluate both losses and their gradients on one batch."""
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(1000, 20, generator=generator) < torch.logspace(-0.5, -2, 20)).int()
    stats = LabelStats.from_targets(targets)
    losses = {
        "formula": create("formula", stats, **STEEPER_TAIL),
        "class": create_custom(f"{__name__}:SmoothedBCE", stats, smoothing=0.05),
    }
    for name, loss in losses.items():
        logits = torch.randn(32, 20, generator=generator, requires_grad=True)
        value = loss(logits, targets[:32])
        value.backward()
        print(f"{name:8} value {value.item():.3f}  largest gradient {logits.grad.abs().max():.4f}")


if __name__ == "__main__":
    main()
