"""The client at the other end of a long answer: whether it is still there, and how to be rid of it."""

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

# Linux: how long what was sent may go unconfirmed, in milliseconds.
_UNCONFIRMED_MS = 30_000


class Peer:
    """The connection that a request came on; only gunicorn gives it to us."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._socket: socket.socket | None = environ.get("gunicorn.socket")
        if self._socket is not None and self._socket.family != socket.AF_UNIX:
            # A client whose machine or network went away never says so: the kernel gives it up, and
            # one that never reads.  Only Linux has it.
            with suppress(OSError, AttributeError):
                self._socket.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNCONFIRMED_MS
                )

    def gone(self) -> bool:
        """Whether the client has hung up."""
        if self._socket is None:
            return False
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def cut(self) -> None:
        """End the connection, also for a thread that is in the middle of sending."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
