"""Decisions from logits: a threshold and a calibration for every class, and the F1 of the predictions."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.metrics.calibration import Calibration, CalibrationMethod, fit_calibration
from tailwise.metrics.score_matrix import Labels, Scores, as_tensor, scores_and_targets
from tailwise.records import read_record, write_record
from tailwise.shapes import Bool, Float, Int

Objective: TypeAlias = Literal["f1", "precision", "recall"]
"""Criterion of a threshold: best F1, or a required precision or recall."""

DEFAULT_THRESHOLD = 0.0
"""Threshold of a class for which none was found: probability 1/2 before calibration."""

MIN_F1 = 0.1
"""A threshold with a lower F1 is discarded: the model does not recognise such a class, whose largest F1 is then that of
a prediction for nearly every image."""

_CHUNK_ELEMENTS = 1 << 20
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
        objective: criterion of the thresholds.
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

    def predict(self, logits: Scores) -> Bool[Tensor, "N K"]:
        """Whether each class is predicted, of (N, K) logits."""
        z = as_tensor(logits)
        return z >= torch.from_numpy(self.thresholds).to(z.device)

    def calibrate(self, logits: Scores) -> Float[Tensor, "N K"]:
        """Calibrated probabilities of (N, K) logits, float64 on the CPU.

        Raises:
            ValueError: the logits have another number of classes.
        """
        return self.calibration.probabilities(logits)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON, atomically."""
        columns = {
            "threshold": self.thresholds,
            "tuned": self.tuned,
            "positives": self.num_positive,
            "slope": self.calibration.slope,
            "intercept": self.calibration.intercept,
        }
        lists = {name: values.tolist() for name, values in columns.items()}
        record = {
            "objective": self.objective,
            "target": self.target,
            "calibration": self.method,
            "classes": {
                name: {column: values[index] for column, values in lists.items()}
                for index, name in enumerate(self.class_names)
            },
        }
        write_record(path, _FORMAT, record, indent=2)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Decisions:
        """Read what :meth:`save` has written.

        Raises:
            ValueError: the file is not a thresholds file, or is incomplete.
        """
        record = read_record(path, _FORMAT, "thresholds")
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
            raise ValueError(f"{path} is not a complete file of thresholds: {error!r}") from error


def fit_decisions(
    logits: Scores,
    targets: Labels,
    class_names: Sequence[str],
    objective: Objective = "f1",
    *,
    target: float | None = None,
    method: CalibrationMethod = "platt",
) -> Decisions:
    """Choose a threshold for every class and fit its calibration.

    Give it images that the model was not trained on: a validation set, or the held-out predictions of all folds of a
    cross-validation together; with the label frequencies of the data to be predicted.

    A class has the default threshold if it has no known positive, if it has no known negative and no recall is wanted,
    if no threshold reaches the wanted precision, or if its best F1 is below :data:`MIN_F1`, after the rule for rare
    categories of Yang ("A Study on Thresholding Strategies for Text Categorization", SIGIR 2001).

    Args:
        logits: (N, K) raw scores, finite.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point); unknown labels are not counted.
        class_names: K distinct names.
        objective: criterion of the thresholds; see :func:`tune_thresholds`.
        target: the precision or recall wanted.
        method: how probabilities are calibrated; see :func:`fit_calibration`.

    Raises:
        ValueError: as :func:`tune_thresholds` and :func:`fit_calibration`; or there is not one name for each class.

    Example:
        >>> logits, targets = [[2.0, 1.0], [1.5, -2.0], [-1.0, 0.0]], [[1, 1], [1, 0], [0, 0]]
        >>> decisions = fit_decisions(logits, targets, ["cat", "dog"])
        >>> decisions.thresholds
        array([0.25, 0.5 ])
        >>> decisions.predict([[0.4, 0.4]])
        tensor([[ True, False]])
    """
    _check_objective(objective, target)
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


def tune_thresholds(
    scores: Scores,
    targets: Labels,
    objective: Objective = "f1",
    *,
    target: float | None = None,
    fallback: float = 0.0,
) -> Float[Tensor, " K"]:
    r"""The best threshold of each class for an objective, for predictions ``scores >= threshold``.

    All cut points of a class are compared: thresholds between two adjacent scores of known labels, and the lowest
    score, at which everything is predicted. Tied samples are on the same side. A threshold is in the middle between
    its two scores. The objectives, with true positives :math:`TP`, predicted positives :math:`M`
    and positives :math:`P` of a class:

    - ``"f1"``: the largest :math:`F_1 = 2\,TP / (M + P)`; of several such cut points the highest, which predicts least.
    - ``"precision"``: the lowest cut point with :math:`TP / M \ge` ``target``, which has the largest recall of those.
    - ``"recall"``: the highest cut point with :math:`TP / P \ge` ``target``.

    A class without a known positive, or of which no cut point has the wanted precision, gets ``fallback``; so does one
    without a known negative, except for a recall, which positives alone decide: nothing shows false positives there.

    Args:
        scores: (N, K) real numbers, higher means more likely, such as logits.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point); unknown labels are not counted.
        objective: what to optimise.
        target: the precision or recall wanted, in (0, 1]; None for F1.
        fallback: threshold of the classes without one; logit 0 is probability .5. NaN shows which classes they are.

    Returns:
        (K,) float64 thresholds on the scale of ``scores``.

    Raises:
        ValueError: the objective is none of these, or ``target`` does not belong to it; the shapes disagree, a score is
            NaN, or a target is none of 1, 0 and unknown.

    Example:
        >>> tune_thresholds([[2.0], [1.0], [0.0]], [[1], [1], [0]])
        tensor([0.5000], dtype=torch.float64)
    """
    _check_objective(objective, target)
    s, t = scores_and_targets(scores, targets)
    num_samples, num_classes = s.shape
    result = torch.full((num_classes,), fallback, dtype=torch.float64, device=s.device)
    if num_samples == 0:
        return result
    wanted = math.nan if target is None else target
    step = max(1, _CHUNK_ELEMENTS // num_samples)
    for start in range(0, num_classes, step):
        chunk = slice(start, start + step)
        cuts, found = _per_row(s[:, chunk].T.double(), t[:, chunk].T, objective, wanted)
        result[chunk] = torch.where(found, cuts, fallback)
    return result


class F1Scores(NamedTuple):
    """The two F1 values that multi-label papers report."""

    cf1: float
    """Per-class F1: harmonic mean of the mean precision and the mean recall of the classes."""
    of1: float
    """Overall F1: from the counts of all labels together (micro-averaged)."""


def f1_scores(logits: Scores, targets: Labels, thresholds: float | Tensor | NDArray[Any] = 0.0) -> F1Scores:
    r"""CF1 and OF1 of the predictions ``logits >= thresholds``.

    With true positives :math:`TP_k`, predicted positives :math:`M_k` and known positives :math:`n_k` of class
    :math:`k` (Wang et al., "CNN-RNN: A Unified Framework for Multi-label Image Classification", CVPR 2016):

    .. math::
        CP = \operatorname{mean}_k \frac{TP_k}{M_k}, \quad CR = \operatorname{mean}_k \frac{TP_k}{n_k}, \quad
        CF1 = \frac{2\, CP \cdot CR}{CP + CR}, \quad
        OF1 = \frac{2 \sum_k TP_k}{\sum_k M_k + \sum_k n_k}

    CF1 is not the mean of the classes' F1 values (:func:`f1_by_class`). The precision of a class that is never
    predicted is 0. A class without a known positive is left out of CP and CR, as it is left out of mAP; its false
    positives still count in OF1. A class without a known negative, of which no prediction could be wrong, is left out
    of all three.

    Args:
        logits: (N, K) raw scores.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point); unknown labels are not counted.
        thresholds: one threshold, or (K,) one per class, on the scale of ``logits``: logit 0 is probability .5.

    Returns:
        Both values, in [0, 1]; ``cf1`` is NaN where no class has both a positive and a known negative, ``of1`` where
        the classes with a known negative have neither a positive nor a prediction.

    Raises:
        ValueError: the shapes disagree, a logit is NaN, or a target is none of 1, 0 and unknown.

    Example:
        >>> f1_scores([[2.0, -1.0], [1.0, 1.0], [-1.0, -2.0]], [[1, 0], [0, 1], [0, 1]])
        F1Scores(cf1=0.75, of1=0.6666666666666666)
    """
    counts = _count(logits, targets, thresholds)
    cf1, of1 = f1_of_counts(*counts)
    return F1Scores(float(cf1), float(of1))


def f1_by_class(
    logits: Scores, targets: Labels, thresholds: float | Tensor | NDArray[Any] = 0.0
) -> Float[Tensor, " K"]:
    r"""F1 of each class, :math:`2\,TP_k / (M_k + n_k)`, of the predictions ``logits >= thresholds``.

    The arguments, and the errors raised, are those of :func:`f1_scores`.

    Returns:
        (K,) float64 values in [0, 1], NaN for a class without a known positive or without a known negative.

    Example:
        >>> f1_by_class([[2.0, -1.0], [1.0, 1.0], [-1.0, -2.0]], [[1, 0], [0, 1], [0, 1]])
        tensor([0.6667, 0.6667], dtype=torch.float64)
    """
    counts = _count(logits, targets, thresholds)
    f1 = 2 * counts.hits.double() / (counts.predicted + counts.positive)
    return f1.masked_fill((counts.positive == 0) | (counts.negative == 0), torch.nan)


def f1_of_counts(
    hits: Int[Tensor, "*T K"],
    num_predicted: Int[Tensor, "*T K"],
    num_positive: Int[Tensor, " K"],
    num_negative: Int[Tensor, " K"],
) -> tuple[Float[Tensor, "*T"], Float[Tensor, "*T"]]:
    """CF1 and OF1 as :func:`f1_scores` defines them, from the true positives, predicted positives, known positives and
    known negatives of every class; for one set of thresholds or for T."""
    hits = hits.double()
    can_fail = num_negative > 0
    scored = can_fail & (num_positive > 0)
    precision = (hits / num_predicted.clamp(min=1))[..., scored].mean(dim=-1)
    recall = (hits / num_positive)[..., scored].mean(dim=-1)
    # No hit at all makes both means 0, and their harmonic mean 0 as well.
    cf1 = torch.where(precision == 0, precision, 2 * precision * recall / (precision + recall))
    hits, num_predicted, num_positive = hits[..., can_fail], num_predicted[..., can_fail], num_positive[can_fail]
    of1 = 2 * hits.sum(dim=-1) / (num_predicted.sum(dim=-1) + num_positive.sum())
    return cf1, of1


class _Counts(NamedTuple):
    """Counts of each class among its known labels."""

    hits: Int[Tensor, " K"]
    predicted: Int[Tensor, " K"]
    positive: Int[Tensor, " K"]
    negative: Int[Tensor, " K"]


def _count(logits: Scores, targets: Labels, thresholds: float | Tensor | NDArray[Any]) -> _Counts:
    s, t = scores_and_targets(logits, targets)
    bounds = torch.as_tensor(thresholds, device=s.device)
    if bounds.ndim > 1 or (bounds.ndim == 1 and len(bounds) != s.shape[1]):
        raise ValueError(
            f"thresholds must be one number or one for each of the {s.shape[1]} classes, got {tuple(bounds.shape)}"
        )
    predicted = (s >= bounds) & (t >= 0)
    positive = t == 1
    return _Counts((predicted & positive).sum(dim=0), predicted.sum(dim=0), positive.sum(dim=0), (t == 0).sum(dim=0))


def _check_objective(objective: str, target: float | None) -> None:
    """Raise a ValueError for an unknown objective, and for a target that the objective does not take."""
    if objective not in get_args(Objective):
        raise ValueError(f"objective must be one of {', '.join(get_args(Objective))}, got {objective!r}")
    if objective == "f1" and target is not None:
        raise ValueError(f"the objective 'f1' has no target; choose 'precision' or 'recall' to reach {target}")
    if objective != "f1" and not (target is not None and 0 < target <= 1):
        raise ValueError(f"the objective {objective!r} needs a target in (0, 1], got {target}")


def _per_row(
    scores: Float[Tensor, "C N"], targets: Int[Tensor, "C N"], objective: Objective, wanted: float
) -> tuple[Float[Tensor, " C"], Bool[Tensor, " C"]]:
    """Thresholds of classes, one per row, and whether there is one."""
    known = targets >= 0
    ordered, order = scores.masked_fill(~known, -math.inf).sort(dim=1, descending=True)
    hits = (targets == 1).gather(1, order).cumsum(dim=1)
    predicted = known.gather(1, order).cumsum(dim=1)
    num_positive, can_fail = hits[:, -1:], hits[:, -1] < predicted[:, -1]
    lower = torch.cat([ordered[:, 1:], torch.full_like(ordered[:, :1], -math.inf)], dim=1)
    # Below the last known label there are only unknown ones, which were given the lowest score to get there.
    is_cut = (ordered > lower) | (predicted == predicted[:, -1:])
    is_cut &= torch.cat([torch.ones_like(is_cut[:, :1]), predicted[:, :-1] < predicted[:, -1:]], dim=1)
    rank = torch.arange(ordered.shape[1], device=scores.device)
    if objective == "f1":
        f1 = (2 * hits.double() / (predicted + num_positive)).masked_fill(~is_cut, -1)
        chosen = f1.argmax(dim=1)  # the first of the largest
        reached = (num_positive.squeeze(1) > 0) & can_fail
    elif objective == "precision":
        is_reached = is_cut & (hits.double() / predicted >= wanted)
        chosen = torch.where(is_reached, rank, -1).amax(dim=1)
        reached = (chosen >= 0) & can_fail
    else:
        is_reached = is_cut & (hits.double() / num_positive >= wanted)
        chosen = torch.where(is_reached, rank, len(rank)).amin(dim=1)
        reached = chosen < len(rank)
    return _between(lower, ordered, chosen.clamp(0, len(rank) - 1)), reached


def _between(
    lower: Float[Tensor, "C N"], upper: Float[Tensor, "C N"], chosen: Int[Tensor, " C"]
) -> Float[Tensor, " C"]:
    """Numbers above ``lower`` and not above ``upper``, in the middle where there is one."""
    below, above = (values.gather(1, chosen[:, None]).squeeze(1) for values in (lower, upper))
    middle = below / 2 + above / 2
    # There is none next to the following float, or next to minus infinity.
    return torch.where((below < middle) & (middle <= above), middle, above)
