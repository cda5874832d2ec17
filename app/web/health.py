"""`/healthz`: the process lives; `/readyz`: it can work, each part by its name."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

import structlog
from flask import Blueprint, current_app, jsonify
from flask.typing import ResponseReturnValue

from app import reports
from app.config import Config
from app.db import is_outage
from app.errors import UnavailableError
from app.services import Services
from app.web.auth import public

log = structlog.get_logger()

bp = Blueprint("health", __name__)

CHECK_SECONDS = 6.0
# How old what is known of a part may be before it is looked anew.
LATELY_SECONDS = 10.0
SILENT_LEASES = 2


@bp.get("/healthz")
@public
def healthz() -> ResponseReturnValue:
    """The process answers."""
    return jsonify({"status": "ok"})


@bp.get("/readyz")
@public
def readyz() -> ResponseReturnValue:
    """Database, storage and worker heartbeat; 503 when one fails, within 10 s whatever hangs."""
    problems: Mapping[str, str | None] = current_app.extensions["checks"].run()
    ready = not any(problems.values())
    parts = {name: problem or "ok" for name, problem in problems.items()}
    return jsonify({"status": "ok" if ready else "failing", **parts}), 200 if ready else 503


class Checks:
    """Runs each check in a thread; one that hangs is not started again until it has ended."""

    def __init__(self, checks: Mapping[str, Callable[[], None]], seconds: float) -> None:
        self._checks = checks
        self._seconds = seconds
        self._lock = threading.Lock()
        self._running: dict[str, Future[None]] = {}
        self._begun: dict[str, float] = {}
        self._said: dict[str, str | None] = {}

    def lately(self, name: str) -> str | None:
        """What was wrong when it was last looked, or None.  It is looked anew if that is long ago.

        Nobody waits for that: the next who asks is told.
        """
        now = time.monotonic()
        if now - self._begun.get(name, -math.inf) > LATELY_SECONDS:
            self._start(name)
        hangs = now - self._begun[name] > self._seconds and not self._running[name].done()
        return self._late if hangs else self._said.get(name)

    def run(self) -> dict[str, str | None]:
        """For each check what is wrong, or None; all of them share the same seconds."""
        deadline = time.monotonic() + self._seconds
        futures = {name: self._start(name) for name in self._checks}
        return {name: self._problem(future, deadline) for name, future in futures.items()}

    def _start(self, name: str) -> Future[None]:
        with self._lock:
            if (running := self._running.get(name)) and not running.done():
                return running
            future: Future[None] = Future()
            self._running[name] = future
            self._begun[name] = time.monotonic()
        try:
            threading.Thread(target=self._run, args=(name, future), daemon=True).start()
        except RuntimeError as error:
            # The system has no thread left.
            self._fail(name, future, error)
        return future

    def _run(self, name: str, future: Future[None]) -> None:
        try:
            self._checks[name]()
        except Exception as error:
            self._fail(name, future, error)
        else:
            self._said[name] = None
            future.set_result(None)

    def _fail(self, name: str, future: Future[None], error: Exception) -> None:
        self._said[name] = _words(error)
        future.set_exception(error)

    def _problem(self, future: Future[None], deadline: float) -> str | None:
        try:
            future.result(max(0.0, deadline - time.monotonic()))
        except FutureTimeoutError:
            return self._late
        except Exception as error:
            log.warning("check failed", action="check", error=str(error))
            return _words(error)
        return None

    @property
    def _late(self) -> str:
        return f"no answer within {self._seconds:.0f} s"


def _words(error: Exception) -> str:
    # Anybody may read the answer: not where the database is, nor who asks it what.
    if is_outage(error):
        return "away"
    return str(error).partition("\n")[0][:200] or type(error).__name__


def silent_seconds(config: Config) -> float:
    """How long a worker may be silent before it counts as gone."""
    return SILENT_LEASES * max(config.lease_seconds, 5.0)


def checks(services: Services) -> Checks:
    """The checks of `/readyz`."""

    def worker() -> None:
        with services.db.reading() as session:
            seconds = silent_seconds(services.config)
            if not reports.worker_seen(session, seconds):
                raise UnavailableError(f"no worker was seen for {seconds:.0f} s")

    return Checks(
        {"database": services.db.check, "storage": services.storage.check, "worker": worker},
        CHECK_SECONDS,
    )
