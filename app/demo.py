"""`make demo`: the whole journey on this machine, with the sandbox as the provider."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from app import config as settings
from app import db, keys, services
from app.config import INSTANCE
from app.errors import OutboundError, UnavailableError
from app.models import FINAL, Scope, TaskStatus
from app.outbound import Limits, Outbound
from app.wire import Request

FOLDER = INSTANCE / "demo"
START_SECONDS = 20.0
EDIT_SECONDS = 40.0
STOP_SECONDS = 10.0
PAUSE_SECONDS = 0.1
PROMPT = "Make the cat look like an old sepia photograph"
# On any free port, for one that is chosen before may be taken meanwhile; and the callback is to come
# on a busy machine, too.
_SANDBOX = ("sandbox", "--port", "0", "--callback-retries", "5")


def run(*, once: bool) -> bool:
    """Show it; stay up until Ctrl-C unless `once`.  True when the image is in storage."""
    # As an exception, so that the processes below end with this one.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    _empty(FOLDER)
    with ExitStack() as running:
        sandbox = running.enter_context(_started(*_SANDBOX, env=os.environ))
        sandbox_url = _url_of(sandbox)
        environment = _environment(_free_port(int(os.environ.get("PORT") or 8000)), sandbox_url)
        service = running.enter_context(_started("serve", env=environment))
        # Both end at the same time.
        running.callback(sandbox.terminate)
        client = _Client(environment["PUBLIC_URL"], _new_key(environment))
        client.wait_until_ready(service)
        click.echo(f"The service is up at {client.url}, the sandbox at {sandbox_url}.")
        task = client.edit(f"{sandbox_url}/photos/chelsea.png")
        files = sorted((FOLDER / "storage" / "images" / task["task_id"]).glob("*"))
        _report(client, task, files)
        if not once:
            _wait_for_interrupt(service)
    return task["status"] == TaskStatus.SUCCEEDED and bool(files)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UnavailableError(f"{folder} cannot be made: {error.strerror}") from None


class _Client:
    """A caller of the service."""

    def __init__(self, url: str, api_key: str) -> None:
        self.url = url
        self.api_key = api_key
        self._outbound = Outbound([ip_network("127.0.0.0/8")])

    def wait_until_ready(self, service: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while service.poll() is None and time.monotonic() < deadline:
            try:
                self._call("GET", "/readyz")
            except (OutboundError, UnavailableError):
                time.sleep(PAUSE_SECONDS)
            else:
                return
        raise UnavailableError(f"the service did not come up; its log is {FOLDER}/serve.log")

    def edit(self, image: str) -> dict[str, Any]:
        """Submit an edit and wait until it ends; gives the task."""
        submission = {"image": image, "prompt": PROMPT, "model": "gpt-image-2", "async": True}
        task_id = self._call("POST", "/v1/images/edits", submission)["task_id"]
        click.echo(f"Submitted {image}: task {task_id}.  Waiting for the callback...")
        deadline = time.monotonic() + EDIT_SECONDS
        while (task := self._call("GET", f"/v1/tasks/{task_id}"))["status"] not in FINAL:
            if time.monotonic() > deadline:
                raise UnavailableError(f"the task is still {task['status']}")
            time.sleep(PAUSE_SECONDS)
        return task

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        headers = {
            "Authorization": f"Bearer {self.api_key}",
            "Content-Type": "application/json",
        }
        content = None if body is None else json.dumps(body).encode()
        request = Request(method, self.url + path, headers, content)
        response = self._outbound.call(request, Limits())
        if response.status != 200:
            raise UnavailableError(f"{path} answered {response.status}: {response.body.decode()}")
        answer: dict[str, Any] = json.loads(response.body)
        return answer


def _url_of(sandbox: subprocess.Popen[bytes]) -> str:
    """Where it says that it is."""
    log = FOLDER / "sandbox.log"
    deadline = time.monotonic() + START_SECONDS
    while sandbox.poll() is None and time.monotonic() < deadline:
        if said := re.fullmatch(r"The sandbox is at (http://\S+)\n", log.read_text()):
            return said[1]
        time.sleep(PAUSE_SECONDS)
    raise UnavailableError(f"the sandbox did not come up; its log is {log}")


def _environment(port: int, sandbox_url: str) -> dict[str, str]:
    """The embedded defaults, in a folder of the demonstration's own: settings that a `.env` file
    makes for the real service do not count here, and its data is not touched.
    """
    own = {name.upper(): "" for name in settings.Config.model_fields}
    return {
        **os.environ,
        **own,
        "PORT": str(port),
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "SECRET_KEY": secrets.token_urlsafe(32),
        "DATABASE_URL": f"sqlite:///{FOLDER}/postback.db",
        "LOCAL_STORAGE_DIR": str(FOLDER / "storage"),
        "ACEDATA_BASE_URL": sandbox_url,
        "ACEDATA_API_KEY": "sandbox",
        "ALLOW_PRIVATE_HOSTS": urlsplit(sandbox_url).netloc,
    }


def _new_key(environment: Mapping[str, str]) -> str:
    config = settings.load(environment)
    db.migrate(config.database_url)
    parts = services.build(config)
    with parts.db.transaction() as session:
        api_key = keys.create(session, parts.signing, "demo", {Scope.ADMIN})
    parts.close()
    return api_key


@contextmanager
def _started(*command: str, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A part of the service as a process of its own, which ends with the demonstration."""
    with (FOLDER / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "app", *command], env=dict(env), stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _report(client: _Client, task: Mapping[str, Any], files: list[Path]) -> None:
    click.echo(json.dumps(task, indent=2))
    for file in files:
        click.echo(f"Stored image: {file.resolve()} ({file.stat().st_size:,} bytes)")
    click.echo(f"Status page:  {client.url}/tasks/{task['task_id']}")
    click.echo(f"Sign in with: {client.api_key}")


def _wait_for_interrupt(service: subprocess.Popen[bytes]) -> None:
    click.echo("Ctrl-C ends the demonstration.")
    try:
        service.wait()
    except KeyboardInterrupt:
        click.echo()


def _free_port(wished: int) -> int:
    """`wished`, or another one if something listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wished))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
