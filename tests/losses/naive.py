"""The losses as scalar loops over samples and classes in Python floats, written from the formulas alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


def sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a)) if a >= 0 else math.exp(a) / (1 + math.exp(a))


def softplus(a: float) -> float:
    return max(a, 0) + math.log1p(math.exp(-abs(a)))


@dataclass
class Naive:
    """A batch of known 0/1 or soft targets; None is unknown."""

    counts: list[int]
    num_samples: int
    logits: list[list[float]]
    targets: list[list[float | None]]
    groups: dict[str, list[int]] = field(default_factory=dict)

    @property
    def pairs(self):
        for i, row in enumerate(self.targets):
            for k, y in enumerate(row):
                if y is not None:
                    yield i, k, self.logits[i][k], y

    def table(self, value) -> list[list[float]]:
        result = [[0.0] * len(self.counts) for _ in self.logits]
        for i, k, z, y in self.pairs:
            result[i][k] = value(i, k, z, y)
        return result

    def rebalanced(self, i: int, k: int, alpha: float, beta: float, mu: float) -> float:
        total = sum(y / n for y, n in zip(self.targets[i], self.counts, strict=True) if y is not None)
        if total == 0:
            return alpha + 1
        return alpha + sigmoid(beta * (1 / self.counts[k] / total - mu))

    def shift(self, k: int, kappa: float, scale: float) -> float:
        return kappa / scale * math.log(self.num_samples / self.counts[k] - 1)

    def mean_probabilities(self) -> tuple[list[float], list[float]]:
        classes = range(len(self.counts))
        positive: list[float | None] = []
        negative: list[float | None] = []
        for k in classes:
            column = [(sigmoid(z), y) for _, c, z, y in self.pairs if c == k]
            up, down = sum(y for _, y in column), sum(1 - y for _, y in column)
            positive.append(sum(p * y for p, y in column) / up if up else None)
            negative.append(sum(p * (1 - y) for p, y in column) / down if down else None)
        final_positive = list(positive)
        for members in self.groups.values():
            having = [positive[k] for k in members if positive[k] is not None]
            for k in members:
                if positive[k] is None:
                    final_positive[k] = sum(having) / len(having) if having else negative[k]
        return final_positive, [final_positive[k] if negative[k] is None else negative[k] for k in classes]


def pair_loss(z: float, y: float, *, up=(0, 1, 1, 0), down=(0, 1, 1, 0), plain_focal: bool = False) -> float:
    """The term for one pair; each side is (shift, slope, divisor, exponent)."""

    def side(sign: int, shift: float, slope: float, divisor: float, exponent: float) -> float:
        a = sign * slope * (z - shift)
        b = sign * z if plain_focal else a
        return softplus(a) * sigmoid(b) ** exponent / divisor

    return y * side(-1, *up) + (1 - y) * side(1, *down)
