"""From logits to decisions and probabilities: thresholds and calibration of every class, fitted together and kept."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.files import replacing
from tailwise.metrics.calibration import Calibration, CalibrationMethod, fit_calibration
from tailwise.metrics.f1 import f1_by_class
from tailwise.metrics.inputs import as_tensor, scores_and_targets
from tailwise.metrics.thresholds import Objective, check_objective, tune_thresholds
from tailwise.shapes import Bool, Float

DEFAULT_THRESHOLD = 0.0
"""Threshold of a class for which none was found: probability 1/2 before calibration."""

MIN_F1 = 0.1
"""A threshold with a lower F1 is not taken: such a class cannot be told from the others, and what F1 then finds best is
to predict it for nearly every image."""

_FORMAT = "tailwise-thresholds-1"


@dataclass(frozen=True, eq=False)
class Decisions:
    """Thresholds and calibration of K classes.

    Attributes:
        class_names: their names.
        thresholds: (K,) float64 logits from which on a class is predicted.
        tuned: (K,) whether a threshold was found; the others are :data:`DEFAULT_THRESHOLD`.
        num_positive: (K,) positives that the class was fitted on.
        calibration: slopes and intercepts.
        objective: what the thresholds serve.
        target: the precision or recall wanted; None for F1.
        method: how the calibration was fitted.
    """

    class_names: tuple[str, ...]
    thresholds: NDArray[np.float64]
    tuned: NDArray[np.bool_]
    num_positive: NDArray[np.int64]
    calibration: Calibration
    objective: Objective
    target: float | None
    method: CalibrationMethod

    @property
    def untuned(self) -> tuple[str, ...]:
        """Names of the classes that have the default threshold."""
        return tuple(name for name, tuned in zip(self.class_names, self.tuned, strict=True) if not tuned)

    def predict(self, logits: Tensor | NDArray[Any]) -> Bool[Tensor, "N K"]:
        """Whether each class is predicted, of (N, K) logits."""
        z = as_tensor(logits)
        return z >= torch.from_numpy(self.thresholds).to(z.device)

    def calibrate(self, logits: Tensor | NDArray[Any]) -> Float[Tensor, "N K"]:
        """Calibrated probabilities of (N, K) logits, float64 on the CPU.

        Raises:
            ValueError: the logits have another number of classes.
        """
        return self.calibration.probabilities(logits)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON, whole or not at all."""
        columns = {
            "threshold": self.thresholds,
            "tuned": self.tuned,
            "positives": self.num_positive,
            "slope": self.calibration.slope,
            "intercept": self.calibration.intercept,
        }
        lists = {name: values.tolist() for name, values in columns.items()}
        record = {
            "format": _FORMAT,
            "objective": self.objective,
            "target": self.target,
            "calibration": self.method,
            "classes": {
                name: {column: values[index] for column, values in lists.items()}
                for index, name in enumerate(self.class_names)
            },
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Decisions:
        """Read what :meth:`save` has written.

        Raises:
            ValueError: the file is not one of thresholds, or something is missing in it.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a JSON file of thresholds: {error}") from error
        if not isinstance(record, dict) or record.get("format") != _FORMAT:
            raise ValueError(f'{path} is not a file of thresholds: no "format": "{_FORMAT}" in it')
        try:
            rows = record["classes"]

            def column(name: str, dtype: type[Any]) -> NDArray[Any]:
                return np.array([row[name] for row in rows.values()], dtype=dtype)

            return cls(
                tuple(rows),
                column("threshold", np.float64),
                column("tuned", np.bool_),
                column("positives", np.int64),
                Calibration(column("slope", np.float64), column("intercept", np.float64)),
                record["objective"],
                record["target"],
                record["calibration"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a whole file of thresholds: {error!r}") from error


def fit_decisions(
    logits: Tensor | NDArray[Any],
    targets: Tensor | NDArray[Any],
    class_names: Sequence[str],
    objective: Objective = "f1",
    *,
    target: float | None = None,
    method: CalibrationMethod = "platt",
) -> Decisions:
    """Choose a threshold for every class and fit its calibration.

    Give it images that the model was not trained on: a validation set, or the held-out predictions of all folds of a
    cross-validation together; with the label frequencies that decisions will meet.

    A class has the default threshold if it has no known positive, if it has no known negative and no recall is wanted,
    if no threshold reaches the wanted precision, or if its best F1 is below :data:`MIN_F1`, after the rule for rare
    categories of Yang ("A Study on Thresholding Strategies for Text Categorization", SIGIR 2001).

    Args:
        logits: (N, K) raw scores, finite.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point); unknown labels are not counted.
        class_names: K distinct names.
        objective: what thresholds are chosen by; see :func:`tune_thresholds`.
        target: the precision or recall wanted.
        method: how probabilities are calibrated; see :func:`fit_calibration`.

    Raises:
        ValueError: as :func:`tune_thresholds` and :func:`fit_calibration`; or there is not one name for each class.
    """
    check_objective(objective, target)
    s, t = scores_and_targets(logits, targets)
    names = tuple(class_names)
    if len(names) != s.shape[1] or len(set(names)) != len(names):
        raise ValueError(f"class_names must be {s.shape[1]} distinct names, got {len(names)}")
    thresholds = tune_thresholds(s, t, objective, target=target, fallback=torch.nan).cpu().numpy()
    tuned = ~np.isnan(thresholds)
    if objective == "f1":
        tuned &= (f1_by_class(s, t, thresholds) >= MIN_F1).cpu().numpy()
    return Decisions(
        names,
        np.where(tuned, thresholds, DEFAULT_THRESHOLD),
        tuned,
        (t == 1).sum(dim=0).cpu().numpy(),
        fit_calibration(s, t, method),
        objective,
        target,
        method,
    )
