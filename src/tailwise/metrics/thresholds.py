"""Thresholds of classes, chosen on validation images among all cut points."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.metrics.inputs import scores_and_targets
from tailwise.shapes import Bool, Float, Int

Objective: TypeAlias = Literal["f1", "precision", "recall"]
"""What a threshold is chosen for: best F1, or a wanted precision or recall."""

_CHUNK_ELEMENTS = 1 << 20


def tune_thresholds(
    scores: Tensor | NDArray[Any],
    targets: Tensor | NDArray[Any],
    objective: Objective = "f1",
    *,
    target: float | None = None,
    fallback: float = 0.0,
) -> Float[Tensor, " K"]:
    r"""The threshold of each class that serves an objective best, for predictions ``scores >= threshold``.

    All cut points of a class are compared: thresholds between two neighbouring scores of known labels, and the lowest
    score, at which everything is predicted. Samples with equal scores are on one side together. Of the scores between
    two neighbours, the middle is taken. The objectives, with true positives :math:`TP`, predicted positives :math:`M`
    and positives :math:`P` of a class:

    - ``"f1"``: the largest :math:`F_1 = 2\,TP / (M + P)`; of several such cut points the highest, which predicts least.
    - ``"precision"``: the lowest cut point with :math:`TP / M \ge` ``target``, which has the largest recall of those.
    - ``"recall"``: the highest cut point with :math:`TP / P \ge` ``target``.

    A class without a known positive, or of which no cut point has the wanted precision, gets ``fallback``; so does one
    without a known negative, but for a recall, which positives alone decide: nothing shows there what a prediction too
    many is.

    Args:
        scores: (N, K) real numbers, higher means more likely, such as logits.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point); unknown labels are not counted.
        objective: what to choose by.
        target: the precision or recall wanted, in (0, 1]; None for F1.
        fallback: threshold of the classes without one; logit 0 is probability .5. NaN shows which classes they are.

    Returns:
        (K,) float64 thresholds on the scale of ``scores``.

    Raises:
        ValueError: the objective is none of these, or ``target`` does not belong to it; the shapes disagree, a score is
            NaN, or a target is none of 1, 0 and unknown.
    """
    check_objective(objective, target)
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


def check_objective(objective: str, target: float | None) -> None:
    """Refuse objectives that there are not, and targets that do not belong to them.

    Raises:
        ValueError: so it is.
    """
    if objective not in get_args(Objective):
        raise ValueError(f"objective must be one of {', '.join(get_args(Objective))}, got {objective!r}")
    if objective == "f1" and target is not None:
        raise ValueError(f"the objective 'f1' has no target; choose 'precision' or 'recall' to reach {target}")
    if objective != "f1" and not (target is not None and 0 < target <= 1):
        raise ValueError(f"the objective {objective!r} needs a target in (0, 1], got {target}")


def _per_row(
    scores: Float[Tensor, "C N"], targets: Int[Tensor, "C N"], objective: Objective, wanted: float
) -> tuple[Float[Tensor, " C"], Bool[Tensor, " C"]]:
    """Thresholds of classes that lie in rows, and whether there is one."""
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
    # There is none beside the next float, or beside minus infinity.
    return torch.where((below < middle) & (middle <= above), middle, above)
