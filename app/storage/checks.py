"""A check that is over in time, whatever hangs."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from app.errors import StorageError


class BoundedCheck:
    """Runs `probe` in a thread of its own and waits for at most `seconds`.

    A name server or a network file system can hang a call in ways that no time-out of ours reaches.
    Callers at the same time share one probe: one that hangs costs one thread, however often we ask.
    """

    def __init__(self, probe: Callable[[], None], *, seconds: float) -> None:
        self._probe = probe
        self._seconds = seconds
        self._lock = threading.Lock()
        self._outcome: Future[None] | None = None

    def __call__(self) -> None:
        """Raises what the probe raises, and `StorageError` when it is not over in time."""
        try:
            self._under_way().result(self._seconds)
        except TimeoutError:
            raise StorageError(f"storage did not answer within {self._seconds:g} s") from None

    def _under_way(self) -> Future[None]:
        with self._lock:
            if self._outcome is None or self._outcome.done():
                outcome: Future[None] = Future()
                # A daemon, so that a probe that hangs does not keep the process from ending.
                threading.Thread(target=self._run, args=(outcome,), daemon=True).start()
                # Only now: the system may have had no thread left.
                self._outcome = outcome
            return self._outcome

    def _run(self, outcome: Future[None]) -> None:
        try:
            self._probe()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)
