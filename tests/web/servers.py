"""Web processes as they run in production, and connections to them of which a test sees every byte."""

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from app import keys
from app.config import Config
from app.models import Scope, Task
from app.services import Services
from tests import factories
from tests.factories import SECRET_KEY, make_config
from tests.servers import service
from tests.servers.service import Part

INHERITED = ("HOME", "LANG", "PATH", "TMPDIR")
# Longer than anything takes here.
PATIENCE = 60.0


@dataclass(frozen=True)
class Server:
    """Web processes at `port`; `parts` look at the same database behind their back."""

    part: Part
    port: int
    parts: Services
    api_key: str

    @property
    def log(self) -> str:
        """All that the processes have said."""
        return self.part.log.decode()

    def workers(self) -> list[psutil.Process]:
        """The processes that answer."""
        return self.part.process.children()

    def token(self, task: Task) -> str:
        """The token of the task's callback URL."""
        return self.parts.signing.callback_token(task.provider, task.id)

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> "Answer":
        """A call over a connection of its own; header names are written with underscores."""
        with Line(self.port) as line:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            length = {} if body is None else {"Content-Length": str(len(body))}
            line.send(head(method, path, **{**length, **named}), body or b"")
            return line.answer(method)

    def get(self, path: str) -> "Answer":
        """Look something up with the server's own key."""
        return self.call("GET", path, Authorization=f"Bearer {self.api_key}")

    def post_back(self, task: Task, body: bytes | Mapping[str, Any], **headers: str) -> "Answer":
        """Post a callback as the provider does."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.call("POST", f"/callbacks/{self.token(task)}", data, **headers)

    def callbacks(self, task: Task) -> list[dict[str, Any]]:
        """What came in for `task`."""
        items: list[dict[str, Any]] = self.get(f"/v1/callbacks?task_id={task.id}").json["items"]
        return items


@dataclass(frozen=True)
class Answer:
    """What came over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)


class Line:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        """Send all of it."""
        for piece in pieces:
            self.socket.sendall(piece)

    def answer(self, method: str = "POST", *, seconds: float = PATIENCE) -> Answer:
        """The next answer on this connection, which must come within `seconds`."""
        self.socket.settimeout(seconds)
        response = http.client.HTTPResponse(self.socket, method=method)
        response.begin()
        return Answer(response.status, dict(response.getheaders()), response.read())

    def ended(self, *, seconds: float = PATIENCE) -> bool:
        """Whether the server ends the connection within `seconds` without another word."""
        self.socket.settimeout(seconds)
        return self.socket.recv(1) == b""


def head(method: str, path: str, /, **headers: str) -> bytes:
    """The first lines of a request; header names are written with underscores."""
    named = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "Host: postback.test", *named, "", ""]
    ).encode()


def chunked(*pieces: bytes) -> bytes:
    """Pieces of a body as `Transfer-Encoding: chunked` writes them, without the end."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def environment(database_url: str, folder: Path) -> dict[str, str]:
    """The environment of a program of ours, whatever this machine or a `.env` file has set."""
    return {
        **{name: os.environ[name] for name in INHERITED if name in os.environ},
        # What is there but empty is taken from no file, and counts as not set.
        **{name.upper(): "" for name in Config.model_fields},
        "PYTHONWARNINGS": "error",
        "SECRET_KEY": SECRET_KEY,
        "DATABASE_URL": database_url,
        "LOCAL_STORAGE_DIR": str(folder / "storage"),
        "LOG_FORMAT": "json",
    }


@contextmanager
def web_server(database_url: str, folder: Path, **settings: str) -> Iterator[Server]:
    """Web processes on tables that are there."""
    folder.mkdir(exist_ok=True)
    with service.free_port() as port, factories.running(make_config(database_url, folder)) as parts:
        with parts.db.transaction() as session:
            api_key = keys.create(session, parts.signing, f"server {port}", {Scope.ADMIN})
        own = {"PORT": str(port), "PUBLIC_URL": f"http://127.0.0.1:{port}"}
        environ = {**environment(database_url, folder), **own, **settings}
        with service.running(service.web(environ, folder / "web")) as part:
            yield Server(part, port, parts, api_key)
