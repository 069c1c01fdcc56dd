"""What the samplers share: epochs, processes and resume; and the sampler that needs no labels."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sized
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import DistributedSampler

from tailwise.errors import InputError


class EpochSampler(DistributedSampler[int], ABC):
    """Draws of one epoch after the other, the same in every run with the same seed.

    All processes compute the same draws and rank r takes every ``num_replicas``-th from the r-th on. Where the length
    is no multiple of ``num_replicas``, the draws go on until every rank has as many as the others.

    Nothing needs to be said about the processes: by default ``torch.distributed`` is asked whenever the sampler is
    iterated or measured, so that the sampler may be made before the process group is. It is a ``DistributedSampler``
    for the sake of trainers that would otherwise replace it: they leave it as it is, and tell it the epoch.

    An iteration that runs to its end moves on to the next epoch by itself; :meth:`set_epoch` goes to any other. An
    iteration that is broken off starts over the next time, unless its state was saved and loaded.

    Args:
        length: draws in an epoch of a single process.
        seed: seed of every epoch, not negative.
        rank: this process, from 0; None for what ``torch.distributed`` says, which is 0 where it is not in use.
        num_replicas: number of processes that share the draws; None as with ``rank``, 1 where it is not in use.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(self, length: int, *, seed: int, rank: int | None, num_replicas: int | None) -> None:
        # Not the parent's constructor, which asks for a process group that need not be there yet.
        if seed < 0:
            raise InputError(f"seed must not be negative, got {seed}")
        _check_processes(0 if rank is None else rank, math.inf if num_replicas is None else num_replicas)
        self.length = length
        self.seed = seed
        self.epoch = 0
        self._rank = rank
        self._num_replicas = num_replicas
        self._position = 0
        self._start = 0

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
        rank: this process, from 0; by default as ``torch.distributed`` says.
        num_replicas: number of processes that share the draws; by default as ``torch.distributed`` says.

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
        # A sparse matrix of scipy has a shape and refuses to tell its length.
        shape = getattr(samples, "shape", ())
        length = shape[0] if shape else len(samples) if isinstance(samples, Sized) else operator.index(samples)
        if length < 1:
            raise InputError(f"expected at least one row to draw from, got {length}")
        super().__init__(length, seed=seed, rank=rank, num_replicas=num_replicas)

    def _draw(self, epoch: int, count: int) -> NDArray[np.intp]:
        return shuffled_rounds(np.random.SeedSequence([self.seed, epoch]), self.length, count)


def shuffled_rounds(seed: np.random.SeedSequence, size: int, count: int) -> NDArray[np.intp]:
    """(count,) items of a list of ``size`` that is shuffled, walked through, shuffled again, and so on."""
    # Sorted uniform keys: the doubles of PCG64 are fixed for good, while NumPy may change how `shuffle` uses them.
    keys = np.random.Generator(np.random.PCG64(seed)).random((-(-count // size), size))
    return np.argsort(keys, axis=1, kind="stable").reshape(-1)[:count]


def _check_processes(rank: int, num_replicas: float) -> None:
    if not 0 <= rank < num_replicas:
        raise InputError(f"expected 0 <= rank < num_replicas, got rank = {rank} and num_replicas = {num_replicas}")


def _in_process_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()
