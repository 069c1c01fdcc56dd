"""Samplers that look at the labels, so that images of rare classes come up more often."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.data.samplers.epoch import EpochSampler, shuffled_rounds
from tailwise.data.samplers.positives import find_positives
from tailwise.errors import InputError

_ONE = 1 << 32
"""One draw in the fixed-point numbers that epochs of :class:`RepeatFactorSampler` are counted in."""


class ClassAwareSampler(EpochSampler):
    """Every class equally often (Shen et al., "Relay Backpropagation for Effective Learning of Deep CNNs", ECCV 2016).

    Walks through the shuffled list of classes, and takes the next ``samples_per_class`` images of each from that
    class's own shuffled list. A list that ends is shuffled again. An epoch has ``max_k n_k * K / reduce`` draws,
    with K the number of classes that have images and n_k the number of images of class k: as many as bring each of
    the most frequent class's images up once, divided by ``reduce``. An image without a positive label never comes up.

    Args:
        targets: (N, K) labels: 1, 0, or -1 for unknown, which is no positive. An array, a tensor, or a CSR matrix of
            ``torch`` or ``scipy.sparse``.
        seed: seed of every epoch.
        samples_per_class: images taken from a class in a row.
        reduce: divisor of the epoch's length.
        rank: this process, from 0; by default as ``torch.distributed`` says.
        num_replicas: number of processes that share the draws; by default as ``torch.distributed`` says.

    Raises:
        InputError: no label is positive, ``targets`` is no matrix, or a number is out of range.

    Warns:
        UserWarning: classes without images are left out.
    """

    def __init__(
        self,
        targets: Any,
        *,
        seed: int = 0,
        samples_per_class: int = 3,
        reduce: int | float = 4,
        rank: int | None = None,
        num_replicas: int | None = None,
    ) -> None:
        if samples_per_class < 1 or not reduce > 0:
            raise InputError(f"expected samples_per_class >= 1 and reduce > 0, got {samples_per_class} and {reduce}")
        positives = find_positives(targets)
        counts = positives.counts[positives.counts > 0]
        self._images = np.split(positives.rows, np.cumsum(counts)[:-1])
        num_classes = len(positives.counts)
        if len(counts) < num_classes:
            empty = num_classes - len(counts)
            warnings.warn(f"{empty} of {num_classes} classes have no image and are never drawn", stacklevel=2)
        self.samples_per_class = samples_per_class
        length = max(1, int(int(counts.max()) * len(counts) / reduce))
        super().__init__(length, seed=seed, rank=rank, num_replicas=num_replicas)

    def _draw(self, epoch: int, count: int) -> NDArray[np.intp]:
        # A stream for the list of classes and one for each class's images: how far one list goes moves no other.
        walk, *streams = np.random.SeedSequence([self.seed, epoch]).spawn(1 + len(self._images))
        # Of a visit that is longer than the epoch, no more than the epoch is drawn.
        length = min(self.samples_per_class, count)
        visits = shuffled_rounds(walk, len(self._images), -(-count // length))
        num_visits = np.bincount(visits, minlength=len(self._images))
        visits_by_class = np.split(np.argsort(visits, kind="stable"), np.cumsum(num_visits)[:-1])
        draws = np.empty((len(visits), length), dtype=np.intp)
        for images, mine, stream in zip(self._images, visits_by_class, streams, strict=True):
            draws[mine] = images[shuffled_rounds(stream, len(images), len(mine) * length)].reshape(-1, length)
        return draws.reshape(-1)[:count]


class InverseFrequencySampler(EpochSampler):
    """Rows drawn independently of each other, with replacement, by the frequencies of their classes.

    Row i has the weight w_i = Σ_k y_ik / n_k, with n_k the number of rows positive for class k, and each draw is row i
    with probability w_i / Σ_j w_j. This is the same as to draw a class, each with the same probability, and then one
    of its rows: what :class:`ClassAwareSampler` does in turn, left to chance. An epoch has N draws.

    Rows without a positive label ("normal", "no finding") count as one more class by default, so that no row is left
    out: together they have the weight ``background``, and each of them its share.

    Args:
        targets: (N, K) labels: 1, 0, or -1 for unknown, which is no positive. An array, a tensor, or a CSR matrix of
            ``torch`` or ``scipy.sparse``.
        seed: seed of every epoch.
        background: how often rows without a positive label are drawn, all together: 1 is as often as a class, 2 twice
            as often, 0 never.
        rank: this process, from 0; by default as ``torch.distributed`` says.
        num_replicas: number of processes that share the draws; by default as ``torch.distributed`` says.

    Attributes:
        weights: (N,) w_i.

    Raises:
        InputError: no label is positive, ``targets`` is no matrix, or a number is out of range.
    """

    def __init__(
        self,
        targets: Any,
        *,
        seed: int = 0,
        background: int | float = 1.0,
        rank: int | None = None,
        num_replicas: int | None = None,
    ) -> None:
        if not 0 <= background < math.inf:
            raise InputError(f"expected background >= 0, got {background}")
        positives = find_positives(targets)
        shares = 1 / np.maximum(positives.counts, 1)
        self.weights = np.bincount(positives.rows, positives.spread(shares), minlength=positives.num_rows)
        is_background = positives.per_row == 0
        if is_background.any():
            self.weights[is_background] = background / is_background.sum()
        self._ends: NDArray[np.float64] = np.cumsum(self.weights)
        super().__init__(positives.num_rows, seed=seed, rank=rank, num_replicas=num_replicas)

    def _draw(self, epoch: int, count: int) -> NDArray[np.intp]:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
        points = generator.random(count) * self._ends[-1]
        draws: NDArray[np.intp] = np.searchsorted(self._ends, points, side="right")
        return draws


class RepeatFactorSampler(EpochSampler):
    """Every row at least once, and rows of rare classes again (Gupta et al., "LVIS", CVPR 2019, section 3.2).

    A class that is positive in the share f_k = n_k / N of the rows has the repeat factor r_k = max(1, sqrt(t / f_k)),
    a row the largest one of its positive classes, r_i, which is 1 if it has none. The fraction of r_i is drawn anew in
    each epoch, as the paper does, but for all rows together: the epoch always has ceil(Σ_i r_i) draws. For that,
    all r_i are scaled up by the same factor, at most 1 + 1 / N, so that their sum is whole; the rows are laid out in
    random order, each as long as its scaled r_i, and a row is drawn once for each mark of a ruler with marks at
    distance 1 and a random start that falls onto it (systematic sampling). Row i thus has its scaled r_i draws in the
    mean, and that number rounded down or up in each epoch. The draws are shuffled.

    Args:
        targets: (N, K) labels: 1, 0, or -1 for unknown, which is no positive. An array, a tensor, or a CSR matrix of
            ``torch`` or ``scipy.sparse``.
        seed: seed of every epoch.
        threshold: t, the share of the rows below which a class is repeated, in (0, 1]. The default is that of LVIS,
            where it repeats classes with fewer than 100 of its 100,000 images. Among 1,000 rows, it repeats nothing:
            100 / N does there what .001 does for LVIS.
        rank: this process, from 0; by default as ``torch.distributed`` says.
        num_replicas: number of processes that share the draws; by default as ``torch.distributed`` says.

    Attributes:
        repeats: (N,) r_i.

    Raises:
        InputError: no label is positive, ``targets`` is no matrix, or a number is out of range.

    Warns:
        UserWarning: no class is below the threshold, so that every row comes up once.
    """

    def __init__(
        self,
        targets: Any,
        *,
        seed: int = 0,
        threshold: float = 1e-3,
        rank: int | None = None,
        num_replicas: int | None = None,
    ) -> None:
        if not 0 < threshold <= 1:
            raise InputError(f"expected a threshold in (0, 1], got {threshold}")
        positives = find_positives(targets)
        counts = np.maximum(positives.counts, 1)
        factors = np.maximum(1.0, np.sqrt(threshold / (counts / positives.num_rows)))
        self.repeats = np.ones(positives.num_rows)
        np.maximum.at(self.repeats, positives.rows, positives.spread(factors))
        if not (self.repeats > 1).any():
            rarest = positives.counts[positives.counts > 0].min()
            warnings.warn(
                f"threshold {threshold:g} repeats no row, because the rarest class is positive in {rarest} of "
                f"{positives.num_rows} rows, a share of {rarest / positives.num_rows:g}: raise it above that",
                stacklevel=2,
            )
        # An exact sum, then whole multiples of 2^-32, which add up exactly in any order: every platform has the same
        # length, and every epoch has it to the draw.
        total = math.fsum(self.repeats.tolist())
        length = math.ceil(total)
        self._parts = (self.repeats * (length / total) * _ONE).astype(np.int64)
        self._parts[np.argmax(self._parts)] += length * _ONE - self._parts.sum()
        super().__init__(length, seed=seed, rank=rank, num_replicas=num_replicas)

    def _draw(self, epoch: int, count: int) -> NDArray[np.intp]:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
        rounds = [self._round(generator) for _ in range(-(-count // self.length))]
        return np.concatenate(rounds)[:count]

    def _round(self, generator: np.random.Generator) -> NDArray[np.intp]:
        order = np.argsort(generator.random(len(self._parts)), kind="stable")
        ends = np.cumsum(self._parts[order]) + int(generator.random() * _ONE)
        rows = np.repeat(order, np.diff(ends // _ONE, prepend=0))
        return rows[np.argsort(generator.random(len(rows)), kind="stable")]
