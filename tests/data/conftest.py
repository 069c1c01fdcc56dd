"""Fixtures of the tests of data."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.file_server import FileServer, serving

NOBODY = 65534


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A web server on this machine, reached past any proxy."""
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as state:
        yield state


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of this user's own, who is not root meanwhile: root may read and write everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if os.geteuid() != 0:
            yield folder
            return
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)
