"""Losses for long-tailed multi-label classification, all of one term. Needs torch and numpy only."""

from tailwise.losses.base import MultiLabelLoss
from tailwise.losses.custom import create_custom, is_dotted_path
from tailwise.losses.formula import FormulaLoss
from tailwise.losses.linear import linear_loss
from tailwise.losses.named import (
    AdaptiveFocalLoss,
    AsymmetricLoss,
    BCELoss,
    ClassBalancedFocalLoss,
    DistributionBalancedFocalLoss,
    DistributionBalancedLoss,
    FocalLoss,
    LDAMLoss,
    NegativeTolerantLoss,
    ProbabilityGuidedLoss,
    ProbabilityRebalancedLoss,
    RebalancedBCELoss,
    ReweightedLoss,
)
from tailwise.losses.registry import RECIPES, available, create, option_names
from tailwise.losses.sgd import ChunkedSGD
from tailwise.losses.sharded import sharded_linear_loss
from tailwise.losses.steered import ProbabilitySteeredLoss

__all__ = [
    "RECIPES",
    "AdaptiveFocalLoss",
    "AsymmetricLoss",
    "BCELoss",
    "ChunkedSGD",
    "ClassBalancedFocalLoss",
    "DistributionBalancedFocalLoss",
    "DistributionBalancedLoss",
    "FocalLoss",
    "FormulaLoss",
    "LDAMLoss",
    "MultiLabelLoss",
    "NegativeTolerantLoss",
    "ProbabilityGuidedLoss",
    "ProbabilityRebalancedLoss",
    "ProbabilitySteeredLoss",
    "RebalancedBCELoss",
    "ReweightedLoss",
    "available",
    "create",
    "create_custom",
    "is_dotted_path",
    "linear_loss",
    "option_names",
    "sharded_linear_loss",
]
