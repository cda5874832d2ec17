"""Unexpected errors, told to Sentry: what is logged with a traceback, and nothing of what was worked on.

A report has the error's type, the lines of code that it came through and which request or job it was,
so that the log has the rest.  It has no variables, no bodies, no headers, no paths, and of a message
only its first line without what is quoted there: that may be somebody's prompt.
"""

import atexit
import importlib
import logging
import re
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, cast

from app.config import Config

# What a report may say beside the error; all of it is ours.
TAGS = ("action", "request_id", "kind", "task_id", "job")
MESSAGE_LENGTH = 200
FLUSH_SECONDS = 2
# An error that comes again and again from the same place is told this often.
AGAIN_SECONDS = 60.0
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
# Tokens, keys, ids, base64, addresses: whatever is long and has a digit.
_LONG = re.compile(r"(?=[\w.+/:=-]*\d)[\w.+/:=-]{16,}")


def start(config: Config) -> None:
    """Report from now on, if there is somewhere to report to; call it after `logs.configure`."""
    if config.sentry_dsn is None:
        return
    # Only now: whoever does not want it pays nothing for it, and need not have it.
    sdk: Any = importlib.import_module("sentry_sdk")
    client = sdk.Client(
        config.sentry_dsn,
        # None of what it would find out by itself.
        default_integrations=False,
        auto_enabling_integrations=False,
        auto_session_tracking=False,
        send_client_reports=False,
        send_default_pii=False,
        include_local_variables=False,
        max_breadcrumbs=0,
        propagate_traces=False,
        before_send=_scrubbed,
    )
    logging.getLogger().addHandler(_Reporter(client, sdk.utils.event_from_exception))
    atexit.register(client.close, timeout=FLUSH_SECONDS)


class _Reporter(logging.Handler):
    """Sees every line of the log, those of libraries too."""

    def __init__(self, client: Any, event_from_exception: Any) -> None:
        super().__init__()
        self._client = client
        self._event_from_exception = event_from_exception
        # When each kind of error was reported last; the handler's lock, held in `emit`, guards it.
        self._reported: dict[tuple[object, ...], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Report the line if it comes with an error."""
        # structlog's lines are a mapping until they are rendered.
        line: Mapping[str, Any] = record.msg if isinstance(record.msg, Mapping) else {}
        error = _error_in(line.get("exc_info") or record.exc_info)
        if error is None or record.name.startswith("sentry_sdk") or not self._is_news(error):
            return
        try:
            event, hint = self._event_from_exception(error, client_options=self._client.options)
            event["tags"] = {name: str(line[name]) for name in TAGS if line.get(name) is not None}
            self._client.capture_event(event, hint=hint)
        except Exception:
            self.handleError(record)

    def _is_news(self, error: BaseException) -> bool:
        # By the lines of ours that it came through: all errors of the database begin at one of theirs.
        ours = [
            (frame.f_code, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__", "").startswith("app.")
        ]
        kind = (type(error), *ours)
        now = time.monotonic()
        if now - self._reported.get(kind, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return False
        self._reported[kind] = now
        return True


def _error_in(exc_info: object) -> BaseException | None:
    if exc_info is True:
        return sys.exc_info()[1]
    if isinstance(exc_info, tuple):
        return cast(BaseException | None, exc_info[1])
    return exc_info if isinstance(exc_info, BaseException) else None


def _scrubbed(event: dict[str, Any], _hint: object) -> dict[str, Any]:
    for error in event["exception"]["values"]:
        first_line = str(error.get("value") or "").split("\n", 1)[0]
        error["value"] = _LONG.sub("[...]", _QUOTED.sub("'...'", first_line))[:MESSAGE_LENGTH]
    for name in ("request", "user", "extra", "breadcrumbs", "logentry", "message"):
        event.pop(name, None)
    return event
