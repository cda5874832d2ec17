"""The limits on time and bytes of one exchange, and the clock that keeps those on time."""

import socket
from dataclasses import dataclass
from time import monotonic


@dataclass(frozen=True)
class Limits:
    """How long an exchange may take, in seconds, and how large its answer may be, in bytes.

    `connect` is for the lookup of the name, and again for each address that is tried; `read` is for
    each piece that is sent or received; `total` is for everything, redirects and the time that the
    caller takes between two pieces included.  `bytes` holds for the body as sent and as inflated.
    """

    connect: float = 5.0
    read: float = 30.0
    total: float = 120.0
    bytes: int = 16 * 2**20


class Clock:
    """The time that is left for one exchange; it starts when this is made."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._deadline = monotonic() + limits.total

    def within(self, seconds: float) -> float:
        """The smaller of `seconds` and what is left; raises `TimeoutError` when nothing is."""
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError("the time for the whole call is over")
        return min(seconds, left)

    def arm(self, sock: socket.socket) -> None:
        """Give the next send or receive on `sock` its time; raises `TimeoutError`."""
        sock.settimeout(self.within(self.limits.read))
