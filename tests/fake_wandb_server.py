"""The fake W&B of tests.fake_wandb behind HTTP."""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fake_wandb import FakeWandb


@contextmanager
def serving(state: FakeWandb | None = None) -> Iterator[FakeWandb]:
    """The server, on a port of its own, for as long as the block lasts."""
    state = state or FakeWandb()

    class Handler(_Handler):
        server_state = state

    with _Server(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True).start()
        try:
            yield state
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that was killed
            super().handle_error(request, address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: FakeWandb

    def _answer(self) -> None:
        state = self.server_state
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name, told = self.path.split("?")[0], {}
        if name == "/graphql":
            told = json.loads(content)
            found = re.search(r"\b(?:query|mutation)\s+(\w+)", told["query"])
            name = told.get("operationName") or (found.group(1) if found else "anonymous")
        elif name.endswith("/file_stream"):
            name = "file_stream"
        elif name.startswith("/upload/"):
            name = "upload"
        elif name.startswith("/sdk/"):
            name = "telemetry"
        state.gate(name)
        with state.lock:
            state.requests.append(name)
            status, answer = state.refusal(name), {}
            if status is None and not self._authorised() and name not in ("upload", "telemetry", "/"):
                status = 401
            if status is None:
                status = 200
                if told:
                    answer = {"data": state.graphql(name, told["query"], told.get("variables") or {})}
                elif name == "file_stream":
                    state.file_stream(self.path.split("/")[-2], json.loads(content))
                elif name == "upload":
                    self._keep(content)
                elif name not in ("/", "telemetry"):
                    status = 404
        self._send(status, answer)

    def _keep(self, content: bytes) -> None:
        state = self.server_state
        _, _, owner, file = self.path.split("/", 3)
        if owner in state.runs:
            state.runs[owner].files[file] = content
        else:
            state.blobs[f"{owner}/{file}"] = content

    def _authorised(self) -> bool:
        expected = "Basic " + base64.b64encode(f"api:{self.server_state.known_key}".encode()).decode()
        return self.headers.get("Authorization") == expected

    def _send(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_HEAD = _answer

    def log_message(self, *_: Any) -> None:
        pass
