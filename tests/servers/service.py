"""The service's own processes, started as the Procfile starts them, to be stopped and killed at will."""

import json
import os
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
import urllib3
from urllib3.exceptions import HTTPError

from app.config import Config
from tests.servers import subscriber
from tests.servers.processes import Process, ReservedPort, start, tell, wait_until

ROOT = Path(__file__).parents[2]
SECRET_KEY = "a secret key that only the tests know"
# More than a host leaves a process to end by itself, and than a worker takes for it.
GRACE_SECONDS = 40.0

_INHERITED = ("HOME", "LANG", "PATH", "TMPDIR")
_PYTHON = (sys.executable, "-m", "app")
_GUNICORN = (f"{sysconfig.get_path('scripts')}/gunicorn",)
_WORKER_STARTED = b"worker started"

Environ = Mapping[str, str]
P = TypeVar("P", bound="Part")


class Part:
    """One part of the service; it may end and be started again, and its log goes on."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Environ,
        folder: Path,
        ready: Callable[["Part"], bool],
    ) -> None:
        self.name = folder.name
        self._command = command
        self._environ = environ
        self._folder = folder
        self._ready = ready
        self._process: Process | None = None
        self._orphans: list[psutil.Process] = []
        self._log_start = 0
        folder.mkdir(parents=True)

    @property
    def process(self) -> psutil.Process:
        """What runs now."""
        return psutil.Process(self._running().pid)

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> bytes:
        """What it has written since it was started last."""
        with (self._folder / "log").open("rb") as file:
            file.seek(self._log_start)
            return file.read()

    def logged(self) -> list[dict[str, Any]]:
        """Its log since it was started last, as far as its lines are complete."""
        return [
            json.loads(line) for line in self.log.splitlines(keepends=True) if line[-1:] == b"\n"
        ]

    def start(self) -> None:
        """Start it, and wait until it is ready.  Raises `ServerError`."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        assert not self.running, f"{self.name} runs already"
        with suppress(FileNotFoundError):
            self._log_start = (self._folder / "log").stat().st_size
        self._process = start(self._command, folder=self._folder, cwd=ROOT, environ=self._environ)

    def wait(self) -> None:
        """Wait until it is ready.  Raises `ServerError`."""
        wait_until(lambda: self._ready(self), self._running(), folder=self._folder)

    def stop(self) -> int:
        """Ask it to end, as a host does, and wait; its exit status."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        return process.wait(GRACE_SECONDS)

    def kill(self) -> None:
        """End it and its children without warning, as when their machine is gone."""
        process = self._running()
        tell(process, signal.SIGKILL)
        process.wait()

    def kill_alone(self) -> None:
        """End it without warning, but not its children, as when memory runs out."""
        process = self._running()
        self._orphans += self.process.children(recursive=True)
        process.kill()
        process.wait()

    def pause(self) -> None:
        """Stop it and its children where they are."""
        tell(self._running(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        tell(self._running(), signal.SIGCONT)

    def peers(self) -> set[int]:
        """The ports that it is connected to now."""
        return {
            connection.raddr.port
            for connection in self.process.net_connections("tcp")
            if connection.status == psutil.CONN_ESTABLISHED
        }

    def end(self) -> None:
        """Whatever is left of it ends now."""
        if self.running:
            self.kill()
        for orphan in self._orphans:
            with suppress(psutil.NoSuchProcess):
                orphan.kill()

    def _running(self) -> Process:
        assert self._process is not None, f"{self.name} was not started"
        return self._process


class Sandbox(Part):
    """The pretend provider."""

    def __init__(self, options: Sequence[str], folder: Path) -> None:
        self._port = ReservedPort()
        self.port = self._port.number
        self.url = f"http://127.0.0.1:{self.port}"
        self.photo = f"{self.url}/photos/chelsea.png"
        command = [*_PYTHON, "sandbox", "--port", str(self.port), *options]
        super().__init__(
            command, _machine(), folder, lambda _: _answers(self.url, "/sandbox/state")
        )

    def end(self) -> None:
        super().end()
        self._port.release()

    def state(self) -> Any:
        """What happened there."""
        return urllib3.request("GET", f"{self.url}/sandbox/state", retries=False).json()

    def submissions(self, task_id: str) -> int:
        """How often a task of ours was accepted there, and paid for."""
        return int(self.state()["submissions"].get(task_id, 0))


def environment(port: int, database_url: str, sandbox: Sandbox, **settings: str) -> dict[str, str]:
    """All of the environment of a part: nothing else of this machine counts, nor a file `.env`."""
    return {
        **_machine(),
        # What is there but empty is taken from no file, and counts as not set.
        **{name.upper(): "" for name in Config.model_fields},
        # A warning ends what it warns of, as in the tests themselves.
        "PYTHONWARNINGS": "error",
        "WEB_CONCURRENCY": "2",
        "PORT": str(port),
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "SECRET_KEY": SECRET_KEY,
        "DATABASE_URL": database_url,
        "ACEDATA_BASE_URL": sandbox.url,
        "ACEDATA_API_KEY": "sandbox",
        "AGCLOUD_BASE_URL": sandbox.url,
        "AGCLOUD_API_KEY": "sandbox",
        "ALLOW_PRIVATE_HOSTS": f"127.0.0.1:{sandbox.port},{subscriber.ADDRESS}/32",
        "LOG_FORMAT": "json",
        **settings,
    }


def web(environ: Environ, folder: Path) -> Part:
    """The web processes."""
    url = f"http://127.0.0.1:{environ['PORT']}"
    return Part(_GUNICORN, environ, folder, lambda _: _answers(url, "/healthz"))


def worker(environ: Environ, folder: Path) -> Part:
    """One worker."""
    return Part([*_PYTHON, "worker"], environ, folder, _works)


def embedded(environ: Environ, folder: Path) -> Part:
    """Web and worker in one process."""
    url = environ["PUBLIC_URL"]
    command = [*_PYTHON, "serve"]
    return Part(command, environ, folder, lambda part: _works(part) and _answers(url, "/healthz"))


def start_all(parts: Iterable[Part]) -> None:
    """Start them side by side, and wait until all are ready.  Raises `ServerError`."""
    for part in parts:
        part.launch()
    for part in parts:
        part.wait()


@contextmanager
def all_running(parts: Sequence[Part]) -> Iterator[Sequence[Part]]:
    """The parts, started side by side; nothing is left of them afterwards."""
    try:
        start_all(parts)
        yield parts
    finally:
        for part in parts:
            part.end()


@contextmanager
def running(part: P) -> Iterator[P]:
    """The part, started; whatever the test has made of it, nothing is left of it afterwards."""
    try:
        part.start()
        yield part
    finally:
        part.end()


@contextmanager
def free_port() -> Iterator[int]:
    """A port that nobody else is given inside the block."""
    port = ReservedPort()
    try:
        yield port.number
    finally:
        port.release()


def _machine() -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, "PYTHONUNBUFFERED": "1"}


def _works(part: Part) -> bool:
    return _WORKER_STARTED in part.log


def _answers(url: str, path: str) -> bool:
    try:
        return urllib3.request("GET", url + path, retries=False, timeout=5).status == 200
    except HTTPError:
        return False
