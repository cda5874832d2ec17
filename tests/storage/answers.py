"""An HTTP server that says to every request what a test tells it to: faults a sound server never has."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answers(ThreadingHTTPServer):
    """Answers with `status`, `body` and `headers`, and keeps each request's headers and body."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.body = body
        self.headers = headers
        self.heard: list[tuple[Mapping[str, str], bytes]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Answers

    def log_message(self, *_: object) -> None:
        """Not to standard error."""

    def _answer(self) -> None:
        heard = {name.lower(): value for name, value in self.headers.items()}
        self.server.heard.append((heard, self.rfile.read(int(heard.get("content-length", 0)))))
        self.send_response(self.server.status)
        headers = {"Content-Length": str(len(self.server.body)), **self.server.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - the base class looks for these


@contextmanager
def answers(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Iterator[Answers]:
    """A running server with that answer."""
    with Answers(status, body, headers or {}) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
