"""Photographs of a page: small pictures inside the page, with what their captions say."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tailwise.data.dataset import Dataset, Pixels
from tailwise.data.pixels.decode import read_thumbnail
from tailwise.errors import InputError
from tailwise.matrix import to_dense

_SIDE = 128
_QUALITY = 65


@dataclass(frozen=True)
class Photograph:
    """A photograph with its caption on the page.

    Attributes:
        image: its reference in the data.
        source: the picture as a data URI; None where the file is missing or cannot be read.
        width: of the picture in pixels.
        height: of the picture in pixels.
        alt: a description for people who do not see it.
        probability: the class's predicted probability.
        rank: its place from 1, in the ranking that the page speaks of.
        labels: its labels in the data.
    """

    image: str
    source: str | None
    width: int
    height: int
    alt: str
    probability: float
    rank: int
    labels: tuple[str, ...]


def photograph(data: Dataset, row: int, what: str, *, probability: float, rank: int) -> Photograph:
    """The photograph of a row.

    Args:
        data: image files or pixels, with labels.
        row: the row.
        what: what the photograph is shown as, for its description.
        probability: the class's predicted probability.
        rank: its place from 1.
    """
    labels = tuple(data.class_names[k] for k in np.flatnonzero(to_dense(data.targets[[row]])[0] == 1))
    alt = f"{what}: {data.names[row]}, labelled {_listed(labels)}"
    try:
        picture = _thumbnail(data, row)
    except InputError:
        source, size = None, (_SIDE, _SIDE)
    else:
        source, size = _data_uri(picture), picture.size
    return Photograph(data.names[row], source, *size, alt, probability, rank, labels)


def _thumbnail(data: Dataset, row: int) -> Image.Image:
    """The image of a row, upright and small.

    Raises:
        InputError: it cannot be read.
    """
    if not isinstance(data.inputs, Pixels):
        return read_thumbnail(data.root / data.names[row], _SIDE)
    image = Image.fromarray(data.inputs.values[row].transpose(1, 2, 0))
    return image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels) if labels else "with nothing"


def _data_uri(picture: Image.Image) -> str:
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode()}"
