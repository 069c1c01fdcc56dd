"""Label suspects: recorded labels that held-out predictions contradict, the most suspect of all classes first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tailwise.metrics.score_matrix import Labels, Scores, probabilities_and_targets
from tailwise.shapes import Float, Int

MIN_SCORE = 2.0
"""A positive with a lower score is hardly more suspect than any other."""

_CHUNK_ELEMENTS = 1 << 20


@dataclass(frozen=True, eq=False)
class Suspects:
    """S labels that are suspected of being wrong or missing, the most suspect first.

    Attributes:
        rows: (S,) rows of the samples.
        classes: (S,) columns of the classes.
        given: (S,) int8 labels as recorded: 1, suspected of being wrong, or 0, where a label may be missing.
        probabilities: (S,) probabilities of the classes.
        scores: (S,) factors from the share of wrong labels to the probability of a mistake; see :func:`find_suspects`.
    """

    rows: NDArray[np.intp]
    classes: NDArray[np.intp]
    given: NDArray[np.int8]
    probabilities: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)


def find_suspects(probabilities: Scores, targets: Labels, *, min_score: float = MIN_SCORE) -> Suspects:
    r"""The labels that held-out probabilities contradict, ranked over all classes together.

    A label of class :math:`k`, with the probability :math:`p` of a model that has not seen the sample, and the
    frequency :math:`\pi` of the class among its known labels, has the score

    .. math::
        s = \frac{\pi / (1 - \pi)}{p / (1 - p)} \;\text{ if it is positive,} \qquad
        s = \frac{p}{1 - p} \;\text{ if it is negative.}

    This is Bayes' rule under class-conditional noise (Natarajan et al., "Learning with Noisy Labels", NeurIPS 2013),
    where a label is changed by chance, with one probability for the positives of a class and another for its negatives:
    if in every class a share :math:`\varepsilon` of the recorded positives is wrong and as large a share of the
    true ones is missing, a label of score s is a mistake with probability :math:`\varepsilon s`, for shares so small
    that :math:`p` is nearly the probability of the true label. No share needs to be known to rank by it. A positive
    as likely as a sample at random scores 1, however rare its class; by log-loss, the positives of every rare class
    that the model does not recognise would come before all else.

    The ranking has its limits. It is only as good as the model: what a model confuses is suspected like what is wrong.
    Where rare classes have a much larger share of wrong labels than frequent ones, they are found too late.
    Probabilities cannot tell how many labels are wrong, since those of a perfect model of noisy labels and of a
    poor model of clean labels are alike; the number of suspects is no estimate of it. Mistakes made on purpose or by a
    rule, such as one class always recorded as another, are learnt by the model and not found.

    Args:
        probabilities: (N, K) calibrated probabilities in [0, 1] for samples that their model was not trained on, such
            as :func:`~tailwise.metrics.fit_calibration` gives for the held-out logits of all folds of a
            cross-validation.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point), dense or compressed sparse rows.
            Unknown labels are no suspects, nor are labels of classes without a positive or without a known negative.
        min_score: the lowest score of a suspect.

    Returns:
        The suspects by falling score; of equal ones by row, then by class.

    Raises:
        ValueError: the shapes disagree, a probability is not in [0, 1], a target is none of 1, 0 and unknown, or
            ``min_score`` is not above 0.

    Example:
        >>> found = find_suspects([[0.9], [0.1], [0.8], [0.2]], [[1], [1], [0], [0]])
        >>> found.rows, found.given, found.scores.round(2)
        (array([1, 2]), array([1, 0], dtype=int8), array([9., 4.]))
    """
    if not min_score > 0:
        raise ValueError(f"min_score must be above 0, got {min_score}")
    p, t = probabilities_and_targets(probabilities, targets)
    num_samples, num_classes = p.shape
    step = max(1, _CHUNK_ELEMENTS // max(1, num_samples))
    parts = []
    for start in range(0, max(1, num_classes), step):
        chunk = slice(start, start + step)
        rows, classes, *values = _of_chunk(p[:, chunk].double().cpu().numpy(), t[:, chunk].cpu().numpy(), min_score)
        parts.append((rows, classes + start, *values))
    rows, classes, given, likely, scores = (np.concatenate(values) for values in zip(*parts, strict=True))
    order = np.lexsort((classes, rows, -scores))
    return Suspects(rows[order], classes[order], given[order], likely[order], scores[order])


def _of_chunk(
    p: Float[np.ndarray, "N C"], t: Int[np.ndarray, "N C"], min_score: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int8], NDArray[np.float64], NDArray[np.float64]]:
    """Rows, classes, labels, probabilities and scores of the suspects among some classes."""
    num_positive, num_negative = (t == 1).sum(axis=0), (t == 0).sum(axis=0)
    has_both = (num_positive > 0) & (num_negative > 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # of probabilities 0 and 1, and of classes without both
        scores = np.where(t == 1, num_positive / num_negative * (1 - p) / p, p / (1 - p))
    rows, classes = np.nonzero((t >= 0) & has_both & (scores >= min_score))
    return rows, classes, t[rows, classes], p[rows, classes], scores[rows, classes]
