"""Augmentation and normalisation of images to model inputs, in batches and on the device of the batch.

Training augments as Wu et al. ("Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets",
ECCV 2020) did: photometric distortion, random crop, squash to a square, normalise, random flip. What is drawn for an
image is a pure function of (settings, seed, epoch, position in the epoch): neither the number of workers, nor the batch
an image comes in, nor a resumed run changes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tailwise.data.pixels.augmentation_loops import vary
from tailwise.data.pixels.colours import adjust, saturate, turn_hue
from tailwise.errors import InputError
from tailwise.loops import share
from tailwise.options import check_fields, option
from tailwise.shapes import Bool, Float, Int, UInt8, UInt32

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


_PUBLISHED = Augmentation()
_IN_ORDER = [0, 1, 2]


def augment(
    images: UInt8[Tensor, "B 3 S S"],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    seed: int,
    epoch: int,
    positions: Int[Tensor, "B"] | Int[np.ndarray, "B"],
    settings: Augmentation = _PUBLISHED,
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
        positions: (B,) each sample's position in the order of the epoch, independent of the batch.
        settings: what is varied and how far.

    Returns:
        (B, 3, size, size) float32 in channels-last order, on the device of ``images``.

    Raises:
        InputError: ``mean`` or ``std`` is not three numbers, or a ``std`` is not positive.
    """
    scale, shift = _normalisation(mean, std, images.device)
    draws = draw(seed, epoch, positions, settings)
    if images.device.type == "cpu":
        return _varied_on_cpu(images, size, draws, scale, shift)
    values = _varied_on_device(images, size, draws)
    return torch.mul(values, scale, out=_channels_last(len(images), size, images.device)).sub_(shift)


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
        (B, 3, size, size) float32 in channels-last order, on the device of ``images``.

    Raises:
        InputError: ``mean`` or ``std`` is not three numbers, or a ``std`` is not positive.
    """
    scale, shift = _normalisation(mean, std, images.device)
    result = _channels_last(len(images), size, images.device)

    def squash(rows: slice) -> None:
        values = _as_planes(images[rows])
        if values.shape[-1] != size:
            values = functional.interpolate(values, size=(size, size), mode="bilinear", antialias=True)
        torch.mul(values, scale, out=result[rows]).sub_(shift)

    if images.device.type == "cpu":
        _for_each(len(images), lambda row: squash(slice(row, row + 1)))
    else:
        squash(slice(None))
    return result


def _for_each(count: int, work: Callable[[int], None]) -> None:
    """Do work of torch on a CPU image by image, as many at a time as torch has threads.

    An image stays in its core's cache from the first operation to the last, and threads with an image each need not
    wait for one another, as torch's own threads do, which share every short operation.
    """
    before, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    threads = max(1, min(before, count))

    def do(start: int, step: int) -> None:
        with torch.inference_mode(inference):  # which a thread does not inherit
            for row in range(start, count, step):
                work(row)

    torch.set_num_threads(1)  # which a new thread does inherit
    try:
        with ThreadPoolExecutor(max(threads - 1, 1), "images") as pool:
            others = [pool.submit(do, start, threads) for start in range(1, threads)]
            do(0, threads)
        for other in others:
            other.result()
    finally:
        torch.set_num_threads(before)


def _channels_last(count: int, size: int, device: torch.device) -> Float[Tensor, "{count} 3 {size} {size}"]:
    """Room for network inputs, in the order of the network's weights: in any other, the first layer would copy them."""
    shape = (count, 3, size, size)
    return torch.empty(shape, dtype=torch.float32, device=device, memory_format=torch.channels_last)


def _as_planes(images: UInt8[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    return images.to(torch.float32, memory_format=torch.contiguous_format)


def _varied_on_device(images: UInt8[Tensor, "B 3 S S"], size: int, draws: Draws) -> Float[Tensor, "B 3 {size} {size}"]:
    """Vary a batch in a few large operations, neutral changes included: for devices that work on all images at once.

    A turn of the hue goes in rounds of at most a sixth of the circle.
    """
    hue = draws.hue.abs()
    rounds = math.ceil(hue.numpy().max(initial=0) / 60)
    back = draws.hue[:, None] < 0
    order = torch.where(back, torch.tensor([0, 2, 1]), torch.tensor(_IN_ORDER))
    channels = torch.where(back, order.gather(1, draws.channels), draws.channels)
    x, y = _centres(draws, size)
    # Packed, all that was drawn goes in one transfer, where each of the entries would have cost as much.
    colours = torch.stack((draws.offset, draws.gain_before, draws.saturation, hue, draws.gain_after), dim=1)
    packed = torch.cat((colours, order, channels, 2 * x - 1, 2 * y - 1), dim=1)
    colours, order, channels, x, y = torch.split(_sent(packed, images.device), [5, 3, 3, size, size], dim=1)
    offset, gain_before, saturation, hue, gain_after = colours[:, :, None, None].unbind(1)

    values = _as_planes(images)
    adjust(values, offset[:, None], gain_before[:, None])
    saturate(values, saturation)
    values = _reordered(values, order.long())
    for _ in range(rounds):
        turn_hue(values[:, 0], values[:, 1], values[:, 2], hue / (60 * rounds))
    adjust(values, 0.0, gain_after[:, None])
    grid = values.new_empty(len(values), size, size, 2)
    grid[..., 0] = x[:, None, :]
    grid[..., 1] = y[:, :, None]
    values = _reordered(values, channels.long())
    return functional.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _varied_on_cpu(
    images: UInt8[Tensor, "B 3 S S"],
    size: int,
    draws: Draws,
    scale: Float[Tensor, "3 1 1"],
    shift: Float[Tensor, "3 1 1"],
) -> Float[Tensor, "B 3 {size} {size}"]:
    """Vary and normalise a batch, each image by one thread, so that threads need not wait for one another."""
    rounds = (draws.hue.abs() / 60).ceil()
    colours = (
        draws.offset,
        draws.gain_before,
        draws.saturation,
        draws.hue / (60 * rounds.clamp(min=1)),
        draws.gain_after,
    )
    across, down = _centres(draws, size)
    result = _channels_last(len(images), size, images.device)
    share(
        vary,
        len(images),
        images.contiguous().numpy(),
        torch.stack(colours, dim=1).numpy(),
        rounds.long().numpy(),
        draws.channels.numpy(),
        *_taps(down, images.shape[2]),
        *_taps(across, images.shape[3]),
        scale.flatten().numpy(),
        shift.flatten().numpy(),
        result.permute(0, 2, 3, 1).numpy(),
    )
    return result


def _sent(numbers: Float[Tensor, "..."], device: torch.device) -> Float[Tensor, "..."]:
    """Copy numbers to a device without waiting for it: only memory that is pinned is copied so to a GPU."""
    return (numbers.pin_memory() if device.type == "cuda" else numbers).to(device, non_blocking=True)


def _reordered(values: Float[Tensor, "B 3 H W"], channels: Int[Tensor, "B 3"]) -> Float[Tensor, "B 3 H W"]:
    return values[torch.arange(len(values), device=values.device)[:, None], channels]


def _centres(draws: Draws, size: int) -> tuple[Float[Tensor, "B {size}"], Float[Tensor, "B {size}"]]:
    """Where the result's pixels lie in the image, across and down, as fractions of its side.

    Pixel i of a side of n lies at (i + ½)/n of the crop, and of the whole: crop, squash and flip are one sampling.
    """
    along = (torch.arange(size) + 0.5) / size
    across = torch.where(draws.mirrored[:, None], along.flip(0), along)
    return draws.left[:, None] + draws.width[:, None] * across, draws.top[:, None] + draws.height[:, None] * along


def _taps(
    centres: Float[Tensor, "B size"], side: int
) -> tuple[UInt32[np.ndarray, "B size"], UInt32[np.ndarray, "B size"], Float[np.ndarray, "B size"]]:
    """Bilinear sampling of a side: the two pixels that each centre lies between, and the weight of the second."""
    positions = (centres * side - 0.5).clamp(0, side - 1)
    first = positions.long().clamp(max=max(side - 2, 0))
    weight = positions - first
    second = (first + 1).clamp(max=side - 1)
    return first.numpy().astype(np.uint32), second.numpy().astype(np.uint32), weight.numpy()


def _normalisation(
    mean: Sequence[float], std: Sequence[float], device: torch.device
) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """Factor and subtrahend that make (values/255 − mean)/std of values."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise InputError(f"mean and std must be three numbers each, std positive; got {tuple(mean)} and {tuple(std)}")
    scale = torch.tensor([[1 / (255 * s), m / s] for m, s in zip(mean, std, strict=True)], dtype=torch.float32)
    scale, shift = _sent(scale, device)[:, :, None, None].unbind(1)
    return scale, shift
