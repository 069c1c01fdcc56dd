"""The interface of the implementations of the term, and the choice of one for a batch."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from abc import ABC, abstractmethod
from functools import cache
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

import tailwise.loops  # noqa: F401 - before a process forks, so that the child recognises itself as one
from tailwise.losses.formula import Coefficients
from tailwise.shapes import Bool, Float, Shaped

logger = logging.getLogger(__name__)

Implementation: TypeAlias = Literal["auto", "eager", "numba", "triton"]
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)


class Wanted(NamedTuple):
    """The results that an evaluation returns."""

    gradient: bool
    """The derivatives."""
    values: bool
    """The loss of every pair."""
    factor: float = 1.0
    """Multiplies the derivatives."""
    out: Tensor | None = None
    """A tensor of the dtype of the logits for the derivatives; it may be the logits themselves."""


class Evaluated(NamedTuple):
    """The result of an evaluation."""

    total: Tensor
    """Scalar: the sum of all losses, float32, or float64 for float64 logits."""
    known: Tensor | int
    """Number of known pairs; an int if it follows from the shape."""
    gradient: Tensor | None
    """(B, C) derivatives times the factor, in the type of the logits."""
    values: Tensor | None
    """(B, C) losses in the type of the total."""


class Backend(ABC):
    """An implementation of the term and of the sums behind weights and guidance."""

    @abstractmethod
    def row_sums(
        self, targets: Shaped[Tensor, "B C"], mask: Bool[Tensor, "B C"] | None, values: Float[Tensor, "M C"]
    ) -> Float[Tensor, "B M"]:
        """Σ_k y_ik u_mk over the known labels of each sample."""

    @abstractmethod
    def probability_sums(
        self, logits: Float[Tensor, "B C"], targets: Shaped[Tensor, "B C"], mask: Bool[Tensor, "B C"] | None
    ) -> Float[Tensor, "4 C"]:
        """Σ p y, Σ y, Σ p (1 − y) and Σ (1 − y) over the known pairs of each class, with p = σ(z)."""

    @abstractmethod
    def evaluate(
        self,
        logits: Float[Tensor, "B C"],
        targets: Shaped[Tensor, "B C"],
        mask: Bool[Tensor, "B C"] | None,
        coefficients: Coefficients,
        wanted: Wanted,
    ) -> Evaluated:
        """Evaluate the term (see :mod:`tailwise.losses.formula`).

        Args:
            logits: (B, C) raw scores; half precision is computed in float32.
            targets: (B, C) labels, dense or sparse CSR.
            mask: (B, C), False where the label is unknown.
            coefficients: parameters, weights and factor of the loss.
            wanted: the results to return.
        """

    def scale_(self, gradient: Float[Tensor, "..."], factor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Multiply derivatives in place by a number, or by as many numbers, and return them."""
        # Reading a number is free on a CPU; on another device it would synchronise.
        is_one = factor.ndim == 0 and factor.device.type == "cpu" and factor.item() == 1
        return gradient if is_one else gradient.mul_(factor)


def known_in_advance(targets: Tensor, mask: Tensor | None) -> int | None:
    """Number of known pairs if the types determine it: no label can be unknown."""
    is_certain = mask is None and targets.dtype in (torch.bool, torch.uint8)
    return targets.shape[0] * targets.shape[1] if is_certain else None


def choose(impl: Implementation, logits: Tensor) -> Backend:
    """The implementation for a batch.

    ``"auto"`` takes Triton's kernels on CUDA and Numba's loops on a CPU, if these are installed, and operations of
    torch otherwise, for float64, and under torch.compile. Its choice is logged once.

    Raises:
        ValueError: ``impl`` cannot run here.
    """
    if torch.compiler.is_compiling():
        return _backend("eager")
    if impl == "auto":
        name = _automatic(logits.device.type, logits.dtype)
        _say_once(name, logits.device.type, logits.dtype)
        return _backend(name)
    reason = _why_not(impl, logits.device.type, logits.dtype)
    if reason is not None:
        raise ValueError(f"impl={impl!r} cannot be used: {reason}; impl='auto' takes one that can")
    return _backend(impl)


@cache
def _automatic(device: str, dtype: torch.dtype) -> Implementation:
    candidates: tuple[Implementation, ...] = ("triton", "numba", "eager")
    return next(name for name in candidates if _why_not(name, device, dtype) is None)


@cache
def _why_not(impl: Implementation, device: str, dtype: torch.dtype) -> str | None:
    """Why an implementation cannot take such logits; None if it can."""
    if impl == "eager":
        return None
    if importlib.util.find_spec(impl) is None:
        return f"{impl} is not installed"
    if dtype == torch.float64:
        return "it computes in float32, and the logits are float64"
    wanted = "cpu" if impl == "numba" else "cuda"
    interpreted = impl == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if device != wanted and not interpreted:
        return f"it is for {wanted} tensors, and the logits are on {device}"
    return None


@cache
def _backend(impl: Implementation) -> Backend:
    # A backend is imported when it is first used: Numba and Triton are not always installed.
    backend: Backend = importlib.import_module(f"tailwise.losses.backends.{impl}").BACKEND
    return backend


@cache
def _say_once(name: str, device: str, dtype: torch.dtype) -> None:
    logger.info("losses of %s logits on %s are evaluated by %s", str(dtype).removeprefix("torch."), device, name)
