"""A real HTTP server on loopback that plays an image host or a provider, as the test wants."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Longer than anything takes here: a server that hangs ends with an error instead of the whole run.
PATIENCE = 15.0


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What the server says; `cut` ends the connection instead of saying anything."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


Reply = Callable[[Asked], Answer]


def json_answer(payload: object, status: int = 200, **headers: str) -> Answer:
    """An answer in JSON; header names are written with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps(payload).encode(), named)


class Site:
    """A server; `replies` says what each path answers, 404 where it says nothing."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.replies: dict[str, Answer | Reply] = {}
        self._asked: list[Asked] = []
        self._lock = threading.Lock()

    def asked(self, path: str) -> list[Asked]:
        """The requests that came for `path` so far."""
        with self._lock:
            return [asked for asked in self._asked if asked.path == path]

    def serve(self, path: str, body: bytes, **fields: Any) -> str:
        """Answer `path` with `body` from now on; the URL where it is."""
        self.replies[path] = Answer(body=body, **fields)
        return self.url + path

    def answer(self, asked: Asked) -> Answer:
        """Note a request; what to say to it."""
        with self._lock:
            self._asked.append(asked)
        reply = self.replies.get(asked.path, Answer(404, b"nothing here"))
        return reply(asked) if callable(reply) else reply


class _Handler(BaseHTTPRequestHandler):
    site: Site
    timeout = PATIENCE

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        asked = Asked(self.command, self.path, self.headers, self.rfile.read(length))
        answer = self.site.answer(asked)
        if answer.cut:
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_POST = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Says nothing: who asks may hang up."""


@contextmanager
def running_site() -> Iterator[Site]:
    """A site that runs until the end of the `with`."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        site = Site(server.server_port)
        server.RequestHandlerClass = type("Handler", (_Handler,), {"site": site})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
