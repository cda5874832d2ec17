"""A real receiver of callbacks on loopback, which answers as the test wants."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Longer than anything takes here: a callback that never comes ends the test with an error.
PATIENCE = 15.0


def wait_for(happened: Callable[[], bool]) -> None:
    """Returns as soon as that is true; fails when it does not become so."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@dataclass(frozen=True)
class Received:
    """One callback as it arrived, its body taken out of the chunks but still packed."""

    path: str
    headers: Message
    body: bytes


class Receiver:
    """Collects callbacks; `url` is where it is, `statuses` what it answers before it answers 200."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/callbacks/task.signature123456"
        self.statuses: list[int] = []
        # Set to let nobody have an answer before that many callbacks are there at the same time.
        self.barrier: threading.Barrier | None = None
        # Clear to give no answer at all for a while.
        self.answering = threading.Event()
        self.answering.set()
        self.most_at_once = 0
        self._at_once = 0
        self._received: list[Received] = []
        self._changed = threading.Condition()

    @property
    def count(self) -> int:
        """How many callbacks are there now."""
        with self._changed:
            return len(self._received)

    def wait(self, count: int = 1) -> list[Received]:
        """All callbacks, once there are `count`."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self._received) >= count, PATIENCE)
            assert arrived, f"{len(self._received)} callbacks came, not {count}"
            return list(self._received)

    def take(self, received: Received) -> int:
        """Keeps a callback; gives the status to answer."""
        with self._changed:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        status = self._judge()
        with self._changed:
            self._at_once -= 1
            self._received.append(received)
            self._changed.notify_all()
            return self.statuses.pop(0) if self.statuses else status

    def _judge(self) -> int:
        self.answering.wait(PATIENCE)
        try:
            if self.barrier:
                self.barrier.wait(PATIENCE)
        except threading.BrokenBarrierError:
            return 500
        return 200


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        status = self.receiver.take(Received(self.path, self.headers, self._read()))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        pieces = []
        while length := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(length))
            self.rfile.readline()
        return b"".join(pieces)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that runs until the end of the `with`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        receiver = Receiver(server.server_port)
        server.RequestHandlerClass = type("Handler", (_Handler,), {"receiver": receiver})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.answering.set()
            server.shutdown()
            thread.join()
