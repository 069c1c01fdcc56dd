"""Metrics for long-tailed multi-label classification; all but :class:`MultilabelAP` need torch and numpy only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailwise.metrics.average_precision import average_precision
from tailwise.metrics.f1 import F1Scores, f1_scores
from tailwise.metrics.groups import group_means, left_out
from tailwise.metrics.probability_curves import CurveRecorder, ProbabilityCurves, steps_between_points

if TYPE_CHECKING:
    from tailwise.metrics.multilabel_ap import MultilabelAP

__all__ = [
    "CurveRecorder",
    "F1Scores",
    "MultilabelAP",
    "ProbabilityCurves",
    "average_precision",
    "f1_scores",
    "group_means",
    "left_out",
    "steps_between_points",
]


def __getattr__(name: str) -> Any:
    if name != "MultilabelAP":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from tailwise.metrics.multilabel_ap import MultilabelAP
    except ModuleNotFoundError as error:
        if error.name != "torchmetrics":
            raise
        raise ImportError("MultilabelAP needs torchmetrics: pip install 'tailwise[train]'") from error
    return MultilabelAP
