"""Compiled code is kept, and is not used once a file that went into it has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="the loops are Numba's")

import tailwise.kernels

PROGRAM = """
import numpy as np
from tailwise.kernels.elementary import exp

print(float(exp(np.float32(0))), sum(exp.stats.cache_hits.values()))
"""


def test_a_change_in_another_file_counts(tmp_path):
    package = tmp_path / "tailwise"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copytree(
        Path(tailwise.kernels.__path__[0]), package / "kernels", ignore=shutil.ignore_patterns("__pycache__")
    )

    def run() -> list[float]:
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        return [float(word) for word in done.stdout.split()]

    assert run() == [1, 0]
    assert run() == [1, 1]  # what was kept
    with (package / "kernels" / "sums.py").open("a") as file:
        file.write("# another file than that of the function\n")
    assert run() == [1, 0]
