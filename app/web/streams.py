"""Server-Sent Events: what happens to one task or to all, as it happens, and what was missed before."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from uuid import UUID

from flask import Blueprint, Response, g, request
from flask.typing import ResponseReturnValue

from app import changes, reports
from app.changes import Change, Position
from app.db import is_outage
from app.errors import InvalidFieldError, UnavailableError
from app.models import Scope
from app.services import Services
from app.web.auth import requires, signed_in
from app.web.broadcast import Broadcast
from app.web.frames import Form, Frame, frames
from app.web.listeners import Listener
from app.web.peers import Peer
from app.web.state import broadcast, services, waiters

bp = Blueprint("streams", __name__)

HEARTBEAT_SECONDS = 15.0
# How often to see whether the client is still there.
LOOK_SECONDS = 5.0
# How soon a browser comes again after it was cut off.
RETRY_MS = 1000
# How many changes that were missed are read at once.
PAGE = 50


@bp.get("/v1/events")
@requires(Scope.READ)
def all_events() -> ResponseReturnValue:
    """What happens to any task, from now on or from after the `Last-Event-ID`."""
    return event_stream()


@bp.get("/v1/tasks/<id_>/events")
@requires(Scope.READ)
def task_events(id_: str) -> ResponseReturnValue:
    """What happens to one task until it ends; first how it is now, or what was missed."""
    with services().db.reading() as session:
        found = reports.find_task(session, id_)
    return event_stream(task_id=found.id)


@bp.get("/events")
@signed_in(Scope.READ, page=False)
def page_events() -> ResponseReturnValue:
    """For pages: task ids and statuses only, of all tasks or of the one in `task_id`."""
    task_id = None
    if named := request.args.get("task_id"):
        with services().db.reading() as session:
            task_id = reports.find_task(session, named).id
    return event_stream(Form.BRIEF, task_id=task_id)


def event_stream(form: Form = Form.SHORT, *, task_id: UUID | None = None) -> Response:
    """The stream that this request asks for: of one task, which must exist, or of all.

    Raises `InvalidFieldError` for a `Last-Event-ID` that never was one, and `UnavailableError` when
    too many wait already.
    """
    start = _last_event_id()
    with ExitStack() as stack:
        stack.enter_context(waiters().place())
        peer = Peer(request.environ)
        listener = Listener(form, task_id, g.key.id, peer.cut)
        stream = _Stream(services(), broadcast(), peer, listener)
        stack.callback(stream.leave)
        if start is None:
            # Before the answer begins: what happens from then on is told.
            stream.join()
        response = Response(stream.pieces(start), mimetype="text/event-stream")
        # Also when not a single piece was asked for.
        response.call_on_close(stack.pop_all().close)
    response.headers["Cache-Control"] = "no-store"
    # For whoever is cut off before the first event.
    response.headers["Last-Event-ID"] = str(start or stream.joined)
    # nginx would collect the events before it passes them on.
    response.headers["X-Accel-Buffering"] = "no"
    return response


class _Stream:
    """One answer; `joined` is up to where nothing is left to be told by whom it has joined."""

    def __init__(
        self, services: Services, broadcast: Broadcast, peer: Peer, listener: Listener
    ) -> None:
        self._services = services
        self._broadcast = broadcast
        self._peer = peer
        self._listener = listener
        self._form = listener.form
        self._task_id = listener.task_id
        self.joined = changes.BEGINNING

    def join(self, start: Position | None = None) -> None:
        """Be told what happens from now on, or after `start`, whichever is later."""
        self.joined = self._broadcast.join(self._listener, start)

    def leave(self) -> None:
        """Be told nothing more."""
        self._broadcast.leave(self._listener)

    def pieces(self, start: Position | None) -> Iterator[bytes]:
        """What is sent; without `start` nothing has been missed, but `join` was called."""
        # The first piece takes the headers with it.
        yield self._opening(start or self.joined)
        try:
            before = self._state() if start is None else self._missed(start)
            for told in before:
                yield b"".join(frame.data for frame in told)
                if self._task_id is not None and any(frame.final for frame in told):
                    return
        except Exception as error:
            if isinstance(error, UnavailableError) or is_outage(error):
                # The client comes again, with the id of the last event that it got.
                return
            raise
        yield from self._live()

    def _opening(self, start: Position) -> bytes:
        if self._form is Form.SHORT:
            return b": events\n\n"
        # A browser that is cut off before the first event then knows where it was.
        return f"retry: {RETRY_MS}\nid: {start}\n\n".encode()

    def _state(self) -> Iterator[list[Frame]]:
        """How the task is; nothing for a stream of all tasks."""
        if self._task_id is not None:
            yield self._frames([Change(self.joined, self._task_id, None)])

    def _missed(self, start: Position) -> Iterator[list[Frame]]:
        """What happened after `start`, up to where the listener is told the rest."""
        anything = False
        while page := self._page(start, None):
            anything = True
            start = page[-1].position
            yield self._frames(page)
        # Only now: while much is caught up with, nothing should queue.
        self.join(start)
        while page := self._page(start, self.joined):
            anything = True
            start = page[-1].position
            yield self._frames(page)
        if not anything and self._task_id is not None:
            state = self._frames([Change(self.joined, self._task_id, None)])
            if any(frame.final for frame in state):
                yield state

    def _page(self, start: Position, until: Position | None) -> Sequence[Change]:
        with self._services.db.reading() as session:
            found = changes.after(session, start, limit=PAGE, until=until, task_id=self._task_id)
        return [change for change in found if change.settled]

    def _frames(self, told: Sequence[Change]) -> list[Frame]:
        with self._services.db.reading() as session:
            return frames(self._services, session, told, self._form)

    def _live(self) -> Iterator[bytes]:
        beat_at = time.monotonic() + HEARTBEAT_SECONDS
        while True:
            seconds = min(LOOK_SECONDS, beat_at - time.monotonic())
            data, last = self._listener.take(seconds)
            if data:
                yield data
            if last or self._peer.gone():
                return
            if time.monotonic() >= beat_at:
                beat_at += HEARTBEAT_SECONDS
                yield b": still here\n\n"


def _last_event_id() -> Position | None:
    """Where the client was; a browser's script cannot set the header, so the query is read too."""
    for name, value in (
        ("Last-Event-ID", request.headers.get("Last-Event-ID")),
        ("last_event_id", request.args.get("last_event_id")),
    ):
        if value:
            found = changes.position(value)
            if found is None:
                rule = "expected the id of an event of these streams, such as 811-93"
                raise InvalidFieldError(name, f"{name}: {rule}, not {value!r}")
            return found
    return None
