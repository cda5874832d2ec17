"""Wake-ups: within a process, and from other processes over PostgreSQL's LISTEN and NOTIFY."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
import structlog

log = structlog.get_logger()

LISTEN_CHECK_SECONDS = 1
RECONNECT_SECONDS = 0.5

Listener = Callable[[str], None]


class Signals:
    """Wake-ups within this process.  An empty payload means that anything may have happened."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = defaultdict(list)

    def connect(self, channel: str, listener: Listener) -> None:
        """Call `listener` with the payload of every wake-up on `channel`; it must not block."""
        self._listeners[channel].append(listener)

    def send(self, channel: str, payload: str = "") -> None:
        """Wake whoever listens on `channel`."""
        for listener in self._listeners[channel]:
            listener(payload)

    def channels(self) -> list[str]:
        """The channels that somebody listens on."""
        return list(self._listeners)


class Listening(threading.Thread):
    """One connection that turns NOTIFY into signals; reconnects, and then wakes everybody."""

    def __init__(self, connect_args: Mapping[str, Any], signals: Signals) -> None:
        super().__init__(name="listen", daemon=True)
        self._connect_args = connect_args
        self._signals = signals
        self._stopped = threading.Event()

    def run(self) -> None:
        """Listen until stopped, over as many connections as it takes."""
        while not self._stopped.is_set():
            try:
                self._listen()
            except Exception as error:
                # Whatever it was, who waits for a wake-up must not wait for ever.
                known = isinstance(error, psycopg.Error)
                log.warning(
                    "listening was cut off",
                    action="listen",
                    error=str(error),
                    exc_info=None if known else error,
                )
                self._stopped.wait(RECONNECT_SECONDS)

    def stop(self) -> None:
        """Stop at the next check."""
        self._stopped.set()
        self.join(LISTEN_CHECK_SECONDS)

    def _listen(self) -> None:
        with psycopg.connect(**self._connect_args, autocommit=True) as connection:
            listening: set[str] = set()
            while not self._stopped.is_set():
                # Whoever connects to a channel may do so after this thread has started.
                for channel in set(self._signals.channels()) - listening:
                    connection.execute(f'LISTEN "{channel}"')
                    self._signals.send(channel)
                    listening.add(channel)
                for notification in connection.notifies(timeout=LISTEN_CHECK_SECONDS):
                    self._signals.send(notification.channel, notification.payload)
                connection.execute("SELECT 1")
