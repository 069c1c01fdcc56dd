"""Augmentation and normalisation of images to network inputs, in batches and on the device of the batch.

Training augments as Wu et al. ("Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets",
ECCV 2020) did: photometric distortion, random crop, squash to a square, normalise, random flip. What is drawn for an
image depends on its position in the epoch alone (:mod:`tailwise.data.pixels.draws`).

Colours are changed by elementwise formulas on planes of colour, in place, for one image or a batch on any device.
Values are floating point, 0 to 255. An amount is a number, or a tensor that broadcasts against a plane: one number
per image. Nothing is chosen pixel by pixel, which would take a CPU longer than all other steps together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tailwise.data.pixels.augmentation_loops import vary
from tailwise.data.pixels.draws import Augmentation, Draws, draw
from tailwise.errors import InputError
from tailwise.loops import share
from tailwise.shapes import Float, Int, UInt8, UInt32

__all__ = ["Augmentation", "augment", "prepare"]

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
        positions: (B,) each sample's position in the order of the epoch, the same whatever the batch.
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


_TINY = 1e-12


def adjust(
    values: Float[Tensor, "*B 3 H W"],
    offset: Float[Tensor, "*B 1 1 1"] | float,
    gain: Float[Tensor, "*B 1 1 1"] | float,
) -> None:
    """Brightness and contrast: (value + offset)·gain, held in 0 to 255.

    Args:
        values: the channels.
        offset: added to all values.
        gain: factor on all values.
    """
    values.add_(offset).mul_(gain).clamp_(0, 255)


def saturate(values: Float[Tensor, "*B 3 H W"], factor: Float[Tensor, "*B 1 1"] | float) -> None:
    """Multiply the saturation in HSV, leaving hue and value.

    With V = max(R, G, B) and S = (V − min(R, G, B)) / V, each channel c becomes V − (V − c)·min(s, 1/S): its distance
    from V grows with the saturation, which ends at 1.

    Args:
        values: the channels.
        factor: s, not negative.
    """
    value, least = _extremes(*values.unbind(-3))
    chroma = value - least
    scale = torch.minimum(chroma * factor, value).div_(chroma.clamp_min_(_TINY))
    value, scale = value.unsqueeze(-3), scale.unsqueeze(-3)
    values.sub_(value).mul_(scale).add_(value)


def turn_hue(
    red: Float[Tensor, "*B H W"],
    green: Float[Tensor, "*B H W"],
    blue: Float[Tensor, "*B H W"],
    sixths: Float[Tensor, "*B 1 1"] | float,
) -> None:
    """Turn the hue in HSV, leaving saturation and value.

    Once round the circle of hues, a channel stays at V = max(R, G, B) for two sixths, falls to m = min(R, G, B) in
    one, stays for two and rises in one. With C = V − m, a turn by δ sixths, 0 ≤ δ ≤ 1, therefore makes of red::

        R − G + m + δ·C    where it rises (B ≥ G)
        R − G + V − δ·C    where it falls (B ≤ G)

    held in [m, V], and of green and blue likewise, each with the two channels that follow it in the round. Both lines
    are R − G + (m + V)/2 + sign(B − G)·(δ − ½)·C. A turn the other way is this turn in the mirror: pass blue as green
    and green as blue.

    Args:
        red: the red channel.
        green: the green channel.
        blue: the blue channel.
        sixths: δ, in sixths of a full turn from red towards green, 0 to 1.
    """
    value, least = _extremes(red, green, blue)
    middle = (value + least).mul_(0.5)
    step = (value - least).mul_(sixths - 0.5)
    red_green, green_blue, blue_red = red - green, green - blue, blue - red
    for channel, to_next, between_others in (
        (red, red_green, green_blue),
        (green, green_blue, blue_red),
        (blue, blue_red, red_green),
    ):
        turned = torch.addcmul(to_next, torch.sign(between_others), step, value=-1).add_(middle)
        torch.clamp(turned, least, value, out=channel)


def _extremes(
    red: Float[Tensor, "*B H W"], green: Float[Tensor, "*B H W"], blue: Float[Tensor, "*B H W"]
) -> tuple[Float[Tensor, "*B H W"], Float[Tensor, "*B H W"]]:
    return torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
