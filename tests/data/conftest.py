"""A web server for what downloads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.data.file_server import FileServer, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A web server on this machine, reached past any proxy."""
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as state:
        yield state
