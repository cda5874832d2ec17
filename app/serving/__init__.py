"""Serving over HTTP with gunicorn: web processes alone, or one process that is worker as well."""

import ctypes
import gc
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from app import config as settings
from app import logs, reporting, services, web
from app.config import Config
from app.serving.threads import Threads
from app.worker import Worker

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

PROCESSES = 2
# More than there are threads: a connection that is kept open between requests needs none.
CONNECTIONS = 2000
KEEP_ALIVE_SECONDS = 15
# A web process whose loop has hung for this long is replaced; threads may take as long as they need.
TIMEOUT_SECONDS = 60
GRACE_SECONDS = 30
# glibc's parameter for how many arenas there are (malloc.h), and how many are enough.
M_ARENA_MAX = -8
ARENAS = 2
# How many new objects there may be before the collector looks at them.
YOUNG_OBJECTS = 10_000


class PropagatingLogger(Logger):
    """Gunicorn's messages, through this process's own log."""

    def setup(self, cfg: Any) -> None:
        """Leave the formatting to the root logger."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def options(config: Config) -> dict[str, Any]:
    """Gunicorn's settings.

    SQLite lets one process write at a time: there a second one would only wait for the first.
    """
    logs.configure(config)
    _limit_arenas()
    return {
        "bind": f"0.0.0.0:{config.port}",
        "workers": 1 if config.sqlite else int(os.environ.get("WEB_CONCURRENCY") or PROCESSES),
        "worker_class": Threads,
        "threads": web.THREADS,
        "worker_connections": CONNECTIONS,
        "keepalive": KEEP_ALIVE_SECONDS,
        "timeout": TIMEOUT_SECONDS,
        "graceful_timeout": GRACE_SECONDS,
        "logger_class": PropagatingLogger,
        "loglevel": config.log_level,
        "control_socket_disable": True,
    }


def production() -> "WSGIApplication":
    """The application of one web process; workers run beside it (`python -m app worker`)."""
    config = settings.from_environment()
    reporting.start(config)
    return _settled(web.application(services.build(config)))


def _settled(application: "WSGIApplication") -> "WSGIApplication":
    """`application`, which lives as long as the process: the garbage collector needn't look at it.

    With Python's own thresholds the collector took a seventh of the time in which callbacks came in.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    return application


def _limit_arenas() -> None:
    """Keep large bodies from leaving their buffers in every thread's own part of the heap.

    With 8 arenas for each core, as glibc has them, a process grew to 360 MB over 24 bodies of 40 MB
    in different threads, on 2 cores; with two arenas it stays at 135 MB.
    """
    # Other C libraries have neither arenas nor this function.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


class Embedded(BaseApplication):
    """One process that serves and works, for SQLite and local files."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._worker: Worker | None = None
        self._working: threading.Thread | None = None
        super().__init__()

    def load_config(self) -> None:
        """Listen on this machine only, and stop the worker with the process."""
        embedded = {"bind": f"127.0.0.1:{self._config.port}", "workers": 1}
        for name, value in {**options(self._config), **embedded}.items():
            self.cfg.set(name, value)
        self.cfg.set("worker_exit", lambda _server, _worker: self._stop())

    def load(self) -> Any:
        """Start working, and give the WSGI application."""
        reporting.start(self._config)
        parts = services.build(self._config)
        self._worker = Worker(parts)
        self._working = threading.Thread(target=self._worker.run, name="worker", daemon=True)
        self._working.start()
        return _settled(web.application(parts))

    def _stop(self) -> None:
        if self._worker and self._working:
            self._worker.stop()
            self._working.join()
