"""Random parameters of augmentation, a pure function of (settings, seed, epoch, position in the epoch).

No generator is carried along, so neither the number of workers, nor the batch an image comes in, nor a resumed run
changes what is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.errors import InputError
from tailwise.options import check_fields, option
from tailwise.shapes import Bool, Float, Int

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_UNIFORMS_PER_IMAGE = 16
_CHANNEL_ORDERS = torch.tensor(list(permutations(range(3))))


@dataclass(frozen=True)
class Augmentation:
    """How images are varied in training; the defaults are the published settings.

    Each photometric change is made to half of the images, independently of the others.

    Args:
        photometric: whether colours are changed at all.
        brightness: largest amount added to all values, of 255.
        contrast: range of the factor on all values.
        saturation: range of the factor on the saturation in HSV.
        hue: largest turn of the hue, in degrees.
        swap_channels: whether the colour channels may be permuted.
        min_crop: smallest side of a crop, as a fraction of the image's side.
        flip: probability of a horizontal flip.

    Raises:
        InputError: a value is out of its range.
    """

    photometric: bool = True
    brightness: float = option(default=32.0, at_least=0, at_most=255)
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = option(default=18.0, at_least=0, at_most=180)
    swap_channels: bool = True
    min_crop: float = option(default=0.8, above=0, at_most=1)
    flip: float = option(default=0.5, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        check_fields(self)
        for name, (low, high) in (("contrast", self.contrast), ("saturation", self.saturation)):
            if not 0 <= low <= high < float("inf"):
                raise InputError(f"--{name} must be (low, high) with 0 <= low <= high, got {(low, high)}")


@dataclass(frozen=True)
class Draws:
    """What is done to each image of a batch. A change that an image was not drawn for has its neutral value.

    Args:
        offset: (B,) added to all values, of 255; neutral 0.
        gain_before: (B,) contrast factor applied before saturation and hue; neutral 1.
        saturation: (B,) factor on the saturation; neutral 1.
        hue: (B,) turn of the hue in degrees; neutral 0.
        gain_after: (B,) contrast factor applied after saturation and hue; neutral 1.
        channels: (B, 3) for each channel of the result, the channel it is taken from; neutral 0, 1, 2.
        left: (B,) left edge of the crop, as a fraction of the image's width.
        top: (B,) top edge of the crop, as a fraction of the image's height.
        width: (B,) width of the crop, as a fraction of the image's width.
        height: (B,) height of the crop, as a fraction of the image's height.
        mirrored: (B,) whether the image is flipped horizontally.
    """

    offset: Float[Tensor, "B"]
    gain_before: Float[Tensor, "B"]
    saturation: Float[Tensor, "B"]
    hue: Float[Tensor, "B"]
    gain_after: Float[Tensor, "B"]
    channels: Int[Tensor, "B 3"]
    left: Float[Tensor, "B"]
    top: Float[Tensor, "B"]
    width: Float[Tensor, "B"]
    height: Float[Tensor, "B"]
    mirrored: Bool[Tensor, "B"]


def sample_uniforms(
    seed: int, epoch: int, positions: Int[Tensor, "B"] | Int[np.ndarray, "B"], count: int
) -> Float[Tensor, "B {count}"]:
    """Uniform numbers in [0, 1) for each sample of an epoch, each a hash of (seed, epoch, position, which number).

    With mix the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
    OOPSLA 2014) and γ = ⌊2⁶⁴/φ⌋, all modulo 2⁶⁴::

        h = mix((h ⊕ value) + γ)     for value = seed, epoch, position, from h = 0
        u_j = ⌊mix(h + (j + 1) γ) / 2⁴⁰⌋ · 2⁻²⁴

    Args:
        seed: the run's seed.
        epoch: the epoch.
        positions: (B,) each sample's position in the order of the epoch; on the CPU, or the device is waited for.
        count: numbers per sample.

    Returns:
        (B, count) float32 on the CPU. A row depends on the seed, the epoch and its own position only.
    """
    state = np.zeros(1, dtype=np.uint64)
    where = torch.as_tensor(positions, dtype=torch.int64, device="cpu").numpy().view(np.uint64)
    for value in (_wrapped(seed), _wrapped(epoch), where):
        state = _mix((state ^ value) + _GAMMA)
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    bits = _mix(state[:, None] + steps) >> np.uint64(40)
    return torch.from_numpy(bits.astype(np.float32) * np.float32(2**-24))


def draw(seed: int, epoch: int, positions: Int[Tensor, "B"] | Int[np.ndarray, "B"], settings: Augmentation) -> Draws:
    """Draw what :func:`augment` does to each sample.

    Args:
        seed: the run's seed.
        epoch: the epoch.
        positions: (B,) each sample's position in the order of the epoch.
        settings: the ranges drawn from.

    Returns:
        The draws, on the CPU.
    """
    u = sample_uniforms(seed, epoch, positions, _UNIFORMS_PER_IMAGE).unbind(1)
    half = 0.5 if settings.photometric else 0.0

    def drawn(gate: Tensor, value: Tensor, low: float, high: float, neutral: float) -> Tensor:
        return torch.where(gate < half, low + (high - low) * value, neutral)

    gain = drawn(u[2], u[3], *settings.contrast, neutral=1.0)
    contrast_first = u[4] < 0.5
    swapped = u[9] < (half if settings.swap_channels else 0.0)
    order = torch.where(swapped, (u[10] * len(_CHANNEL_ORDERS)).long(), 0)
    height = 1 - (1 - settings.min_crop) * u[11]
    width = 1 - (1 - settings.min_crop) * u[12]
    return Draws(
        offset=drawn(u[0], u[1], -settings.brightness, settings.brightness, neutral=0.0),
        gain_before=torch.where(contrast_first, gain, 1.0),
        saturation=drawn(u[5], u[6], *settings.saturation, neutral=1.0),
        hue=drawn(u[7], u[8], -settings.hue, settings.hue, neutral=0.0),
        gain_after=torch.where(contrast_first, 1.0, gain),
        channels=_CHANNEL_ORDERS[order],
        left=(1 - width) * u[14],
        top=(1 - height) * u[13],
        width=width,
        height=height,
        mirrored=u[15] < settings.flip,
    )


def _wrapped(value: int) -> np.uint64:
    return np.uint64(value & 0xFFFFFFFFFFFFFFFF)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
