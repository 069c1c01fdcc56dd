"""A web server on this machine that fails on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Fault:
    """What one answer does wrong.

    Attributes:
        status: it is an error.
        cut_after: it ends after so many bytes.
        stall_after: nothing comes after so many bytes.
        content: it is another file.
        part_from: it is a part that begins there, whatever was asked for.
    """

    status: int | None = None
    cut_after: int | None = None
    stall_after: int | None = None
    content: bytes | None = None
    part_from: int | None = None


@dataclass
class FileServer:
    """Serves ``files`` by path, with range requests unless told otherwise.

    Attributes:
        url: its address, without a slash at the end.
        files: content by path; paths begin with a slash.
        faults: for a path, what goes wrong with the next answers, in order; later ones are right.
        requests: path and value of the header Range of every request so far.
        ranges: whether parts are served.
        tells_length: whether the header Content-Length is sent.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    ranges: bool = True
    tells_length: bool = True
    released: threading.Event = field(default_factory=threading.Event)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        self.requests.append((path, handler.headers.get("Range")))
        fault = self.faults[path].pop(0) if self.faults.get(path) else Fault()
        if path not in self.files or fault.status is not None:
            handler.send_error(fault.status or 404)
            return
        content = self.files[path] if fault.content is None else fault.content
        start = self._start(handler) if fault.part_from is None else fault.part_from
        if start is not None and start >= len(content):
            handler.send_error(416)
            return
        handler.send_response(200 if start is None else 206)
        body = content[start or 0 :]
        if start is not None:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.tells_length:
            handler.send_header("Content-Length", str(len(body)))
        else:
            handler.close_connection = True
        handler.end_headers()
        if fault.stall_after is not None:
            handler.wfile.write(body[: fault.stall_after])
            self.released.wait(30)
            handler.close_connection = True
        elif fault.cut_after is not None:
            handler.wfile.write(body[: fault.cut_after])
            handler.close_connection = True
        else:
            handler.wfile.write(body)

    def _start(self, handler: BaseHTTPRequestHandler) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        return int(match[1]) if match is not None and self.ranges else None


@contextmanager
def serving() -> Iterator[FileServer]:
    """Serve from a thread as long as the block lasts."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Clients that go away are part of the tests."""

    with Server(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            state.released.set()
            server.shutdown()
            thread.join()
