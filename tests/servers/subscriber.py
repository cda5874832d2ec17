"""A subscriber on loopback: takes what is pushed, and answers or does not, as a test wants."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Not where the sandbox and the traps are, which stay forbidden.
ADDRESS = "127.0.0.2"

# How the n-th request is answered: with a status; by None, it never is.
Answers = Callable[[int], int | None]


@dataclass(frozen=True)
class Arrival:
    """One request as it arrived, by this machine's clock, and how it was answered."""

    at: float
    headers: Mapping[str, str]
    body: bytes
    status: int | None

    @property
    def id(self) -> str:
        """The `webhook-id`."""
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


@dataclass
class Subscriber:
    """A server; `url` takes everything."""

    url: str
    answers: Answers
    arrivals: list[Arrival] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, headers: Mapping[str, str], body: bytes) -> int | None:
        """Note a request; what to answer."""
        with self.lock:
            status = self.answers(len(self.arrivals))
            self.arrivals.append(Arrival(time.time(), headers, body, status))
        if status is None:
            self.closing.wait()
        return status

    def taken(self) -> dict[str, Arrival]:
        """By its id, the first arrival of each message that was answered with 200."""
        with self.lock:
            arrivals = list(self.arrivals)
        return {each.id: each for each in reversed(arrivals) if each.status == 200}


class _Handler(BaseHTTPRequestHandler):
    subscriber: Subscriber

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        named = {name.lower(): value for name, value in self.headers.items()}
        status = self.subscriber.take(named, body)
        if status is not None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Says nothing: who asks may be killed."""


@contextmanager
def subscriber(answers: Answers = lambda _: 200) -> Iterator[Subscriber]:
    """A subscriber that runs until the end of the `with`."""
    with _Server((ADDRESS, 0), _Handler) as server:
        here = Subscriber(f"http://{ADDRESS}:{server.server_port}/hook", answers)
        server.RequestHandlerClass = type("Handler", (_Handler,), {"subscriber": here})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield here
        finally:
            here.closing.set()
            server.shutdown()
            thread.join()
