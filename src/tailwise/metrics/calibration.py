"""Calibration of every class: the calibration error of probabilities, and probabilities from scaled logits."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.metrics.score_matrix import Labels, Scores, as_tensor, probabilities_and_targets, scores_and_targets
from tailwise.shapes import Float, Int

CalibrationMethod: TypeAlias = Literal["platt", "temperature"]
"""A slope and an intercept per class (Platt scaling), or a slope alone (temperature scaling)."""

NUM_BINS = 15
_CHUNK_ELEMENTS = 1 << 20


class Calibration(NamedTuple):
    r"""Calibrated probabilities :math:`\sigma(a_k z_k + b_k)` of logits :math:`z_k`."""

    slope: NDArray[np.float64]
    """(K,) values of a, not negative, so that no ranking is reversed. Temperature is 1 / a."""
    intercept: NDArray[np.float64]
    """(K,) values of b."""

    def probabilities(self, logits: Scores) -> Float[Tensor, "N K"]:
        """Calibrated probabilities of (N, K) logits, float64.

        Raises:
            ValueError: the logits have another number of classes.
        """
        z = as_tensor(logits).cpu().double()
        if z.ndim != 2 or z.shape[1] != len(self.slope):
            raise ValueError(f"logits must be (N, {len(self.slope)}), got {tuple(z.shape)}")
        return torch.sigmoid(z * torch.from_numpy(self.slope) + torch.from_numpy(self.intercept))


def calibration_error(probabilities: Scores, targets: Labels, *, num_bins: int = NUM_BINS) -> Float[Tensor, " K"]:
    r"""Expected calibration error of each class, over bins of equally many samples.

    The samples of a class are divided into bins by rank of their probability, and in each bin the mean probability is
    compared with the frequency of positives (Nixon et al., "Measuring Calibration in Deep Learning", CVPR Workshops
    2019, "adaptive" binning):

    .. math:: ECE = \sum_b \frac{n_b}{n} \, \Big| \frac{1}{n_b} \sum_{i \in b} (y_i - p_i) \Big|

    A sample with :math:`r` of the :math:`n` known labels at lower probabilities is in bin :math:`\lfloor Br/n \rfloor`,
    so that equal probabilities share a bin. Bins of equal width would put nearly all samples of a rare class into the
    first one, and compare no more than two means.

    Args:
        probabilities: (N, K) numbers in [0, 1].
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point); unknown labels are not counted.
        num_bins: number of bins B.

    Returns:
        (K,) float64 errors in [0, 1], NaN for a class without a known negative: with
        positive labels alone, the frequency of the class is unknown.

    Raises:
        ValueError: the shapes disagree, a probability is not in [0, 1], a target is none of 1, 0 and unknown, or there
            is no bin.

    Example:
        >>> calibration_error([[0.9], [0.9], [0.1], [0.1]], [[1], [0], [0], [0]])
        tensor([0.2500], dtype=torch.float64)
    """
    p, t = probabilities_and_targets(probabilities, targets)
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    result = torch.full((p.shape[1],), torch.nan, dtype=torch.float64, device=p.device)
    if len(p) == 0:
        return result
    step = max(1, _CHUNK_ELEMENTS // len(p))
    for start in range(0, p.shape[1], step):
        chunk = slice(start, start + step)
        result[chunk] = _binned_error(p[:, chunk].T.double().contiguous(), t[:, chunk].T, num_bins)
    return result


def fit_calibration(logits: Scores, targets: Labels, method: CalibrationMethod = "platt") -> Calibration:
    r"""Fit a calibration of each class by maximum likelihood, to images that were not trained on.

    The labels are smoothed as Platt did ("Probabilistic Outputs for Support Vector Machines", 1999): positives count as
    :math:`(P + 1) / (P + 2)` and negatives as :math:`1 / (n - P + 2)`, of :math:`P` positives among :math:`n` known
    labels, so that a class with one positive, or one that is separated from the negatives, has a finite optimum. Where
    the best slope would be negative, the class ranks no better than chance: its slope is 0, and with Platt's method
    its probability the smoothed frequency. Without a positive the slope is not determined and stays 1; Platt's method
    then fits the intercept alone. Without a known negative the frequency is not determined either, and the class keeps
    its probabilities.

    Args:
        logits: (N, K) raw scores, finite.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point); unknown labels are not counted.
        method: "platt" for slope and intercept (Platt scaling), "temperature" for a slope alone (Guo et al., "On
            Calibration of Modern Neural Networks", ICML 2017), which cannot correct a class that is too likely for all
            images.

    Returns:
        Slope and intercept of each class.

    Raises:
        ValueError: there is no such method, the shapes disagree, a logit is not finite, or a target is none of 1, 0 and
            unknown.

    Example:
        >>> logits, targets = [[3.0], [1.0], [-1.0], [-3.0]], [[1], [0], [1], [0]]
        >>> fit_calibration(logits, targets).probabilities(logits)[:, 0]
        tensor([0.6496, 0.5513, 0.4487, 0.3504], dtype=torch.float64)
    """
    if method not in get_args(CalibrationMethod):
        raise ValueError(f"method must be one of {', '.join(get_args(CalibrationMethod))}, got {method!r}")
    s, t = scores_and_targets(logits, targets)
    z, y = s.double().cpu().numpy(), t.cpu().numpy()
    if not np.isfinite(z).all():
        raise ValueError("logits must be finite numbers to be calibrated")
    fitted = [_fit_class(z[y[:, k] >= 0, k], y[y[:, k] >= 0, k] == 1, method) for k in range(z.shape[1])]
    slope, intercept = np.array(fitted, dtype=np.float64).reshape(-1, 2).T
    return Calibration(slope.copy(), intercept.copy())


def _binned_error(
    probabilities: Float[Tensor, "C N"], targets: Int[Tensor, "C N"], num_bins: int
) -> Float[Tensor, " C"]:
    known = targets >= 0
    num_known = known.sum(dim=1, keepdim=True)
    # Unknown labels are above all others, where they change no rank.
    ordered = _sorted_rows(probabilities.masked_fill(~known, 2.0))
    # Br/n is at least b where at least ⌈bn/B⌉ probabilities are lower: above the one of this rank, counted from 1.
    ranks = -(-torch.arange(1, num_bins, device=known.device) * num_known // num_bins)
    edges = ordered.gather(1, (ranks - 1).clamp(min=0))
    # Unknown labels get a separate bin, which is discarded.
    bins = torch.searchsorted(edges, probabilities).masked_fill(~known, num_bins)
    gaps = torch.zeros(len(bins), num_bins + 1, dtype=torch.float64, device=bins.device)
    gaps.scatter_add_(1, bins, (targets == 1).double() - probabilities)
    errors = gaps[:, :num_bins].abs().sum(dim=1) / num_known.squeeze(1)
    return errors.masked_fill(~(targets == 0).any(dim=1), torch.nan)


def _sorted_rows(values: Float[Tensor, "C N"]) -> Float[Tensor, "C N"]:
    """Each row in rising order."""
    if values.device.type == "cpu":
        # numpy sorts bare values with vector instructions, several times faster than torch's sort with indices.
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def _fit_class(z: NDArray[np.float64], positive: NDArray[np.bool_], method: CalibrationMethod) -> tuple[float, float]:
    """Slope and intercept of one class from its known labels."""
    num_positive = int(positive.sum())
    num_negative = len(z) - num_positive
    if num_negative == 0:
        return 1.0, 0.0
    smoothed = np.where(positive, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2))
    if method == "temperature":
        return (_fit_slope(z, smoothed) if num_positive else 1.0), 0.0
    if not num_positive:
        return 1.0, _fit_intercept(z, smoothed)
    return _fit_line(z, smoothed)


def _fit_slope(z: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """The slope without intercept, at least 0, at which the cross-entropy has its minimum; 1 where it has none."""

    def derivative(slope: float) -> float:
        return float(np.mean((_sigmoid(slope * z) - targets) * z))

    if not z.any():
        return 1.0
    return _root(derivative, 0.0, 1 / np.abs(z).max()) if derivative(0.0) < 0 else 0.0


def _fit_intercept(z: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """The intercept at slope 1 with which the mean probability is that of the targets."""

    def excess(intercept: float) -> float:
        return float(np.mean(_sigmoid(z + intercept) - targets))

    # At this one, no probability is above its target.
    lowest = float(np.log(targets.min()) - np.log1p(-targets.min()) - z.max())
    return _root(excess, lowest, 1.0) if excess(lowest) < 0 else lowest


def _root(increasing: Any, start: float, step: float) -> float:
    """Where an increasing function, negative at ``start``, is 0."""
    from scipy.optimize import brentq

    while increasing(start + step) < 0:
        step *= 2
    return float(brentq(increasing, start, start + step, xtol=1e-12, rtol=1e-12))


def _fit_line(z: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[float, float]:
    """Slope, at least 0, and intercept at which the cross-entropy has its minimum."""
    from scipy.optimize import minimize

    frequency = targets.mean()
    base = float(np.log(frequency) - np.log1p(-frequency))
    mean, scale = float(z.mean()), float(z.std())
    # With the intercept of the frequency, a slope above 0 is better than none if the logits go with the targets.
    if scale == 0 or np.mean((z - mean) * targets) <= 0:
        return 0.0, base
    inputs = np.stack([(z - mean) / scale, np.ones_like(z)])

    def value_and_slope(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        a = line @ inputs
        return float(np.mean(np.logaddexp(0, a) - targets * a)), inputs @ (_sigmoid(a) - targets) / len(z)

    def curvature(line: NDArray[np.float64]) -> NDArray[np.float64]:
        p = _sigmoid(line @ inputs)
        product: NDArray[np.float64] = (inputs * (p * (1 - p))) @ inputs.T / len(z)
        return product

    start = np.array([0.0, base])
    line = minimize(value_and_slope, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-10}).x
    return float(line[0] / scale), float(line[1] - line[0] * mean / scale)


def _sigmoid(a: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit

    probability: NDArray[np.float64] = expit(a)
    return probability
