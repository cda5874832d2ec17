"""Gunicorn's threads, but so that no client holds up others by what it does not do.

As gunicorn 27 has them: a connection is closed in the process's main loop, which waits up to 2 s for the
client to close it too; a new one holds a thread for up to 5 s until something comes; and one whose
body was not read is said to stay open, and is closed.
"""

import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

from gunicorn import util
from gunicorn.workers import gthread

from app.serving import refusals
from app.web.intake import BODY_IS_HERE

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

# How many connections may wait at once for their clients to close them; others are cut.
CLOSING = 64
# What is read of a body that nobody wants, so that its sender gets to read the answer.
DRAIN_BYTES = 4 * 1024 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Threads(gthread.ThreadWorker):
    """One web process."""

    def init_process(self) -> None:
        """Serve until told to end."""
        self._closers = ThreadPoolExecutor(CLOSING, "close")
        self._free_closers = BoundedSemaphore(CLOSING)
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application."""
        super().load_wsgi()
        application: Any = self.wsgi
        self._end = getattr(application, "end", None)
        self.wsgi = closing_unread(application)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """End once what is under way is answered; streams, which never are, end now."""
        if self.alive and self._end is not None:
            # In the main loop: a signal may come while this thread holds any lock.
            self.method_queue.defer(self._end)
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """The same: gunicorn would leave at once, and then wait for the threads of open streams."""
        self.handle_exit(sig, frame)

    def is_parent_alive(self) -> bool:
        """Whether gunicorn's main process lives; without it this one ends, and with it its streams.

        Else it would keep the port from whoever comes in its place.
        """
        alive: bool = super().is_parent_alive()
        if not alive:
            self.handle_exit(signal.SIGTERM, None)
        return alive

    def handle(self, conn: gthread.TConn) -> Any:
        """Answer a request, or wait for it in the main loop."""
        if not conn.initialized and not conn.wait_for_data(0):
            return gthread._DEFER  # type: ignore[attr-defined]  # noqa: SLF001 - its sign for it
        return super().handle(conn)

    def handle_request(self, req: Any, conn: gthread.TConn) -> Any:
        """Answer a request; who asks before it sends its body is told to once that is wanted."""
        # Gunicorn would tell it before anybody has looked at the token.
        req._expected_100_continue = False  # noqa: SLF001 - there is no other way to ask for it
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what no application has answered."""
        del req
        if refusals.of_the_client(exc):
            self.log.warning("Invalid request from %s: %s", addr and addr[0], exc)
        else:
            # Without the address that was called: a token may be in it.
            self.log.error("Error handling request", exc_info=exc)
        with suppress(OSError):
            util.write_nonblock(client, refusals.answer(exc))

    def finish_request(self, conn: gthread.TConn, fs: "Future[Any]") -> None:
        """Keep the connection, or close it; runs in the main loop."""
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
            return
        self.nr_conns -= 1
        if self._free_closers.acquire(blocking=False):
            self._closers.submit(self._close, conn)
        else:
            conn.close()

    def _close(self, conn: gthread.TConn) -> None:
        try:
            conn.sock.setblocking(True)
            util.close_graceful(conn.sock, max_drain=DRAIN_BYTES)
        finally:
            self._free_closers.release()


def closing_unread(application: "WSGIApplication") -> Any:
    """`application`; an answer that comes before the body was read says that the connection closes.

    Gunicorn would say that it stays, and lose the next request on it.
    """

    def call(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        body = _Body(environ)
        environ["wsgi.input"] = body
        environ[BODY_IS_HERE] = body.is_here
        response = start_response.__self__  # type: ignore[attr-defined]  # gunicorn's Response

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if not body.ended:
                response.force_close()
            return start_response(status, headers, exc_info)

        return application(environ, start)

    return call


class _Body:
    """A request's body, and whether it was read to its end."""

    def __init__(self, environ: "WSGIEnvironment") -> None:
        self._body = environ["wsgi.input"]
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        # None for as many as will come.
        self._left = None if chunked else int(environ.get("CONTENT_LENGTH") or 0)
        asks = environ.get("HTTP_EXPECT", "").lower() == "100-continue"
        # HTTP/1.0 knows no such answer.
        newer = environ["SERVER_PROTOCOL"] != "HTTP/1.0"
        self._asking = environ["gunicorn.socket"] if asks and newer else None

    @property
    def is_here(self) -> bool:
        """Whether all of it came with the head, in what gunicorn has read ahead."""
        reader = getattr(self._body, "reader", None)
        unreader = getattr(reader, "unreader", None)
        if self._left is None or unreader is None:
            return False
        return bool(unreader.buf.getbuffer().nbytes >= self._left)

    @property
    def ended(self) -> bool:
        return self._left == 0

    def read(self, size: int = -1) -> bytes:
        self._invite()
        data: bytes = self._body.read(size)
        # Gunicorn gives less than was asked for only where the body ends.
        self._count(len(data), ended=size < 0 or len(data) < size)
        return data

    def readline(self, size: int = -1) -> bytes:
        self._invite()
        line: bytes = self._body.readline(size)
        self._count(len(line), ended=not line)
        return line

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _invite(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None and not self.is_here:
            asking.sendall(CONTINUE)

    def _count(self, read: int, *, ended: bool) -> None:
        if ended:
            self._left = 0
        elif self._left is not None:
            self._left -= read
