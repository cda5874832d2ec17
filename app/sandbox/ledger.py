"""What happened: the tasks, and what was accepted, sent, made and asked.  The truth for tests."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

from app.sandbox.misbehaviours import Word

K = TypeVar("K")
V = TypeVar("V")

MAX_TASKS = 5000
# Of their JSON: a result with base64 images in it is large.
MAX_TASK_BYTES = 256 * 2**20
MAX_COUNTS = 100_000
MAX_ANSWERS = 1000


@dataclass
class Task:
    """An accepted submission; times in unix seconds.

    `key` is what it is counted under: the submission's own `trace_id`, else the task's id.  `kept`
    says that it can be looked up.
    """

    trace_id: str
    request: dict[str, Any]
    kept: bool
    key: str = ""
    id: str = field(default_factory=lambda: str(uuid4()))
    created_at: float = field(default_factory=time.time)
    started_at: float | None = None
    finished_at: float | None = None
    response: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.key = self.key or self.id


class Ledger:
    """Keeps the newest tasks and counts; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._submitting = 0
        self.reset()

    def reset(self) -> None:
        """Forgets everything; what is under way is counted when it happens."""
        with self._lock:
            self._tasks: dict[str, Task] = {}
            self._by_trace: dict[str, str] = {}
            self._sizes: dict[str, int] = {}
            self._attempts: dict[tuple[Word, str], int] = {}
            self._submissions: dict[str, int] = {}
            self._most_at_once = self._submitting
            self._callbacks: dict[str, dict[str, Any]] = {}
            self._images: deque[dict[str, str]] = deque(maxlen=MAX_COUNTS)
            self._lookups: deque[float] = deque(maxlen=MAX_COUNTS)

    def attempt(self, word: Word, key: str, times: float) -> bool:
        """Counts a try of `key`; whether it is among the first `times`, so that `word` happens."""
        with self._lock:
            number = self._attempts.get((word, key), 0) + 1
            _put(self._attempts, (word, key), number)
            return number <= times

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """Counts who waits for the answer to a submission at the same time."""
        with self._lock:
            self._submitting += 1
            self._most_at_once = max(self._most_at_once, self._submitting)
        try:
            yield
        finally:
            with self._lock:
                self._submitting -= 1

    def accept(self, task: Task) -> None:
        """Counts a paid submission."""
        with self._lock:
            _put(self._submissions, task.key, self._submissions.get(task.key, 0) + 1)
            if task.kept:
                self._tasks[task.id] = task
                self._by_trace[task.trace_id] = task.id
                self._sizes[task.id] = len(json.dumps(task.request))
                self._trim()

    def finish(self, task: Task, response: dict[str, Any], size: int) -> None:
        """Takes the result in, which is `size` bytes of JSON."""
        with self._lock:
            task.response, task.finished_at = response, time.time()
            if task.id in self._tasks:
                self._sizes[task.id] += size
                self._trim()

    def sent(self, key: str, status: int | None) -> None:
        """Counts a callback and how it was answered; None when it was not."""
        with self._lock:
            entry = self._callbacks.get(key) or {"sent": 0, "answers": []}
            entry["sent"] += 1
            if len(entry["answers"]) < MAX_ANSWERS:
                entry["answers"].append(status)
            _put(self._callbacks, key, entry)

    def made(self, key: str, picture_id: str, sha256: str) -> None:
        """Counts a picture that the submission under `key` has led to."""
        with self._lock:
            self._images.append({"id": picture_id, "submission": key, "sha256": sha256})

    def asked(self) -> None:
        """Counts a lookup."""
        with self._lock:
            self._lookups.append(time.time())

    def find(self, *, task_id: str | None = None, trace_id: str | None = None) -> Task | None:
        """The task of that id, or the newest one of that trace id."""
        with self._lock:
            return self._tasks.get(task_id or self._by_trace.get(trace_id or "", ""))

    def select(self, wanted: Callable[[Task], bool]) -> list[Task]:
        """The tasks that are `wanted`, newest first."""
        with self._lock:
            return [task for task in reversed(self._tasks.values()) if wanted(task)]

    def state(self) -> dict[str, Any]:
        """All counts, as JSON can carry them."""
        with self._lock:
            return {
                "submissions": dict(self._submissions),
                "most_submissions_at_once": self._most_at_once,
                "callbacks": {
                    key: {"sent": entry["sent"], "answers": list(entry["answers"])}
                    for key, entry in self._callbacks.items()
                },
                "images_made": [image["id"] for image in self._images],
                "images": list(self._images),
                "lookups": {"count": len(self._lookups), "at": list(self._lookups)},
            }

    def _trim(self) -> None:
        while len(self._tasks) > MAX_TASKS or (
            sum(self._sizes.values()) > MAX_TASK_BYTES and len(self._tasks) > 1
        ):
            self._drop(next(iter(self._tasks)))

    def _drop(self, task_id: str) -> None:
        task = self._tasks.pop(task_id)
        del self._sizes[task_id]
        if self._by_trace.get(task.trace_id) == task_id:
            del self._by_trace[task.trace_id]


def _put(counts: dict[K, V], key: K, value: V) -> None:
    counts[key] = value
    if len(counts) > MAX_COUNTS:
        del counts[next(iter(counts))]
