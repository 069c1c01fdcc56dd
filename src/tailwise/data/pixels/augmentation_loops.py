"""Colour, crop, squash, normalise and flip of images on a CPU, in one compiled pass over their pixels.

The formulas are those of :mod:`tailwise.data.pixels.colours`. A row of the image is read once, changed while it is in
the core's first cache, and squashed to the width of the result; two such rows are mixed for each row of the result.
Planes of colour are separate arrays and loops run from 0 to a width, so that the compiler can use vector instructions.
Only the result has its channels last.
"""

from __future__ import annotations

import numpy as np

from tailwise.loops import compiled, inlined

_ZERO, _HALF, _MOST, _TINY = (np.float32(value) for value in (0, 0.5, 255, 1e-12))
# No value is infinite or NaN, so that operations may be put in any order.
_inlined = inlined(fastmath=True)


@compiled(fastmath=True)
def vary(images, colours, rounds, channels, down, up, mix, left, right, weight, scale, shift, result, start, step):
    """Vary every ``step``-th image of a batch from ``start`` on; other threads may do the others meanwhile.

    Args:
        images: (B, 3, S, S) uint8.
        colours: (B, 5) float32: offset, gain before, saturation, hue in sixths of the circle per round, gain after.
        rounds: (B,) rounds of turning the hue.
        channels: (B, 3) for each channel of the result, the channel it is taken from.
        down: (B, size) unsigned: the upper of the two rows that each row of the result is mixed from; rising.
        up: (B, size) unsigned: the lower one, the next below or the same.
        mix: (B, size) float32 weight of the lower one.
        left: (B, size) unsigned: the first of the two columns that each column of the result is mixed from.
        right: (B, size) unsigned: the second one.
        weight: (B, size) float32 weight of the second one.
        scale: (3,) float32 factor on the values of each channel of the result.
        shift: (3,) float32 then subtracted.
        result: (B, size, size, 3) float32, written.
        start: the first image.
        step: from one image to the next.
    """
    side, size = images.shape[3], result.shape[2]
    red, green, blue = np.empty(side, np.float32), np.empty(side, np.float32), np.empty(side, np.float32)
    even, odd = np.empty((3, size), np.float32), np.empty((3, size), np.float32)
    for n in range(start, len(images), step):
        image, columns = images[n], (left[n], right[n], weight[n])
        # The flip may turn columns round: the leftmost is at one of the ends.
        first = min(left[n, 0], left[n, size - 1])
        width = max(right[n, 0], right[n, size - 1]) + 1 - first
        # Rows come in rising order, and the two of a mix are neighbours: even and odd ones never need the same place.
        row_in_even, row_in_odd = -1, -1
        for i in range(size):
            for row in (np.int64(down[n, i]), np.int64(up[n, i])):
                squashed = odd if row % 2 else even
                if row == (row_in_odd if row % 2 else row_in_even):
                    continue
                _read(image[0, row], first, width, colours[n, 0], colours[n, 1], red)
                _read(image[1, row], first, width, colours[n, 0], colours[n, 1], green)
                _read(image[2, row], first, width, colours[n, 0], colours[n, 1], blue)
                _change(red, green, blue, width, colours[n], rounds[n])
                for c, plane in enumerate((red, green, blue)):
                    _squash(plane, first, columns[0], columns[1], columns[2], squashed[c])
                if row % 2:
                    row_in_odd = row
                else:
                    row_in_even = row
            above, below = (odd, even) if down[n, i] % 2 else (even, odd)
            if down[n, i] == up[n, i]:
                below = above
            r, g, b = channels[n, 0], channels[n, 1], channels[n, 2]
            _mix(above[r], above[g], above[b], below[r], below[g], below[b], mix[n, i], scale, shift, result[n, i])


@_inlined
def _read(row, first, width, offset, gain, plane):
    for x in range(width):
        plane[x] = min(max((np.float32(np.int32(row[first + x])) + offset) * gain, _ZERO), _MOST)


@_inlined
def _change(red, green, blue, width, colours, rounds):
    if colours[2] != 1:
        _saturate(red, green, blue, width, colours[2])
    for _ in range(rounds):
        if colours[3] < 0:
            _turn_hue(red, blue, green, width, -colours[3])
        else:
            _turn_hue(red, green, blue, width, colours[3])
    if colours[4] != 1:
        for plane in (red, green, blue):
            for x in range(width):
                plane[x] = min(max(plane[x] * colours[4], _ZERO), _MOST)


@_inlined
def _saturate(red, green, blue, width, factor):
    for x in range(width):
        r, g, b = red[x], green[x], blue[x]
        value = max(max(r, g), b)
        chroma = value - min(min(r, g), b)
        scale = min(chroma * factor, value) / max(chroma, _TINY)
        red[x] = (r - value) * scale + value
        green[x] = (g - value) * scale + value
        blue[x] = (b - value) * scale + value


@_inlined
def _turn_hue(red, green, blue, width, sixths):
    amount = sixths - _HALF
    for x in range(width):
        r, g, b = red[x], green[x], blue[x]
        value, least = max(max(r, g), b), min(min(r, g), b)
        middle, step = (value + least) * _HALF, (value - least) * amount
        # Where two channels are equal, the third is held at an end whichever way the step goes.
        red[x] = min(max(r - g + middle - (step if g > b else -step), least), value)
        green[x] = min(max(g - b + middle - (step if b > r else -step), least), value)
        blue[x] = min(max(b - r + middle - (step if r > g else -step), least), value)


@_inlined
def _squash(plane, first, left, right, weight, result):
    for j in range(len(result)):
        a, b = plane[left[j] - first], plane[right[j] - first]
        result[j] = a + weight[j] * (b - a)


@_inlined
def _mix(red, green, blue, red_below, green_below, blue_below, weight, scale, shift, result):
    for j in range(len(result)):
        result[j, 0] = (red[j] + weight * (red_below[j] - red[j])) * scale[0] - shift[0]
        result[j, 1] = (green[j] + weight * (green_below[j] - green[j])) * scale[1] - shift[1]
        result[j, 2] = (blue[j] + weight * (blue_below[j] - blue[j])) * scale[2] - shift[2]
