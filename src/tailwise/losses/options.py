"""Options that several losses share, for their signatures."""

from __future__ import annotations

from typing import TypedDict

from tailwise.losses.base import FactorChoice, Reduction
from tailwise.losses.guidance import Sync
from tailwise.losses.implementation import Implementation
from tailwise.losses.weights import ShiftFormula


class Common(TypedDict, total=False):
    """Options of every loss; see :class:`tailwise.losses.base.MultiLabelLoss`."""

    reduction: Reduction
    validate: bool
    impl: Implementation


class Balancing(Common, total=False):
    """Options of DB's weights and regularisation; see :class:`tailwise.losses.named.ProbabilityGuidedLoss`."""

    alpha: float
    beta: float
    mu: float
    kappa: float
    neg_scale: float
    shift: ShiftFormula


class Rebalancing(Balancing, total=False):
    """Options of probability re-balancing; see :class:`tailwise.losses.named.ProbabilityGuidedLoss`."""

    rebalance: bool
    neg_slope: FactorChoice
    neg_divisor: FactorChoice
    pos_slope: FactorChoice
    pos_divisor: FactorChoice
    sync: Sync
