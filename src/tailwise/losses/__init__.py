"""Losses for long-tailed multi-label classification, all of one formula. Needs torch and numpy only."""

from tailwise.losses import presets  # noqa: F401 - registers the losses
from tailwise.losses.linear import linear_loss
from tailwise.losses.loss import FormulaLoss, Loss
from tailwise.losses.registry import (
    RECIPES,
    RecipeName,
    available,
    create,
    create_custom,
    is_dotted_path,
    option_names,
)
from tailwise.losses.sgd import ChunkedSGD
from tailwise.losses.sharded import sharded_linear_loss

__all__ = [
    "RECIPES",
    "ChunkedSGD",
    "FormulaLoss",
    "Loss",
    "RecipeName",
    "available",
    "create",
    "create_custom",
    "is_dotted_path",
    "linear_loss",
    "option_names",
    "sharded_linear_loss",
]
