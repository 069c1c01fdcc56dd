"""Ridge regression on labels in closed form, with exact leave-one-out scores for every penalty."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tailwise.models.solver import Head
from tailwise.shapes import Float, Shaped


class Ridge:
    r"""The minimisation of :math:`\frac12 \sum_i ω_i (z_i - 2 y_i + 1)^2 + \frac{α}{2} \lVert W \rVert^2`, z = Wᵀφ + b.

    The bias is not penalised; scores are above 0 where a label is more likely than not. Scores for a row by a head
    that was solved without it follow from its leverage :math:`h_{ii}`,

    .. math:: z_{-i} = y_i - (y_i - z_i) / (1 - h_{ii}).

    Args:
        rows: (N, D) features on the axes of a :class:`~tailwise.models.solver.Design`, float64.
        targets: (N, K) labels: 1, 0, soft, or unknown (−1 or NaN), which count for nothing.
        weights: (N,) image weights ω; None for 1.

    Attributes:
        curvature: 1, the unit of penalties.
    """

    curvature = 1.0

    def __init__(
        self, rows: Float[Tensor, "N D"], targets: Shaped[Tensor, "N K"], weights: Float[Tensor, "N"] | None = None
    ) -> None:
        self.rows = rows
        self.weights = rows.new_ones(len(rows)) if weights is None else weights.to(rows)
        self.labels = 2 * (targets.nan_to_num(-1) if targets.is_floating_point() else targets).to(rows.dtype) - 1
        known = self.labels >= -1
        # Classes with the same known rows have one decomposition.
        patterns, self._pattern = torch.unique(known, dim=1, return_inverse=True)
        self._parts = [_Part(rows, self.weights * pattern) for pattern in patterns.T]

    def solve(self, penalty: float, _start: Head | None = None) -> Head:
        """The head for a penalty α."""
        weight = self.rows.new_zeros(self.rows.shape[1], self.labels.shape[1])
        bias = self.rows.new_zeros(self.labels.shape[1])
        for part, classes in self._classes():
            weight[:, classes], bias[classes] = part.solve(self.labels[:, classes], penalty)
        return Head(weight, bias)

    def left_out(self, penalty: float) -> Float[Tensor, "N K"]:
        """(N, K) score of each row by the head without it."""
        head = self.solve(penalty)
        scores = head.logits(self.rows)
        for part, classes in self._classes():
            labels, kept = self.labels[:, classes], part.weights > 0
            residuals = (labels - scores[:, classes]) / (1 - part.leverages(penalty))[:, None].clamp(min=1e-6)
            scores[:, classes] = torch.where(kept[:, None], labels - residuals, scores[:, classes])
        return scores

    def _classes(self) -> Iterator[tuple[_Part, Tensor]]:
        for number, part in enumerate(self._parts):
            yield part, (self._pattern == number).nonzero()[:, 0]


class _Part:
    """The decomposition for the classes of one set of known rows."""

    def __init__(self, rows: Float[Tensor, "N D"], weights: Float[Tensor, "N"]) -> None:
        self.weights, self.total = weights, weights.sum().clamp(min=1e-12)
        self.center = weights @ rows / self.total
        self.rows = rows - self.center
        gram = (self.rows * weights[:, None]).T @ self.rows
        diagonal = gram.diagonal()
        # On the principal axes of all rows nothing is left to decompose.
        if float((gram - torch.diag(diagonal)).abs().max()) <= 1e-12 * float(diagonal.max()):
            self.energy, self.axes = diagonal, None
        else:
            energy, self.axes = torch.linalg.eigh(gram)
            self.energy = energy.clamp(min=0)

    def solve(self, labels: Float[Tensor, "N k"], penalty: float) -> tuple[Float[Tensor, "D k"], Float[Tensor, "k"]]:
        mean = self.weights @ labels / self.total
        weight = self.rows.T @ ((labels - mean) * self.weights[:, None])
        weight = weight if self.axes is None else self.axes.T @ weight
        weight = weight / (self.energy + penalty)[:, None]
        weight = weight if self.axes is None else self.axes @ weight
        return weight, mean - self.center @ weight

    def leverages(self, penalty: float) -> Float[Tensor, "N"]:
        rows = self.rows if self.axes is None else self.rows @ self.axes
        return self.weights * (1 / self.total + (rows * rows) @ (1 / (self.energy + penalty)))
