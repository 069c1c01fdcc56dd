"""Losses for long-tailed multi-label classification, all of one term. Needs torch and numpy only."""

from tailwise.losses.base import MultiLabelLoss
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

__all__ = [
    "RECIPES",
    "AdaptiveFocalLoss",
    "AsymmetricLoss",
    "BCELoss",
    "ClassBalancedFocalLoss",
    "DistributionBalancedFocalLoss",
    "DistributionBalancedLoss",
    "FocalLoss",
    "LDAMLoss",
    "MultiLabelLoss",
    "NegativeTolerantLoss",
    "ProbabilityGuidedLoss",
    "ProbabilityRebalancedLoss",
    "RebalancedBCELoss",
    "ReweightedLoss",
    "available",
    "create",
    "option_names",
]
