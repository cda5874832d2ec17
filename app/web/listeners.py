"""What waits to be sent on one stream."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from uuid import UUID

import structlog

from app import changes
from app.web.frames import Form

log = structlog.get_logger()

# How much may wait for a client that reads slowly.
QUEUED_BYTES = 4 * 2**20
# How many pieces are sent as one; each may be long.
PIECES = 4


class Listener:
    """A stream's queue: of all tasks, or of one; for whoever holds the API key.

    `cut` is called when the client cannot follow; it resumes where it was.
    """

    def __init__(
        self, form: Form, task_id: UUID | None, key_id: UUID, cut: Callable[[], None]
    ) -> None:
        self.form = form
        self.task_id = task_id
        self.key_id = key_id
        # Up to where it has been told, when that is further than the reader was as it joined.
        self.told = changes.BEGINNING
        self._cut = cut
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        # Each is changed by one thread only.
        self._put = 0
        self._taken = 0

    def put(self, data: bytes) -> None:
        """Queue `data`; never waits."""
        queued = self._put - self._taken
        if queued and queued + len(data) > QUEUED_BYTES:
            log.warning("stream cut off", action="cut", queued=queued)
            self._cut()
            self.end()
            return
        self._put += len(data)
        self._queue.put(data)

    def end(self) -> None:
        """Nothing more comes after what is queued."""
        self._queue.put(None)

    def take(self, seconds: float) -> tuple[bytes, bool]:
        """What is queued, waiting for it up to `seconds`, and whether that was the last."""
        pieces: list[bytes] = []
        try:
            piece = self._queue.get(timeout=max(seconds, 0))
            while piece is not None:
                pieces.append(piece)
                self._taken += len(piece)
                if len(pieces) == PIECES:
                    return b"".join(pieces), False
                piece = self._queue.get_nowait()
        except Empty:
            return b"".join(pieces), False
        return b"".join(pieces), True
