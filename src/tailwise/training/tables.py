"""What training reads its inputs from: rows by index, with a key that names their content."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.data.pixels.image_cache import ImageCache
from tailwise.shapes import Shaped, UInt8


class Table(Protocol):
    """N rows of model inputs."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> Tensor:
        """Gather rows into a new tensor."""
        ...


class TensorTable:
    """Rows held in memory.

    Args:
        rows: (N, ...) features, or images as uint8.
    """

    def __init__(self, rows: Shaped[Tensor, "N ..."]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """Gather rows into a new tensor."""
        return self.rows[indices]


class TableSubset:
    """Some rows of a table.

    Args:
        table: the whole.
        rows: (N,) its rows that are here.
    """

    def __init__(self, table: Table, rows: NDArray[np.integer]) -> None:
        self.table = table
        self.rows = torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """Gather rows into a new tensor."""
        return self.table.batch(self.rows[indices])


def content_key(pixels: ImageCache | UInt8[np.ndarray, "N C H W"]) -> str:
    """A name that two tables of images share if their pixels, and the order of the images, are the same.

    It says nothing of where the images lie, nor of what has decoded them.
    """
    if isinstance(pixels, ImageCache):
        shape, digest = (len(pixels), 3, pixels.size, pixels.size), pixels.digest
    else:
        shape, digest = pixels.shape, hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
    return hashlib.sha256(f"{shape} {digest}".encode()).hexdigest()
