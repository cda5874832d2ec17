"""Unexpected errors reach Sentry, from real processes, and nothing of anybody's goes with them."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import text

from tests.core.sites import Answer, Asked, Site, running_site
from tests.factories import PUBLIC_URL, eventually
from tests.servers import service
from tests.web.servers import environment, web_server

ENVELOPES = "/api/7/envelope/"
SOMEBODYS = "q=somebodys-prompt&trace_id=somebodys-trace"


def reports(sentry: Site) -> list[dict[str, Any]]:
    """The events that have arrived."""
    return [json.loads(unpacked(asked).splitlines()[2]) for asked in sentry.asked(ENVELOPES)]


def unpacked(asked: Asked) -> bytes:
    packed = asked.headers["Content-Encoding"] == "gzip"
    return gzip.decompress(asked.body) if packed else asked.body


def test_what_goes_wrong_in_web_and_worker_is_reported_without_what_it_was_about(
    postgres_url: str, tmp_path: Path
) -> None:
    with running_site() as sentry:
        sentry.replies[ENVELOPES] = Answer(200, b"{}")
        dsn = sentry.url.replace("http://", "http://key@") + "/7"
        settings = {
            "SENTRY_DSN": dsn,
            "WEB_CONCURRENCY": "1",
            # The package imports eventlet, which warns of itself; the S3 server of the tests brought it.
            "PYTHONWARNINGS": "",
        }
        with web_server(postgres_url, tmp_path, **settings) as server:
            with server.parts.db.transaction() as session:
                session.execute(text("ALTER TABLE tasks RENAME TO lost"))
                session.execute(text("ALTER TABLE jobs RENAME TO lost_too"))
            # The same again is no news.
            answer, again = (server.get(f"/v1/tasks?{SOMEBODYS}") for _ in range(2))
            assert answer.status == again.status == 500
            eventually(lambda: len(reports(sentry)) == 1)
            environ = environment(postgres_url, tmp_path) | {"PUBLIC_URL": PUBLIC_URL} | settings
            worker = service.worker(environ, tmp_path / "worker")
            with service.running(worker):
                eventually(lambda: len(reports(sentry)) > 1)
        from_web, from_worker, *_ = reports(sentry)
        web_only = [report for report in reports(sentry) if "request_id" in report["tags"]]
        assert len(web_only) == 1
        everything = b"".join(map(unpacked, sentry.asked(ENVELOPES)))

    assert from_web["tags"] == {
        "action": "request",
        "request_id": answer.headers["X-Request-Id"],
    }
    assert from_worker["tags"]["action"] in {"claim", "beat"}
    error = from_web["exception"]["values"][-1]
    assert error["type"] == "ProgrammingError"
    assert error["value"] == "(psycopg.errors.UndefinedTable) relation '...' does not exist"
    assert "list_tasks" in {frame["function"] for frame in error["stacktrace"]["frames"]}
    for secret in (server.api_key, "somebodys", "Bearer", "SELECT", '"vars"'):
        assert secret.encode() not in everything


def test_without_the_package_a_process_says_so_and_does_not_start(tmp_path: Path) -> None:
    environ = environment(f"sqlite:///{tmp_path}/x.db", tmp_path)
    environ |= {"PUBLIC_URL": PUBLIC_URL, "SENTRY_DSN": "https://key@sentry.example.com/7"}
    program = "import sys; sys.modules['sentry_sdk'] = None; from app.__main__ import run; run()"
    ended = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program, "worker"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "Wrong settings:",
        "  SENTRY_DSN: the package sentry-sdk is not installed: pip install sentry-sdk",
    ]
