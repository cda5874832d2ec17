"""One reader of changes for all streams of a process.

Woken by the database, it reads what is new once, makes each event's text once, and hands it to every
stream: what the database does, and most of what the process does, is the same for one and for 200.
It reads nothing while nobody listens.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from uuid import UUID

import structlog

from app import changes, events
from app.changes import Change, Position
from app.db import is_outage
from app.errors import UnavailableError
from app.services import Services
from app.web.frames import Form, Frame, frames

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
# How much may wait for a client that reads slowly.
QUEUED_BYTES = 4 * 2**20


class Listener:
    """A stream's queue: of all tasks, or of one.

    `cut` is called when the client cannot follow; it resumes where it was.
    """

    def __init__(self, form: Form, task_id: UUID | None, cut: Callable[[], None]) -> None:
        self.form = form
        self.task_id = task_id
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
                piece = self._queue.get_nowait()
        except Empty:
            return b"".join(pieces), False
        return b"".join(pieces), True


# The events of some changes, for each form in which somebody wants to hear of them.
Told = Mapping[Form, Sequence[Frame]]


class Broadcast:
    """The reader, and who listens to it; its thread lives as long as somebody does."""

    def __init__(self, services: Services) -> None:
        self._services = services
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
                self._position = now
                threading.Thread(target=self._read, name="broadcast", daemon=True).start()
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
        if len(settled) == BATCH:
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
                    woken = self._pass_on(told, settled[0].position)
                    self._position = settled[-1].position
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

    def _pass_on(self, told: Told, first: Position) -> int:
        """Queue the events, which begin with `first`; how many streams that wakes."""
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

    def _endure(self, error: Exception) -> float:
        if is_outage(error):
            log.warning("database away, streams wait", action="broadcast", error=str(error))
        else:
            log.error("streams wait", action="broadcast", exc_info=error)
        return OUTAGE_PAUSE_SECONDS


def _by_task(told: Sequence[Frame]) -> Mapping[UUID, Sequence[Frame]]:
    grouped: dict[UUID, list[Frame]] = defaultdict(list)
    for frame in told:
        grouped[frame.task_id].append(frame)
    return grouped
