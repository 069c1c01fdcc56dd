"""Servers that cannot be reached, or that take connections and say nothing: found out once and soon."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tailwise.data.download import download, why_unreachable
from tailwise.errors import InputError
from tests.data.file_server import Fault, FileServer
from tests.data.test_download import CONTENT, PATH, SHA256, fetch


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9/file", r"the connection failed \(Connection refused\); check the network"),
        (
            "http://no-such-host.invalid/file",
            r"no-such-host.invalid/file: the connection failed \(.*\); check",
        ),
        ("no-scheme/file", "cannot be requested"),
        ("ftp://example.org/file", "cannot be requested"),
    ],
)
def test_servers_that_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    """They are asked once: where there is no network, more attempts are a wait for nothing."""
    monkeypatch.setenv("NO_PROXY", "*")
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(InputError, match=message) as caught:
        download([url], tmp_path / "file", sha256=SHA256, progress=False)
    assert pauses == []
    assert f"put it at {tmp_path / 'file'}" in str(caught.value)


def test_a_server_that_has_never_answered_is_asked_once(
    silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailwise.data.download._SECONDS_OF_SILENCE", 0.2)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(InputError, match=r"no answer within 0 s; check the network, or get the file by other means"):
        download([f"{silent}/file"], tmp_path / "file", sha256=SHA256, progress=False)
    assert pauses == []


def test_a_network_that_fails_on_the_way_is_waited_for(server: FileServer, tmp_path: Path) -> None:
    """A server that has answered before is asked again, whatever the reason."""
    server.files[PATH] = CONTENT
    server.faults[PATH] = [Fault(cut_after=300_000)]
    real_get, refused = requests.get, []

    def get(url: str, **options: Any) -> requests.Response:
        if server.requests and not refused:
            refused.append(url)
            url = "http://127.0.0.1:9/"
        return real_get(url, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "get", get)
        assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(refused) == 1


@pytest.mark.parametrize(
    ("url", "reason"), [("http://127.0.0.1:9", "Connection refused"), ("", "no answer within 0 s")]
)
def test_an_address_where_nothing_answers(silent: str, monkeypatch: pytest.MonkeyPatch, url: str, reason: str) -> None:
    monkeypatch.setattr("tailwise.data.download._SECONDS_TO_ANSWER", 0.2)
    assert reason in (why_unreachable(url or silent) or "")


def test_any_answer_will_do(server: FileServer) -> None:
    assert why_unreachable(f"{server.url}/gone") is None
    assert why_unreachable("ftp://not.for.us") is None


def test_a_name_that_nobody_looks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def head(*_: Any, **__: Any) -> requests.Response:
        released.wait(30)
        raise requests.ConnectionError("no such name, at last")

    monkeypatch.setattr("tailwise.data.download._SECONDS_TO_ANSWER", -0.9)
    monkeypatch.setattr(requests, "head", head)
    assert "no answer within" in (why_unreachable("http://example.org") or "")
    released.set()
