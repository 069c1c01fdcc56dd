"""Heads solved to convergence on frozen features; their transform and strength are chosen on the training split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tailwise.data.dataset import Dataset
from tailwise.data.splits import divide
from tailwise.labels import LabelStats
from tailwise.losses.loss import Loss
from tailwise.matrix import to_dense
from tailwise.metrics import average_precision, log_rank_score
from tailwise.models.heads import TRANSFORMS, FeatureTransform
from tailwise.models.ridge import Ridge
from tailwise.models.solver import Design, Head, Problem
from tailwise.shapes import Float
from tailwise.training.config import RIDGE, TrainConfig
from tailwise.training.trainer import create_sampler

MakeLoss = Callable[[TrainConfig, LabelStats], nn.Module]

STRENGTHS: tuple[float, ...] = tuple(float(10 ** (-step / 3)) for step in range(-6, 16))
"""Strengths that are tried, from strong to weak: penalties divided by the curvature of the loss and by the variance of
the features, which makes them the same for all losses and scales."""

# The path ends after so many strengths in a row that are worse than the best.
_PATIENCE = 3
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """How the head of one loss was chosen.

    Attributes:
        loss: the loss.
        strength: one of :data:`STRENGTHS`.
        tried: the strengths that were tried.
        scores: the score of the rankings of held-out images at each of them.
        precisions: mean average precision of the same rankings, as fractions.
        converged: whether the solver reached its tolerance, and adaptive factors settled.
    """

    loss: str
    strength: float
    tried: tuple[float, ...]
    scores: tuple[float, ...]
    precisions: tuple[float, ...]
    converged: bool


@dataclass(frozen=True, eq=False)
class Solved:
    """A solved head.

    Attributes:
        transform_name: the kind of the transform.
        transform: makes features into the inputs of the linear layer.
        weight: (K, F) weight of the linear layer.
        bias: (K,) its bias.
        held_out: (N, K) scores of the training rows, by heads that were solved without them.
        folds: number of parts that were held out in turn: fewer than asked for where rows or groups are.
        parts: how the head of each loss was chosen; several are averaged.
    """

    transform_name: str
    transform: FeatureTransform
    weight: Float[Tensor, "K F"]
    bias: Float[Tensor, "K"]
    held_out: Float[Tensor, "N K"]
    folds: int
    parts: tuple[Chosen, ...]

    @property
    def record(self) -> dict[str, Any]:
        """How the head was chosen, as JSON."""
        parts = [asdict(part) for part in self.parts]
        listed = [
            {key: [*value] if isinstance(value, tuple) else value for key, value in part.items()} for part in parts
        ]
        return {"transform": self.transform_name, "parts": listed}


def solve_head(features: Float[Tensor, "N F"], split: Dataset, config: TrainConfig, make_loss: MakeLoss) -> Solved:
    """Solve the head that a configuration describes, on features of a training split.

    Args:
        features: of each row, on the device that computes.
        split: the rows, with their labels.
        config: the resolved configuration. It names the loss, or several joined by a plus sign, whose heads are
            averaged; and the sampler, whose expected draws are the weights of the images.
        make_loss: makes the loss of a configuration for statistics of training labels.

    Raises:
        InputError: there is one row or one group only, or images have weights and the loss has no value of each image.
    """
    solver = _Solver(features, split, config, make_loss)
    found = [solver.solve(loss) for loss in config.loss.split("+")]
    for chosen, *_ in found:
        if not chosen.converged:
            _logger.warning("%s did not converge at strength %.3g, the best one", chosen.loss, chosen.strength)
    # Heads are averaged in the unit of their held-out scores, and have the mean of these units.
    units = torch.stack([held_out.std(0) for *_, held_out in found]).clamp(min=1e-6)
    shares = units.mean(0) / units / len(found)
    weight = sum((share * head.weight for share, (_, head, _) in zip(shares, found, strict=True)), torch.zeros(()))
    bias = sum((share * head.bias for share, (_, head, _) in zip(shares, found, strict=True)), torch.zeros(()))
    held_out = sum((share * scores for share, (*_, scores) in zip(shares, found, strict=True)), torch.zeros(()))
    return Solved(
        solver.transform_name,
        solver.transform,
        *solver.design.linear(Head(weight, bias)),
        held_out.cpu(),
        solver.num_folds,
        tuple(chosen for chosen, *_ in found),
    )


class _Solver:
    """Features and labels of a training split, whole and without each fold."""

    def __init__(
        self, features: Float[Tensor, "N F"], split: Dataset, config: TrainConfig, make_loss: MakeLoss
    ) -> None:
        self.config, self.split, self.make_loss = config, split, make_loss
        self.targets = to_dense(split.targets)
        self.labels = torch.from_numpy(self.targets).to(features.device)
        rates = create_sampler(config, split.targets).rates
        self.weights = torch.from_numpy(rates / rates.mean()).to(features.device)
        units = len(split) if split.groups is None else len(set(split.groups))
        self.num_folds = max(2, min(config.head.folds, units))
        self.folds = divide(split, self.num_folds)
        self.transform_name, self.transform, self.design = self._transformed(features)

    def solve(self, loss: str) -> tuple[Chosen, Head, Float[Tensor, "N K"]]:
        """How the head of a loss was chosen, the head, and the held-out scores."""
        strengths = STRENGTHS if self.config.head.strength is None else (self.config.head.strength,)
        whole = self._problem(loss)
        unit = whole.curvature * self.design.variance
        parts = [self._problem(loss, self.folds != fold) for fold in range(self.num_folds)]
        scores: list[float] = []
        precisions: list[float] = []
        heads: list[Head | None] = [None] * len(parts)
        best: tuple[Float[Tensor, "N K"], Head | None] = self.labels.float(), None
        for strength in strengths:
            penalty = strength * unit
            found = [part.solve(penalty, head) for part, head in zip(parts, heads, strict=True)]
            # Factors that do not settle at one strength do not settle at weaker ones.
            if scores and not all(head.converged for head in found):
                break
            heads = [*found]
            held_out = self._held_out(found)
            scores.append(self._score(held_out))
            precisions.append(float(average_precision(held_out, self.targets).nanmean()))
            if np.argmax(scores) == len(scores) - 1:
                best = held_out, found[0]
            elif len(scores) - np.argmax(scores) > _PATIENCE:
                break
        strength = strengths[int(np.argmax(scores))]
        head = whole.solve(strength * unit, best[1])
        tried = strengths[: len(scores)]
        chosen = Chosen(loss, strength, tried, tuple(scores), tuple(precisions), head.converged)
        return chosen, head, best[0]

    def _transformed(self, features: Float[Tensor, "N F"]) -> tuple[str, FeatureTransform, Design]:
        """The transform with which ridge regression ranks rows that are left out best."""
        given = self.config.head.transform
        found = []
        for name in TRANSFORMS if given == "auto" else (given,):
            transform = FeatureTransform.fit(name, features)
            found.append((name, transform, Design.of(transform(features))))
        if len(found) == 1:
            return found[0]
        scores = [max(map(self._score, self._left_out(design))) for *_, design in found]
        return found[int(np.argmax(scores))]

    def _left_out(self, design: Design) -> Iterator[Float[Tensor, "N K"]]:
        ridge = Ridge(design.rows, self.labels, self.weights)
        return (ridge.left_out(strength * design.variance) for strength in STRENGTHS)

    def _score(self, scores: Float[Tensor, "N K"]) -> float:
        return float(log_rank_score(scores, self.targets).nanmean())

    def _problem(self, loss: str, kept: NDArray[np.bool_] | None = None) -> Problem | Ridge:
        """The problem of a loss on all rows, or on those kept."""
        rows, labels, weights, targets = self.design.rows, self.labels, self.weights, self.split.targets
        if kept is not None:
            chosen = torch.from_numpy(kept).to(rows.device)
            rows, labels, weights, targets = rows[chosen], labels[chosen], weights[chosen], targets[kept]
        if loss == RIDGE:
            return Ridge(rows, labels, weights)
        stats = LabelStats.from_targets(targets, self.split.class_names, self.config.thresholds)
        made = self.make_loss(replace(self.config, loss=loss), stats).to(rows.device)
        if isinstance(made, Loss) and "none" in made.reductions:
            made.reduction = "none"
        return Problem(rows.float(), labels, made, weights.float())

    def _held_out(self, heads: Sequence[Head]) -> Float[Tensor, "N K"]:
        """Scores of each fold by the head that was solved without it.

        The mean of each fold is moved to that of all: the head without a rare positive has a lower bias, and would rank
        this positive, when it is held out, below the images of other folds.
        """
        scores = torch.zeros(self.labels.shape, device=self.labels.device)
        for fold, head in enumerate(heads):
            rows = torch.from_numpy(self.folds == fold).to(scores.device)
            own = head.logits(self.design.rows[rows].to(head.weight))
            scores[rows] = (own - own.mean(0)).float()
        # The bias is the mean score of all rows: the features have mean 0.
        return scores + torch.stack([head.bias for head in heads]).mean(0).float()
