"""Samplers whose epochs are pure functions of (seed, epoch), for any number of processes, with resume."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from tailwise.errors import InputError


class EpochSampler(Sampler[int], ABC):
    """Draws of one epoch after the other, the same in every run with the same seed.

    All processes compute the same draws and rank r takes every ``num_replicas``-th from the r-th on. Where the length
    is no multiple of ``num_replicas``, the draws go on until every rank has as many as the others.

    An iteration that runs to its end moves on to the next epoch by itself; :meth:`set_epoch` goes to any other. An
    iteration that is broken off starts over the next time, unless its state was saved and loaded.

    Args:
        length: draws in an epoch of a single process.
        seed: seed of every epoch, not negative.
        rank: this process, from 0.
        num_replicas: number of processes that share the draws.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(self, length: int, *, seed: int, rank: int, num_replicas: int) -> None:
        if seed < 0:
            raise InputError(f"seed must not be negative, got {seed}")
        if not 0 <= rank < num_replicas:
            raise InputError(f"expected 0 <= rank < num_replicas, got rank = {rank} and num_replicas = {num_replicas}")
        self.length = length
        self.seed = seed
        self.rank = rank
        self.num_replicas = num_replicas
        self.epoch = 0
        self._position = 0
        self._start = 0

    def __len__(self) -> int:
        """Draws of this rank in a whole epoch, also after a resume in the middle of one."""
        return -(-self.length // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        epoch, start = self.epoch, self._start
        self._start = 0
        draws = self._draw(epoch, len(self) * self.num_replicas)[self.rank :: self.num_replicas]
        self._position = start
        for position, row in enumerate(draws[start:].tolist(), start + 1):
            self._position = position
            yield row
        self.epoch = epoch + 1
        self._position = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; the epoch the sampler is in already keeps the place loaded into it."""
        if epoch < 0:
            raise InputError(f"epoch must not be negative, got {epoch}")
        if epoch != self.epoch:
            self.epoch = epoch
            self._position = self._start = 0

    def state_dict(self) -> dict[str, int]:
        """The place in the current epoch, the same for all ranks.

        ``position`` counts the rows handed out. A loader with workers asks for rows ahead of the training: save
        ``position`` as the number of rows trained on by each rank then.
        """
        return {
            "epoch": self.epoch,
            "position": self._position,
            "seed": self.seed,
            "length": self.length,
            "num_replicas": self.num_replicas,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration the rest of the epoch that ``state`` stopped in.

        Raises:
            InputError: the state is of a sampler with other draws, or its position is not in the epoch.
        """
        for name in ("seed", "length", "num_replicas"):
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


class UniformSampler(EpochSampler):
    """Every row once in an epoch, in random order.

    Args:
        samples: number of rows, or anything whose length it is, such as a label matrix or a data set.
        seed: seed of every epoch.
        rank: this process, from 0.
        num_replicas: number of processes that share the draws.

    Raises:
        InputError: there is no row, or a number is out of range.
    """

    def __init__(self, samples: int | Sized, *, seed: int = 0, rank: int = 0, num_replicas: int = 1) -> None:
        length = samples if isinstance(samples, int) else len(samples)
        if length < 1:
            raise InputError(f"expected at least one row to draw from, got {length}")
        super().__init__(length, seed=seed, rank=rank, num_replicas=num_replicas)

    def _draw(self, epoch: int, count: int) -> NDArray[np.intp]:
        return _shuffled_rounds(np.random.SeedSequence([self.seed, epoch]), self.length, count)


class ClassAwareSampler(EpochSampler):
    """Every class equally often (Shen et al., "Relay Backpropagation for Effective Learning of Deep CNNs", ECCV 2016).

    Walks through the shuffled list of classes, and takes the next ``samples_per_class`` images of each from that
    class's own shuffled list. A list that ends is shuffled again. An epoch has ``max_k n_k * K / reduce`` draws,
    with K the number of classes that have images and n_k the number of images of class k: as many as bring each of
    the most frequent class's images up once, divided by ``reduce``.

    Args:
        targets: (N, K) labels: 1, 0, or -1 for unknown, which is no positive.
        seed: seed of every epoch.
        samples_per_class: images taken from a class in a row.
        reduce: divisor of the epoch's length.
        rank: this process, from 0.
        num_replicas: number of processes that share the draws.

    Raises:
        InputError: no label is positive, ``targets`` is no matrix, or a number is out of range.

    Warns:
        UserWarning: classes without images are left out.
    """

    def __init__(
        self,
        targets: ArrayLike | torch.Tensor,
        *,
        seed: int = 0,
        samples_per_class: int = 3,
        reduce: int | float = 4,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        labels = targets.numpy(force=True) if isinstance(targets, torch.Tensor) else np.asarray(targets)
        if labels.ndim != 2:
            raise InputError(f"targets must be (N, K), got shape {labels.shape}")
        if samples_per_class < 1 or not reduce > 0:
            raise InputError(f"expected samples_per_class >= 1 and reduce > 0, got {samples_per_class} and {reduce}")
        by_class = [np.flatnonzero(column == 1) for column in labels.T]
        self._images = [images for images in by_class if len(images)]
        if not self._images:
            raise InputError(f"none of the {len(labels)} rows has a positive label: there is nothing to draw")
        empty = len(by_class) - len(self._images)
        if empty:
            warnings.warn(f"{empty} of {len(by_class)} classes have no image and are never drawn", stacklevel=2)
        self.samples_per_class = samples_per_class
        largest = max(len(images) for images in self._images)
        length = max(1, int(largest * len(self._images) / reduce))
        super().__init__(length, seed=seed, rank=rank, num_replicas=num_replicas)

    def _draw(self, epoch: int, count: int) -> NDArray[np.intp]:
        # A stream for the list of classes and one for each class's images: how far one list goes moves no other.
        walk, *streams = np.random.SeedSequence([self.seed, epoch]).spawn(1 + len(self._images))
        visits = _shuffled_rounds(walk, len(self._images), -(-count // self.samples_per_class))
        draws = np.empty((len(visits), self.samples_per_class), dtype=np.intp)
        for k, (images, stream) in enumerate(zip(self._images, streams, strict=True)):
            mine = np.flatnonzero(visits == k)
            rows = images[_shuffled_rounds(stream, len(images), len(mine) * self.samples_per_class)]
            draws[mine] = rows.reshape(-1, self.samples_per_class)
        return draws.reshape(-1)[:count]


def _shuffled_rounds(seed: np.random.SeedSequence, size: int, count: int) -> NDArray[np.intp]:
    """(count,) items of a list of ``size`` that is shuffled, walked through, shuffled again, and so on."""
    # Sorted uniform keys: the doubles of PCG64 are fixed for good, while NumPy may change how `shuffle` uses them.
    keys = np.random.Generator(np.random.PCG64(seed)).random((-(-count // size), size))
    return np.argsort(keys, axis=1, kind="stable").reshape(-1)[:count]
