"""One reader of changes for all streams of a process.

Woken by the database, it reads what is new once, makes each event's text once, and hands it to every
stream: what the database does, and most of what the process does, is the same for one and for 200.
It reads nothing while nobody listens.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog
from sqlalchemy import select

from app import changes, events
from app.changes import Change, Position
from app.db import is_outage
from app.errors import UnavailableError
from app.models import ApiKey, Task
from app.services import Services
from app.web.frames import Form, Frame, frames
from app.web.listeners import Listener

log = structlog.get_logger()

# How many changes are read at once.
BATCH = 200
# Between processes SQLite has no wake-ups; on PostgreSQL one may be lost while it restarts.
POLL_SECONDS = {"sqlite": 0.25, "postgresql": 5.0}
OUTAGE_PAUSE_SECONDS = 0.5
# How soon to look again while a transaction that is open keeps changes back; each time later.
HELD_BACK_SECONDS = (0.01, 0.5)
# What comes in quick succession is told together, for each stream costs a change of threads.
PAUSE_SECONDS = 0.02
PAUSE_SECONDS_PER_LISTENER = 0.001
# How much is told at once, if more than one event is that long: whoever reads well can follow.
TOLD_BYTES = 2**20
# How often to see whether somebody may not listen any more, or has nothing left to hear of.
CHECK_SECONDS = 15.0


# The events of some changes, for each form in which somebody wants to hear of them.
Told = Mapping[Form, Sequence[Frame]]


class Broadcast:
    """The reader, and who listens to it; its thread lives as long as somebody does."""

    def __init__(self, services: Services, *, check_seconds: float = CHECK_SECONDS) -> None:
        self._services = services
        self._check_seconds = check_seconds
        self._check_at = 0.0
        self._lock = threading.Lock()
        self._listeners: set[Listener] = set()
        # Up to where all listeners have been told; None while there is no reader.
        self._position: Position | None = None
        self._woken = threading.Event()
        self._ended = threading.Event()
        self._held_back = HELD_BACK_SECONDS[0]
        self._poll = POLL_SECONDS[services.db.engine.dialect.name]
        services.db.signals.connect(events.CHANNEL, lambda _payload: self._woken.set())

    def join(self, listener: Listener, start: Position | None = None) -> Position:
        """From now on `listener` is told what comes after the position that this gives.

        That is now, or how far the reader is, should it be behind and the listener at `start` too.
        Raises `UnavailableError` when the process is about to end.
        """
        # Before the lock: the database may let us wait.
        now = self._latest()
        with self._lock:
            if self._ended.is_set():
                raise UnavailableError("this process is about to end")
            if self._position is None:
                threading.Thread(target=self._read, name="broadcast", daemon=True).start()
                # Only now: the system may have had no thread left.
                self._position = now
                self._check_at = time.monotonic() + self._check_seconds
            # What a client says may be after everything that there is: a database was put back.
            listener.told = max(self._position, min(start or now, now))
            self._listeners.add(listener)
            return listener.told

    def leave(self, listener: Listener) -> None:
        """Tell `listener` nothing more."""
        with self._lock:
            self._listeners.discard(listener)
        self._woken.set()

    @property
    def ended(self) -> bool:
        """Whether this process is about to end."""
        return self._ended.is_set()

    def end(self) -> None:
        """End all streams: their clients resume elsewhere."""
        self._ended.set()
        self._woken.set()
        with self._lock:
            for listener in self._listeners:
                listener.end()

    def _latest(self) -> Position:
        with self._services.db.reading() as session:
            return changes.latest(session)

    def _read(self) -> None:
        while (position := self._listened_from()) is not None:
            self._woken.clear()
            try:
                pause = self._look(position)
                self._check()
            except Exception as error:
                pause = self._endure(error)
            self._woken.wait(pause)

    def _listened_from(self) -> Position | None:
        with self._lock:
            if not self._listeners or self._ended.is_set():
                self._position = None
            return self._position

    def _look(self, position: Position) -> float:
        """Tell what is new; how long to wait for a wake-up before looking again, in seconds."""
        with self._services.db.reading() as session:
            found = changes.after(session, position, limit=BATCH)
        settled = [change for change in found if change.settled]
        if settled:
            self._held_back = HELD_BACK_SECONDS[0]
            self._ended.wait(self._tell(settled))
        if len(settled) == BATCH or (settled and self._position != settled[-1].position):
            return 0
        if len(settled) == len(found):
            return self._poll
        # Nothing tells when the transaction that keeps them back has ended.
        pause, self._held_back = self._held_back, min(2 * self._held_back, HELD_BACK_SECONDS[1])
        return pause

    def _tell(self, settled: Sequence[Change]) -> float:
        """Pass the changes on to whoever wants them; how long to rest after it, in seconds."""
        told: dict[Form, Sequence[Frame]] = {}
        covered: dict[Form, frozenset[UUID]] = {}
        while True:
            with self._lock:
                wanted = self._wanted({change.task_id for change in settled})
                missing = {
                    form: ids
                    for form, ids in wanted.items()
                    if ids - covered.get(form, frozenset())
                }
                if not missing:
                    last = _fitting(told) or settled[-1].position
                    woken = self._pass_on(told, settled[0].position, last)
                    self._position = last
                    return max(PAUSE_SECONDS, woken * PAUSE_SECONDS_PER_LISTENER)
            # Not in the lock; whoever has joined meanwhile may want something else.
            with self._services.db.reading() as session:
                for form, ids in missing.items():
                    of_them = [change for change in settled if change.task_id in ids]
                    told[form] = frames(self._services, session, of_them, form)
                    covered[form] = ids

    def _wanted(self, task_ids: set[UUID]) -> dict[Form, frozenset[UUID]]:
        """Of which of these tasks somebody wants to hear, in which form."""
        wanted: dict[Form, set[UUID]] = defaultdict(set)
        for listener in self._listeners:
            if listener.task_id is None:
                wanted[listener.form] = task_ids
            elif listener.task_id in task_ids:
                wanted[listener.form] = wanted[listener.form] | {listener.task_id}
        return {form: frozenset(ids) for form, ids in wanted.items()}

    def _pass_on(self, told: Told, first: Position, last: Position) -> int:
        """Queue the events from `first` to `last`; how many streams that wakes."""
        told = {form: [f for f in each if f.position <= last] for form, each in told.items()}
        whole = {form: b"".join(frame.data for frame in each) for form, each in told.items()}
        of_one = {form: _by_task(each) for form, each in told.items()}
        woken = 0
        for listener in self._listeners:
            if listener.task_id is None and listener.told < first:
                data, final = whole[listener.form], False
            else:
                among = told.get(listener.form, ())
                if listener.task_id is not None:
                    among = of_one.get(listener.form, {}).get(listener.task_id, ())
                mine = [frame for frame in among if frame.position > listener.told]
                data = b"".join(frame.data for frame in mine)
                final = listener.task_id is not None and any(frame.final for frame in mine)
            if data:
                listener.put(data)
                woken += 1
            if final:
                listener.end()
        return woken

    def _check(self) -> None:
        """End the streams of keys that were revoked and of tasks that were deleted: no event tells."""
        if time.monotonic() < self._check_at:
            return
        self._check_at = time.monotonic() + self._check_seconds
        with self._lock:
            listeners = list(self._listeners)
        key_ids = {listener.key_id for listener in listeners}
        task_ids = {listener.task_id for listener in listeners if listener.task_id is not None}
        with self._services.db.reading() as session:
            valid = select(ApiKey.id).where(ApiKey.id.in_(key_ids), ApiKey.revoked_at.is_(None))
            there = select(Task.id).where(Task.id.in_(task_ids))
            good_keys, tasks = set(session.scalars(valid)), set(session.scalars(there))
        for listener in listeners:
            if listener.key_id not in good_keys or listener.task_id not in {None, *tasks}:
                listener.end()

    def _endure(self, error: Exception) -> float:
        if is_outage(error):
            log.warning("database away, streams wait", action="broadcast", error=str(error))
        else:
            log.error("streams wait", action="broadcast", exc_info=error)
        return OUTAGE_PAUSE_SECONDS


def _fitting(told: Told) -> Position | None:
    """The last position up to which all this is not too long; None when it is all short enough."""
    lasts = []
    for each in told.values():
        length = 0
        for before, frame in zip([None, *each], each, strict=False):
            length += len(frame.data)
            if before is not None and length > TOLD_BYTES:
                lasts.append(before.position)
                break
    return min(lasts, default=None)


def _by_task(told: Sequence[Frame]) -> Mapping[UUID, Sequence[Frame]]:
    grouped: dict[UUID, list[Frame]] = defaultdict(list)
    for frame in told:
        grouped[frame.task_id].append(frame)
    return grouped
