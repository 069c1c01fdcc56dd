"""Losses for long-tailed multi-label classification, all of one formula. Needs torch and numpy only."""

from tailwise.losses import presets  # noqa: F401 - registers the losses
from tailwise.losses.chunked import ChunkedSGD
from tailwise.losses.custom import create_custom, is_dotted_path, is_loss_file, read_loss_file
from tailwise.losses.linear import linear_loss, sharded_linear_loss
from tailwise.losses.loss import FormulaLoss, Loss
from tailwise.losses.registry import (
    RECIPES,
    RecipeName,
    available,
    create,
    option_names,
)

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
    "is_loss_file",
    "linear_loss",
    "option_names",
    "read_loss_file",
    "sharded_linear_loss",
]
