"""Changes of colour as tensor operations on planes of colour, in place, for one image or a batch on any device.

Values are floating point, 0 to 255. An amount is a number, or a tensor that broadcasts against a plane: one number per
image. Nothing is chosen pixel by pixel, which would take a CPU longer than all other steps together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tailwise.shapes import Float

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
