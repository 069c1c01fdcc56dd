"""A thousand damaged label files; ``fuzz_labels`` runs as long as wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.formats.fuzz_labels import mutate, run


@pytest.mark.usefixtures("unchecked")
def test_damaged_label_files_are_read_or_refused(tmp_path: Path) -> None:
    outcomes = run(tmp_path, seed=1, count=1000)
    # Damage must be such that both happen.
    assert min(outcomes["read"], outcomes["refused"]) > 200


def test_damage_changes_files() -> None:
    generator = np.random.default_rng(0)
    content = bytes(range(256))
    assert sum(mutate(content, generator) != content for _ in range(100)) > 95
