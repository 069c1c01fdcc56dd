"""The loss that steers its own factors."""

from __future__ import annotations

from typing import Unpack

from tailwise.labels import LabelStats
from tailwise.losses.base import MultiLabelLoss
from tailwise.losses.guidance import Sync
from tailwise.losses.options import Common
from tailwise.losses.steering import Steering
from tailwise.losses.term import Side
from tailwise.losses.weights import RebalancedWeight, clamped_counts, prior_shift


class ProbabilitySteeredLoss(MultiLabelLoss):
    """PG's formula with factors that steer themselves, by group, from the probabilities seen in training.

    Rebalanced weights and prior shift are those of DB, without a focal factor; λ₁⁻, λ₂⁻ and λ₂⁺ of head, medium and
    tail classes follow the two rules of :class:`tailwise.losses.steering.Steering`. With ``tolerance=0``
    and ``leveling=0`` nothing is left to steer, and the loss is DB with its ``neg_scale``.

    Args:
        stats: statistics of the training labels.
        alpha: α of the rebalanced weights.
        beta: β of the rebalanced weights.
        mu: μ of the rebalanced weights.
        kappa: κ of the prior shift v = (κ/λ₁⁻) log(N/n − 1).
        rebalance: whether the rebalanced weights are used.
        neg_scale: λ₁⁻ of a group that is not told apart.
        tolerance: how much λ₁⁻ rises with the difference of the log-odds of positives and negatives.
        max_slope: bound of λ₁⁻.
        leveling: strength with which the sides are weighed; 0 leaves their weights alone.
        max_balance: bound of that weighing.
        window: training steps over which the mean probabilities run.
        balance: c, a plain factor.
        sync: see :class:`tailwise.losses.steering.Steering`.
        common: ``reduction``, ``validate`` and ``impl``.
    """

    def __init__(
        self,
        stats: LabelStats,
        *,
        alpha: float = 0.1,
        beta: float = 10.0,
        mu: float = 0.2,
        kappa: float = 0.05,
        rebalance: bool = True,
        neg_scale: float = 1.0,
        tolerance: float = 2.0,
        max_slope: float = 20.0,
        leveling: float = 1.0,
        max_balance: float = 2.0,
        window: float = 100.0,
        balance: float = 1.0,
        sync: Sync = "auto",
        **common: Unpack[Common],
    ) -> None:
        counts = clamped_counts(stats)
        side = Side(shift=prior_shift(counts, stats.num_samples, kappa, 1.0))
        super().__init__(
            stats,
            weight=RebalancedWeight(counts, alpha, beta, mu) if rebalance else None,
            positive=side,
            negative=side,
            scale=balance,
            guidance=Steering(
                stats,
                neg_scale=neg_scale,
                tolerance=tolerance,
                max_slope=max_slope,
                leveling=leveling,
                max_balance=max_balance,
                window=window,
                sync=sync,
            ),
            **common,
        )
