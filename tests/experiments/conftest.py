"""A tiny labelled data set of real JPEG files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.conftest import write_data


@pytest.fixture(scope="session")
def tiny_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 46 training and 30 test images with the classes red, green, blue and dark."""
    return write_data(tmp_path_factory.mktemp("tiny"))
