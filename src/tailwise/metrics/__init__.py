"""Metrics for long-tailed multi-label classification, and decisions from scores.

:class:`MultilabelAP` needs torchmetrics and fitting calibration needs SciPy; all else needs torch and numpy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailwise.metrics.average_precision import average_precision
from tailwise.metrics.calibration import Calibration, calibration_error, fit_calibration
from tailwise.metrics.curves import CurveRecorder, ProbabilityCurves, steps_between_points
from tailwise.metrics.decisions import Decisions, F1Scores, f1_by_class, f1_scores, fit_decisions, tune_thresholds
from tailwise.metrics.groups import group_means, left_out
from tailwise.metrics.ranking import log_rank_score
from tailwise.metrics.suspects import Suspects, find_suspects

if TYPE_CHECKING:
    from tailwise.metrics.multilabel_ap import MultilabelAP

__all__ = [
    "Calibration",
    "CurveRecorder",
    "Decisions",
    "F1Scores",
    "MultilabelAP",
    "ProbabilityCurves",
    "Suspects",
    "average_precision",
    "calibration_error",
    "f1_by_class",
    "f1_scores",
    "find_suspects",
    "fit_calibration",
    "fit_decisions",
    "group_means",
    "left_out",
    "log_rank_score",
    "steps_between_points",
    "tune_thresholds",
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
