"""Images to network inputs, in batches and on the device of the batch.

Training augments as Wu et al. ("Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets",
ECCV 2020) did: photometric distortion, random crop, squash to a square, normalise, random flip. What happens to an
image is a pure function of (settings, seed, epoch, position in the epoch): no generator is carried along, so neither
the number of workers, nor the batch an image comes in, nor a resumed run changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tailwise.errors import InputError
from tailwise.shapes import Bool, Float, Int, UInt8

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_TINY = 1e-12
_UNIFORMS_PER_IMAGE = 16
_CHANNEL_ORDERS = torch.tensor(list(permutations(range(3))))
# A CPU works on a few images at a time: what it reads and writes then stays in the cache and in recycled memory.
_IMAGES_AT_ONCE_ON_CPU = 4


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
    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0
    swap_channels: bool = True
    min_crop: float = 0.8
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.brightness <= 255:
            raise InputError(f"brightness must be between 0 and 255, got {self.brightness}")
        for name, (low, high) in (("contrast", self.contrast), ("saturation", self.saturation)):
            if not 0 <= low <= high < float("inf"):
                raise InputError(f"{name} must be (low, high) with 0 <= low <= high, got {(low, high)}")
        if not 0 <= self.hue <= 180:
            raise InputError(f"hue must be between 0 and 180 degrees, got {self.hue}")
        if not 0 < self.min_crop <= 1:
            raise InputError(f"min_crop must be above 0 and at most 1, got {self.min_crop}")
        if not 0 <= self.flip <= 1:
            raise InputError(f"flip is a probability between 0 and 1, got {self.flip}")


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

    def __getitem__(self, rows: slice) -> Draws:
        return Draws(**{entry.name: getattr(self, entry.name)[rows] for entry in fields(self)})

    def to(self, device: torch.device) -> Draws:
        """The same draws on a device; the copy does not wait for the device."""
        return Draws(**{entry.name: getattr(self, entry.name).to(device, non_blocking=True) for entry in fields(self)})


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


def augment(
    images: UInt8[Tensor, "B 3 S S"],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    seed: int,
    epoch: int,
    positions: Int[Tensor, "B"] | Int[np.ndarray, "B"],
    settings: Augmentation = Augmentation(),
) -> Float[Tensor, "B 3 {size} {size}"]:
    """Vary, crop, squash and normalise a batch of training images.

    In this order: brightness, contrast (or after the hue: a coin decides), saturation, hue, channel order, crop,
    squash, normalise, flip. Values are clamped to 0–255 twice, where an image file would saturate: before saturation
    and hue, which have no meaning for negative values, and after the last contrast. The squash is bilinear without
    antialiasing, which needs ``S`` to be at most about twice ``size``.

    Args:
        images: (B, 3, S, S) decoded images; not changed.
        size: side of the result in pixels.
        mean: of the channels, for values in 0–1.
        std: of the channels, for values in 0–1.
        seed: the run's seed.
        epoch: the epoch.
        positions: (B,) each sample's position in the order of the epoch, the same whatever the batch.
        settings: what is varied and how far.

    Returns:
        (B, 3, size, size) float32 in channels-last memory format, on the device of ``images``.

    Raises:
        InputError: ``mean`` or ``std`` is not three numbers, or a ``std`` is not positive.
    """
    draws = draw(seed, epoch, positions, settings)
    result = _empty_result(images, size)
    for rows in _portions(images):
        values = images[rows].to(torch.float32, memory_format=torch.contiguous_format)
        _distort_colours(values, draws[rows])
        result[rows] = _normalised(_cropped(values, size, draws[rows].to(values.device)), mean, std)
    return result


def prepare(
    images: UInt8[Tensor, "B 3 S S"], size: int, mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "B 3 {size} {size}"]:
    """Squash and normalise a batch of test images (bilinear with antialiasing).

    Args:
        images: (B, 3, S, S) decoded images; not changed.
        size: side of the result in pixels.
        mean: of the channels, for values in 0–1.
        std: of the channels, for values in 0–1.

    Returns:
        (B, 3, size, size) float32 in channels-last memory format, on the device of ``images``.

    Raises:
        InputError: ``mean`` or ``std`` is not three numbers, or a ``std`` is not positive.
    """
    result = _empty_result(images, size)
    for rows in _portions(images):
        values = images[rows].to(torch.float32, memory_format=torch.contiguous_format)
        if values.shape[-1] != size:
            values = functional.interpolate(values, size=(size, size), mode="bilinear", antialias=True)
        result[rows] = _normalised(values, mean, std)
    return result


def _portions(images: Tensor) -> list[slice]:
    at_once = _IMAGES_AT_ONCE_ON_CPU if images.device.type == "cpu" else max(len(images), 1)
    return [slice(start, start + at_once) for start in range(0, len(images), at_once)]


def _empty_result(images: Tensor, size: int) -> Float[Tensor, "B 3 {size} {size}"]:
    shape = (len(images), 3, size, size)
    return torch.empty(shape, device=images.device, memory_format=torch.channels_last)


def _wrapped(value: int) -> np.uint64:
    return np.uint64(value & 0xFFFFFFFFFFFFFFFF)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _distort_colours(values: Float[Tensor, "B 3 S S"], draws: Draws) -> None:
    """Change colours in place. Which images need which change is known on the host, so no device is waited for."""
    here = draws.to(values.device)
    values.add_(_per_image(here.offset)).mul_(_per_image(here.gain_before)).clamp_(0, 255)
    rows = _indices(draws.saturation != 1, values.device)
    values[rows] = _saturated(values[rows], here.saturation[rows])
    rows = _indices(draws.hue != 0, values.device)
    values[rows] = _turned(values[rows], here.hue[rows])
    values.mul_(_per_image(here.gain_after)).clamp_(0, 255)
    rows = _indices((draws.channels != torch.arange(3)).any(1), values.device)
    values[rows] = values[rows[:, None], here.channels[rows]]


def _indices(needed: Bool[Tensor, "B"], device: torch.device) -> Int[Tensor, "n"]:
    return needed.nonzero()[:, 0].to(device, non_blocking=True)


def _per_image(numbers: Float[Tensor, "B"]) -> Float[Tensor, "B 1 1 1"]:
    return numbers[:, None, None, None]


def _saturated(images: Float[Tensor, "B 3 H W"], factors: Float[Tensor, "B"]) -> Float[Tensor, "B 3 H W"]:
    """Multiply the saturation in HSV, leaving hue and value.

    With V = max(R, G, B) and S = (V − min(R, G, B)) / V, each channel c becomes V − (V − c)·min(s, 1/S): its distance
    from V grows with the saturation, which ends at 1.
    """
    value, chroma = _value_and_chroma(images)
    factor = torch.minimum(value / chroma.clamp_min(_TINY), factors[:, None, None])
    return value[:, None] - (value[:, None] - images) * factor[:, None]


def _turned(images: Float[Tensor, "B 3 H W"], degrees: Float[Tensor, "B"]) -> Float[Tensor, "B 3 H W"]:
    """Turn the hue in HSV, leaving saturation and value.

    With V = max(R, G, B), C = V − min(R, G, B) and the hue h in [0, 6), sixths of a turn from red: the channels are
    V − C·(1 − w) with w = |h − 3| − 1 for red, 2 − |h − 2| for green, 2 − |h − 4| for blue, each held in [0, 1].
    """
    value, chroma = _value_and_chroma(images)
    red, green, blue = images.unbind(1)
    scale = chroma.clamp_min(_TINY).reciprocal_()
    hue = torch.where(
        red == value,
        (green - blue) * scale,
        torch.where(green == value, (blue - red) * scale + 2, (red - green) * scale + 4),
    )
    hue += degrees[:, None, None] / 60
    hue -= 6 * torch.floor(hue / 6)
    lack = torch.stack([2 - (hue - 3).abs_(), (hue - 2).abs_() - 1, (hue - 4).abs_() - 1], dim=1).clamp_(0, 1)
    return value[:, None] - chroma[:, None] * lack


def _value_and_chroma(images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B H W"], Float[Tensor, "B H W"]]:
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    return value, value - torch.minimum(torch.minimum(red, green), blue)


def _cropped(values: Float[Tensor, "B 3 S S"], size: int, draws: Draws) -> Float[Tensor, "B 3 {size} {size}"]:
    """Crop, squash and flip in one bilinear sampling: pixel i of a side of n lies at (i + ½)/n of the crop."""
    along = (torch.arange(size, device=values.device) + 0.5) / size
    across = torch.where(draws.mirrored[:, None], along.flip(0), along)
    x = draws.left[:, None] + draws.width[:, None] * across
    y = draws.top[:, None] + draws.height[:, None] * along
    grid = values.new_empty(len(values), size, size, 2)
    grid[..., 0] = (2 * x - 1)[:, None, :]
    grid[..., 1] = (2 * y - 1)[:, :, None]
    return functional.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _normalised(
    values: Float[Tensor, "B 3 H W"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "B 3 H W"]:
    """(values/255 − mean)/std, in place."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise InputError(f"mean and std must be three numbers each, std positive; got {tuple(mean)} and {tuple(std)}")
    for channel in range(3):
        values[:, channel].sub_(255 * mean[channel]).div_(255 * std[channel])
    return values
