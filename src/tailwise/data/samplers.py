"""Samplers whose epochs are pure functions of (seed, epoch), for any number of processes, with resume."""

from __future__ import annotations

import math
import operator
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sized
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import DistributedSampler

from tailwise.errors import InputError
from tailwise.matrix import entries, read_matrix

# Attributes of a saved state that must be the same when it is loaded.
_FIXED = ("seed", "length", "num_replicas")
# One draw in the fixed-point numbers of :class:`RepeatFactorSampler`.
_ONE = 1 << 32


class EpochSampler(DistributedSampler[int], ABC):
    """Draws of one epoch after the other, the same in every run with the same seed.

    All processes compute the same draws and rank r takes every ``num_replicas``-th from the r-th on. Where the length
    is no multiple of ``num_replicas``, further draws are made until all ranks have equally many.

    By default rank and number of processes are those of ``torch.distributed`` whenever the sampler is iterated or
    measured, so that the sampler may be made before the process group. It is a ``DistributedSampler`` because trainers
    replace other samplers by one; this one they keep, and set its epoch.

    A finished iteration advances to the next epoch; :meth:`set_epoch` selects any other. An interrupted iteration
    restarts the next time, unless its state was saved and loaded.

    Args:
        length: draws in an epoch of a single process.
        seed: seed of every epoch, not negative.
        rank: this process, from 0; None for that of ``torch.distributed``, which is 0 where it is not in use.
        num_replicas: number of processes that share the draws; None as with ``rank``, 1 where it is not in use.

    Attributes:
        rates: (N,) expected draws of each row, up to a factor: the w_i and r_i of subclasses.

    Raises:
        InputError: a number is out of range.
    """

    rates: NDArray[np.float64]

    def __init__(self, length: int, *, seed: int, rank: int | None, num_replicas: int | None) -> None:
        # Not the parent's constructor, which needs a process group, and there may be none yet.
        if seed < 0:
            raise InputError(f"seed must not be negative, got {seed}")
        _check_processes(0 if rank is None else rank, math.inf if num_replicas is None else num_replicas)
        self.length, self.seed, self.epoch = length, seed, 0
        self._rank, self._num_replicas = rank, num_replicas
        self._position = self._start = 0

    @property
    def rank(self) -> int:  # type: ignore[override]
        """This process, from 0."""
        if self._rank is not None:
            return self._rank
        return distributed.get_rank() if _in_process_group() else 0

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """Number of processes that share the draws."""
        if self._num_replicas is not None:
            return self._num_replicas
        return distributed.get_world_size() if _in_process_group() else 1

    def __len__(self) -> int:
        """Draws of this rank in a whole epoch, also after a resume in the middle of one."""
        return -(-self.length // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        epoch, start = self.epoch, self._start
        rank, num_replicas = self.rank, self.num_replicas
        _check_processes(rank, num_replicas)
        self._start = 0
        draws = self._draw(epoch, len(self) * num_replicas)[rank::num_replicas]
        for self._position, row in enumerate(draws[start:].tolist(), start + 1):
            yield row
        self.epoch = epoch + 1
        self._position = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; the current epoch keeps the position that was loaded."""
        if epoch < 0:
            raise InputError(f"epoch must not be negative, got {epoch}")
        if epoch != self.epoch:
            self.epoch = epoch
            self._position = self._start = 0

    def state_dict(self) -> dict[str, int]:
        """The position in the current epoch, the same for all ranks.

        ``position`` counts the rows handed out. A loader with workers asks for rows ahead of the training: save
        ``position`` as the number of rows trained on by each rank then.
        """
        fixed = {name: getattr(self, name) for name in _FIXED}
        return {"epoch": self.epoch, "position": self._position, **fixed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration the rest of the epoch in which ``state`` was saved.

        Raises:
            InputError: the state is of a sampler with other draws, or its position is not in the epoch.
        """
        for name in _FIXED:
            if state[name] != getattr(self, name):
                raise InputError(
                    f"the sampler's state was saved with {name} = {state[name]} and this sampler has "
                    f"{getattr(self, name)}: resume with the same data and options, or start a new run"
                )
        if state["epoch"] < 0 or not 0 <= state["position"] <= len(self):
            raise InputError(
                f"the sampler's state names epoch {state['epoch']}, position {state['position']}; "
                f"expected an epoch from 0 and a position from 0 to {len(self)}"
            )
        self.epoch = state["epoch"]
        self._position = self._start = state["position"]

    @abstractmethod
    def _draw(self, epoch: int, count: int) -> NDArray[np.intp]:
        """(count,) draws of an epoch; fewer are the beginning of more."""

    def _seeds(self, epoch: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.seed, epoch])


class UniformSampler(EpochSampler):
    """Every row once in an epoch, in random order.

    Args:
        samples: number of rows, or anything whose length it is, such as a label matrix or a data set.
        seed: seed of every epoch.
        rank: as in :class:`EpochSampler`.
        num_replicas: as in :class:`EpochSampler`.

    Raises:
        InputError: there is no row, or a number is out of range.
    """

    def __init__(
        self,
        samples: SupportsIndex | Sized,
        *,
        seed: int = 0,
        rank: int | None = None,
        num_replicas: int | None = None,
    ) -> None:
        # A sparse matrix of SciPy has a shape and no length.
        shape = getattr(samples, "shape", ())
        length = shape[0] if shape else len(samples) if isinstance(samples, Sized) else operator.index(samples)
        if length < 1:
            raise InputError(f"expected at least one row to draw from, got {length}")
        self.rates = np.ones(length)
        super().__init__(length, seed=seed, rank=rank, num_replicas=num_replicas)

    def _draw(self, epoch: int, count: int) -> NDArray[np.intp]:
        return _shuffled_rounds(self._seeds(epoch), self.length, count)


def _generator(seed: np.random.SeedSequence) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _shuffled_rounds(seed: np.random.SeedSequence, size: int, count: int) -> NDArray[np.intp]:
    """(count,) items of a list of ``size`` that is shuffled, walked through, shuffled again, and so on."""
    # Sorted uniform keys: the doubles of PCG64 never change, while NumPy may change how `shuffle` uses them.
    keys = _generator(seed).random((-(-count // size), size))
    return np.argsort(keys, axis=1, kind="stable").reshape(-1)[:count]


def _check_processes(rank: int, num_replicas: float) -> None:
    if not 0 <= rank < num_replicas:
        raise InputError(f"expected 0 <= rank < num_replicas, got rank = {rank} and num_replicas = {num_replicas}")


def _in_process_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class ClassAwareSampler(EpochSampler):
    """Every class equally often (Shen et al., "Relay Backpropagation for Effective Learning of Deep CNNs", ECCV 2016).

    Walks through the shuffled list of classes, and takes the next ``samples_per_class`` images of each from that
    class's own shuffled list. A list that ends is shuffled again. An epoch has ``max_k n_k * K / reduce`` draws,
    with K the number of classes that have images and n_k the number of images of class k: enough to draw each
    image of the most frequent class once, divided by ``reduce``. An image without a positive label is never drawn.

    Args:
        targets: (N, K) labels: 1, 0, or -1 for unknown, which is no positive. An array, a tensor, or a CSR matrix of
            ``torch`` or ``scipy.sparse``.
        seed: seed of every epoch.
        samples_per_class: images taken from a class in a row.
        reduce: divisor of the epoch's length.
        rank: as in :class:`EpochSampler`.
        num_replicas: as in :class:`EpochSampler`.

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
        positives = _Positives(targets)
        counts = positives.counts[positives.counts > 0]
        self._images = np.split(positives.rows, np.cumsum(counts)[:-1])
        self.rates = positives.weights
        num_classes = len(positives.counts)
        if len(counts) < num_classes:
            empty = num_classes - len(counts)
            warnings.warn(f"{empty} of {num_classes} classes have no image and are never drawn", stacklevel=2)
        self.samples_per_class = samples_per_class
        length = max(1, int(int(counts.max()) * len(counts) / reduce))
        super().__init__(length, seed=seed, rank=rank, num_replicas=num_replicas)

    def _draw(self, epoch: int, count: int) -> NDArray[np.intp]:
        # A stream for the list of classes and one for each class's images, so that no list depends on another.
        walk, *streams = self._seeds(epoch).spawn(1 + len(self._images))
        # Of a visit that is longer than the epoch, no more than the epoch is drawn.
        length = min(self.samples_per_class, count)
        visits = _shuffled_rounds(walk, len(self._images), -(-count // length))
        num_visits = np.bincount(visits, minlength=len(self._images))
        visits_by_class = np.split(np.argsort(visits, kind="stable"), np.cumsum(num_visits)[:-1])
        draws = np.empty((len(visits), length), dtype=np.intp)
        for images, mine, stream in zip(self._images, visits_by_class, streams, strict=True):
            draws[mine] = images[_shuffled_rounds(stream, len(images), len(mine) * length)].reshape(-1, length)
        return draws.reshape(-1)[:count]


class InverseFrequencySampler(EpochSampler):
    """Rows drawn independently of each other, with replacement, by the frequencies of their classes.

    Row i has the weight w_i = Σ_k y_ik / n_k, with n_k the number of rows positive for class k, and each draw is row i
    with probability w_i / Σ_j w_j. This is the same as drawing a class, each with the same probability, and then one
    of its rows, which :class:`ClassAwareSampler` does in turn. An epoch has N draws.

    Rows without a positive label ("normal", "no finding") count as one more class by default, so that no row is left
    out: together they have the weight ``background``, and each of them its share.

    Args:
        targets: as in :class:`ClassAwareSampler`.
        seed: seed of every epoch.
        background: how often rows without a positive label are drawn, all together: 1 is as often as a class, 2 twice
            as often, 0 never.
        rank: as in :class:`EpochSampler`.
        num_replicas: as in :class:`EpochSampler`.

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
        positives = _Positives(targets)
        self.rates = positives.weights
        is_background = np.bincount(positives.rows, minlength=positives.num_rows) == 0
        if is_background.any():
            self.rates[is_background] = background / is_background.sum()
        self._ends: NDArray[np.float64] = np.cumsum(self.rates)
        super().__init__(positives.num_rows, seed=seed, rank=rank, num_replicas=num_replicas)

    def _draw(self, epoch: int, count: int) -> NDArray[np.intp]:
        generator = _generator(self._seeds(epoch))
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
        targets: as in :class:`ClassAwareSampler`.
        seed: seed of every epoch.
        threshold: t, the share of the rows below which a class is repeated, in (0, 1]. The default is that of LVIS,
            where it repeats classes with fewer than 100 of its 100,000 images. Among 1,000 rows, it repeats nothing:
            100 / N there is the equivalent of .001 for LVIS.
        rank: as in :class:`EpochSampler`.
        num_replicas: as in :class:`EpochSampler`.

    Raises:
        InputError: no label is positive, ``targets`` is no matrix, or a number is out of range.

    Warns:
        UserWarning: no class is below the threshold, so that every row is drawn once.
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
        positives = _Positives(targets)
        counts = np.maximum(positives.counts, 1)
        factors = np.maximum(1.0, np.sqrt(threshold / (counts / positives.num_rows)))
        self.rates = np.ones(positives.num_rows)
        np.maximum.at(self.rates, positives.rows, np.repeat(factors, positives.counts))
        if not (self.rates > 1).any():
            rarest = positives.counts[positives.counts > 0].min()
            warnings.warn(
                f"threshold {threshold:g} repeats no row, because the rarest class is positive in {rarest} of "
                f"{positives.num_rows} rows, a share of {rarest / positives.num_rows:g}: raise it above that",
                stacklevel=2,
            )
        # An exact sum, then whole multiples of 2^-32, which add up exactly in any order: every platform has the same
        # length, and every epoch has it to the draw.
        total = math.fsum(self.rates.tolist())
        length = math.ceil(total)
        self._parts = (self.rates * (length / total) * _ONE).astype(np.int64)
        self._parts[np.argmax(self._parts)] += length * _ONE - self._parts.sum()
        super().__init__(length, seed=seed, rank=rank, num_replicas=num_replicas)

    def _draw(self, epoch: int, count: int) -> NDArray[np.intp]:
        generator = _generator(self._seeds(epoch))
        rounds = [self._round(generator) for _ in range(-(-count // self.length))]
        return np.concatenate(rounds)[:count]

    def _round(self, generator: np.random.Generator) -> NDArray[np.intp]:
        order = np.argsort(generator.random(len(self._parts)), kind="stable")
        ends = np.cumsum(self._parts[order]) + int(generator.random() * _ONE)
        rows = np.repeat(order, np.diff(ends // _ONE, prepend=0))
        return rows[np.argsort(generator.random(len(rows)), kind="stable")]


class _Positives:
    """The P positive labels of N rows and K classes: rows of the first class ascending, then those of the second.

    A sparse matrix is never made dense: memory and time are those of its stored labels. A label that a CSR matrix
    stores twice counts once.

    Attributes:
        rows: (P,) rows.
        counts: (K,) positives of each class.
        num_rows: N.
        weights: (N,) Σ_k y_ik / n_k.

    Raises:
        InputError: ``targets`` is no matrix, or holds no positive label.
    """

    def __init__(self, targets: Any) -> None:
        matrix = read_matrix(targets)
        self.num_rows, num_classes = matrix.shape
        parts = [(row[value == 1], column[value == 1]) for row, column, value in entries(matrix)]
        rows, columns = np.concatenate([np.empty((2, 0), dtype=np.intp), *map(np.stack, parts)], axis=1)
        # The coordinates come row by row: a stable sort keeps the rows of a class rising, and equal labels adjacent.
        order = np.argsort(columns, kind="stable")
        rows, columns = rows[order], columns[order]
        is_first = np.ones(len(rows), dtype=bool)
        is_first[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
        self.rows = rows[is_first]
        if not len(self.rows):
            raise InputError(f"none of the {self.num_rows} rows has a positive label: there is nothing to draw")
        self.counts = np.bincount(columns[is_first], minlength=num_classes)
        shares = np.repeat(1 / np.maximum(self.counts, 1), self.counts)
        self.weights = np.bincount(self.rows, shares, self.num_rows).astype(np.float64)
