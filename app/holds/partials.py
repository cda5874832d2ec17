"""Images as they are while the provider is at work: into storage, for whoever wants to watch.

Nothing that goes wrong with one matters to the result: it is told in the log, and that is all.
"""

import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import BinaryIO, Self
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from app import bodies, events, imaging, placements
from app.errors import ImageError, PostbackError
from app.events import Fact, Happened
from app.models import Partial, new_id
from app.scratch import scratch, write
from app.services import Services

log = structlog.get_logger()

# How long the result, once it is there, waits for those that came before it.
PATIENCE_SECONDS = 5.0
# Nobody asks for so many; whoever sends them shall not fill our storage.
MOST = 40


class Partials:
    """Keeps the partial images of one task, in threads: slow storage must not hold up the stream."""

    def __init__(self, services: Services, task_id: UUID) -> None:
        self._services = services
        self._task_id = task_id
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __call__(self, base64: Iterable[bytes]) -> None:
        """Keep the image that `base64` is; it is read before this returns."""
        index = len(self._threads)
        if index == MOST:
            return
        # The thread closes it.
        stack = ExitStack()
        try:
            file, size = stack.enter_context(scratch()), 0
            for piece in bodies.decode_base64(base64):
                size += len(piece)
                if size > self._services.config.max_image_bytes:
                    raise ImageError("too large", code="too_large")
                write(file, piece)
            before = self._threads[-1] if self._threads else None
            given = (stack, index, file, before)
            thread = threading.Thread(target=self._keep, args=given, daemon=True)
            # The system may have no thread left.
            thread.start()
        except Exception as error:
            stack.close()
            _dropped(index, error)
        else:
            self._threads.append(thread)

    def _keep(
        self, stack: ExitStack, index: int, file: BinaryIO, before: threading.Thread | None
    ) -> None:
        with stack:
            try:
                self._store(index, file, before)
            except Exception as error:
                _dropped(index, error)

    def _store(self, index: int, file: BinaryIO, before: threading.Thread | None) -> None:
        services, id_ = self._services, new_id()
        size = file.tell()
        facts = imaging.inspect(file, max_pixels=services.config.max_image_pixels)
        key = f"partials/{self._task_id}/{index}-{id_.hex}.{facts.extension}"
        file.seek(0)
        row = Partial(
            id=id_,
            task_id=self._task_id,
            index=index,
            key=key,
            content_type=facts.content_type,
            size=size,
        )
        with placements.placing(services, [key]):
            services.storage.put(key, file, facts.content_type)
            # Told in the order in which they came.
            if before is not None:
                before.join(PATIENCE_SECONDS)
            with services.db.transaction() as session:
                _tell(session, row)


def _tell(session: Session, row: Partial) -> None:
    session.add(row)
    session.flush()
    placements.settle(session, [row.key])
    detail = {"index": row.index, "bytes": row.size}
    events.record(session, Fact(row.task_id, Happened.PARTIAL_IMAGE, detail))


def _dropped(index: int, error: Exception) -> None:
    known = isinstance(error, PostbackError)
    log.warning(
        "partial image dropped",
        action="partial",
        index=index,
        error=f"{type(error).__name__}: {error if known else ''}",
    )
