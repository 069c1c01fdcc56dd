"""Data with every problem there is, and with names that try to be markup."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tailwise.data.dataset import Dataset, Files

NASTY_NAMES = (
    "<script>boom()</script>",
    "</script><!--",
    '"><img src=x onerror=boom()>',
    "[red]dog[/red]",
    "Dog",
    "dog",
    "\x1b[31mcolour",
    "x" * 90,
    "a & b <b>bold</b> {{ 7 * 7 }}",
    "العربية",
    "<img src=y onerror=boom()> without image",
    "<script>boom()</script> on one image",
    "always",
    "\ud800 half",
)


def labelled(
    targets: np.ndarray,
    splits: list[str] | None = None,
    names: tuple[str, ...] | None = None,
    root: Path = Path("images"),
) -> Dataset:
    size, num_classes = targets.shape
    return Dataset(
        names=tuple(f"{row}.png" for row in range(size)),
        inputs=Files(root),
        targets=targets.astype(np.int8),
        class_names=tuple(f"class {k}" for k in range(num_classes)) if names is None else names,
        splits=("",) * size if splits is None else tuple(splits),
        lines=tuple(range(2, size + 2)),
        source=root / "labels.csv",
    )


@pytest.fixture
def nasty(tmp_path: Path) -> Dataset:
    """80 images, of which one is missing, two are damaged, and two have a copy in the other split."""
    generator = np.random.default_rng(0)
    size, num_classes = 80, len(NASTY_NAMES)
    targets = (generator.random((size, num_classes)) < np.linspace(0.7, 0.1, num_classes)).astype(np.int8)
    column = {name: k for k, name in enumerate(NASTY_NAMES)}
    targets[5:20, column["العربية"]] = -1
    targets[:, column["dog"]] = targets[:, column["Dog"]]
    rare = [column[name] for name in NASTY_NAMES if "image" in name]
    targets[:, rare] = 0
    targets[[0, 3], rare[1]] = 1
    targets[2] = 0
    targets[:, column["always"]] = 1
    for row in range(size):
        pixels = generator.integers(0, 255, (20, 300 if row == 9 else 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
    (tmp_path / "12.png").write_bytes((tmp_path / "11.png").read_bytes())
    targets[12] = targets[11]
    (tmp_path / "15.png").write_bytes((tmp_path / "16.png").read_bytes())
    targets[15], targets[16] = 1 - targets[17].clip(0), targets[17]
    (tmp_path / "5.png").write_bytes(b"")
    (tmp_path / "6.png").unlink()
    (tmp_path / "8.png").write_bytes((tmp_path / "10.png").read_bytes()[:200])
    splits = ["test" if row % 4 == 3 else "" if row == 20 else "train" for row in range(size)]
    return labelled(targets, splits, NASTY_NAMES, tmp_path)
