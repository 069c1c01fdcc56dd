"""Exact, tie-aware average precision of every class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.metrics.blocks import DenseLabels, Matrix, SparseLabels, Targets, is_sparse
from tailwise.metrics.on_device import average_precision_on_device
from tailwise.metrics.placing import average_precision_of
from tailwise.shapes import Float


def average_precision(scores: Tensor | NDArray[Any], targets: Targets) -> Float[Tensor, " K"]:
    r"""Average precision of each class, on raw scores.

    The area under the precision-recall steps without interpolation, as
    :func:`sklearn.metrics.average_precision_score` defines it. It is the mean, over the positives :math:`i` of a
    class, of the precision among everything that scores at least as high:

    .. math:: AP = \frac{1}{P} \sum_{i: y_i = 1}
              \frac{|\{j: y_j = 1, s_j \ge s_i\}|}{|\{j: y_j \in \{0, 1\}, s_j \ge s_i\}|}

    Samples with equal scores are therefore ranked together, whatever their order in the input. Do not round or squash
    the scores first: a sigmoid in half precision makes ties that the logits do not have.

    Only the scores of positives are sorted and kept. Everything else is read in blocks, so that arrays mapped from
    files larger than the memory will do: beside the result it takes less than 64 MiB, or where that is more, 80 bytes
    for each positive of the largest class that a thread has. Many scores are shared among
    :func:`torch.get_num_threads` threads, in loops that Numba compiles where it is installed; the bits of the result
    depend on neither, nor on the order of rows. Scores on a GPU stay there.

    Args:
        scores: (N, K) real numbers of any dtype, higher means more likely; infinities are ranked like other values.
            They are compared in their own precision.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point). An unknown label is left out of the
            ranking of its class. For very many classes also compressed sparse rows, as a ``torch.sparse_csr`` tensor or
            a matrix of :mod:`scipy.sparse`: what is not stored is 0.

    Returns:
        (K,) float64 values in (0, 1]; NaN for a class without a positive, and for one without a known negative, which
        any scores would rank without a mistake.

    Raises:
        ValueError: the shapes disagree, a score is NaN, or a target is none of 1, 0 and unknown.
    """
    shape, labels_shape = tuple(np.shape(scores)), tuple(np.shape(targets))
    if len(shape) != 2 or shape != labels_shape:
        raise ValueError(f"scores and targets must both be (N, K), got {shape} and {labels_shape}")
    # What is on Apple's GPUs, which do not have float64, is brought to the CPU.
    if isinstance(scores, Tensor) and scores.device.type not in ("cpu", "mps"):
        return average_precision_on_device(scores.detach(), targets)
    labels = SparseLabels(targets) if is_sparse(targets) else DenseLabels(targets)
    return torch.from_numpy(average_precision_of(Matrix(scores), labels))
