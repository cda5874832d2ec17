"""`python -m app ...` as a person or a host runs it: in a folder of its own, with settings of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import urllib3

from tests.servers.processes import Process, end, start, wait_until

ROOT = Path(__file__).parents[2]
PYTHON = (sys.executable, "-m", "app")

# Longer than anything takes here, on a machine that is busy.
PATIENCE = 60.0
_INHERITED = ("HOME", "LANG", "TMPDIR")


class Running:
    """A program that runs; all it says is in `log`."""

    def __init__(self, process: Process, folder: Path) -> None:
        self.process = process
        self._folder = folder

    @property
    def log(self) -> str:
        """What it has said so far, on both of its outputs."""
        return (self._folder / "log").read_text()

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Wait until it has happened; an error with the log when the program ends before."""
        wait_until(happened, self.process, folder=self._folder, seconds=PATIENCE)

    def family(self) -> list[psutil.Process]:
        """The process and all that it has started."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send this signal to it alone; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """`settings`, and of this machine only what every program needs."""
    return {
        **{name: os.environ[name] for name in _INHERITED if name in os.environ},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        **settings,
    }


def run(
    folder: Path, settings: Mapping[str, str], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m app` with `arguments` in `folder` to its end."""
    return run_program(folder, settings, *PYTHON, *arguments)


def run_program(
    folder: Path, settings: Mapping[str, str], *command: str
) -> "subprocess.CompletedProcess[str]":
    """Run any program in `folder` to its end."""
    return subprocess.run(  # noqa: S603 - our own program
        command,
        cwd=folder,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@contextmanager
def running(
    folder: Path, settings: Mapping[str, str], *command: str, cwd: Path | None = None
) -> Iterator[Running]:
    """`command` in `folder` (or `cwd`), in a process group of its own that ends with the block."""
    folder.mkdir(exist_ok=True)
    process = start(command, folder=folder, cwd=cwd, environ=environment(settings))
    try:
        yield Running(process, folder)
    finally:
        end([process])
        _end_group(process.pid)


def ask(port: int, path: str, **headers: str) -> tuple[int, Any]:
    """What is answered there; status 0 when nobody listens."""
    # A connection that is kept open would be waited for when the server ends.
    headers["Connection"] = "close"
    url = f"http://127.0.0.1:{port}{path}"
    try:
        response = urllib3.request("GET", url, headers=headers, retries=False)
    except urllib3.exceptions.HTTPError:
        return 0, None
    return response.status, json.loads(response.data)


def gone(processes: list[psutil.Process], *, seconds: float = 10) -> bool:
    """Whether all of them end within `seconds`."""
    deadline = time.monotonic() + seconds
    while any(map(_runs, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end_group(group: int) -> None:
    # Its leader has ended and was waited for, but a child that it has left behind keeps the number.
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
