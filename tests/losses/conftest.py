"""A long-tailed label set and batches that reach every branch: all groups, absent classes, empty and unknown rows."""

from __future__ import annotations

import pytest
import torch

from tailwise import LabelStats
from tailwise.losses import FormulaLoss, available, create

COUNTS = [610, 250, 130, 60, 25, 20, 12, 5, 1]
NUM_SAMPLES = 800
EVERY_PARAMETER: dict = {
    "weight": {"rule": "class-balanced", "mode": "class"},
    "pos_shift": {"rule": "margin"},
    "neg_shift": [0.1, -0.2, 0.0, 0.3, 0.1, -0.4, 0.2, 0.0, 0.1],
    "pos_slope": {"head": 0.5, "tail": 2.0},
    "neg_slope": 1.5,
    "pos_divisor": {"medium": 3.0},
    "neg_divisor": [0.5, 1.0, 2.0, 1.5, 1.0, 3.0, 0.7, 1.2, 0.9],
    "pos_exponent": {"tail": 0.5},
    "neg_exponent": 3.0,
    "balance": 1.7,
    "margin": 0.02,
    "adaptive": ["pos_slope", "neg_divisor"],
}
"""Options of the formula loss: each a value other than its default, but for exponents that follow the batch."""


@pytest.fixture(scope="session")
def stats() -> LabelStats:
    return LabelStats(COUNTS, NUM_SAMPLES)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """(16, 9) float64 logits and uint8 targets; class 8 and row 3 have no positive."""
    generator = torch.Generator().manual_seed(7)
    logits = 2 * torch.randn(16, 9, generator=generator, dtype=torch.float64)
    targets = (torch.rand(16, 9, generator=generator) < 0.35).to(torch.uint8)
    targets[:, 8] = 0
    targets[3] = 0
    return logits, targets


SUMS = tuple(name for name in available() if isinstance(create(name, LabelStats(COUNTS, NUM_SAMPLES)), FormulaLoss))
"""Names of the losses that are a sum over labels."""
COUPLED = tuple(name for name in available() if name not in SUMS)


def every_loss() -> list[tuple[str, dict]]:
    """Each name with its defaults, and the variants that take another path through the term."""
    variants: list[tuple[str, dict]] = [(name, {"change_epoch": 0.0} if name == "splc" else {}) for name in SUMS]
    variants += [(name, {"recipe": "voc-mlt"}) for name in ("pr", "pg")]
    variants += [(name, {"recipe": "coco-mlt"}) for name in ("pr", "pg")]
    variants += [("cb-focal", {"mode": mode}) for mode in ("effective_of_mean", "mean_weight", "class")]
    variants += [
        ("rw", {"power": 1.0}),
        ("asl", {"gamma_pos": 1.0, "gamma_neg": 0.5}),
        ("asl", {"margin": 0.0}),
        ("formula", EVERY_PARAMETER),
        ("pg", {"focal_on": "plain", "rebalance": False}),
        ("pg", {"adaptive": {"pos_slope": "tail", "neg_divisor": ("head", "tail")}, "pos_divisor": {"tail": 2.0}}),
    ]
    return variants


def loss_id(variant: tuple[str, dict]) -> str:
    name, options = variant
    shown = ["every parameter"] if options is EVERY_PARAMETER else [f"{key}={value}" for key, value in options.items()]
    return "-".join([name, *shown])
