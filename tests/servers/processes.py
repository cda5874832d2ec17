"""Processes of real servers: with a log, on reserved ports, awaited, and ended by their group."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

Process = subprocess.Popen[bytes]

_SETPRIV = shutil.which("setpriv")
_END_SECONDS = 15.0
_POLL_SECONDS = 0.02


class ServerError(Exception):
    """A test server did not start; the message has the end of its log."""


class ReservedPort:
    """A port of 127.0.0.1 that stays ours while no server listens on it.

    The socket is bound but doesn't listen: connections are refused, nobody else is given the port,
    and a server of the same user that sets `SO_REUSEPORT`, as eventlet does, may come and go on it.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def release(self) -> None:
        """Give the port back."""
        self._socket.close()


def start(
    command: Sequence[str],
    *,
    folder: Path,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    account: pwd.struct_passwd | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
) -> Process:
    """Run `command` in a process group of its own, in `folder`, its output appended to `log` there.

    `cwd` is where it runs, when not there; `environ` is all of its environment, when not ours.
    `account` is who it runs as, when not we.  Call it from the main thread: where `setpriv` is,
    the kernel sends `death_signal` when that thread ends, so a killed session leaves no server.
    """
    leash = [_SETPRIV, "--pdeathsig", death_signal.name.removeprefix("SIG")] if _SETPRIV else []
    with (folder / "log").open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - the tests' own command
            [*leash, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd or folder,
            env=environ,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            start_new_session=True,
        )


def wait_until(
    ready: Callable[[], bool], process: Process, *, folder: Path, seconds: float = 60
) -> None:
    """Poll `ready` until it is true; `ServerError` when the process ends or time is over."""
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            log = (folder / "log").read_text(errors="replace")
            raise ServerError(
                f"{process.args!r} is not up, status {process.poll()}:\n{log[-5000:]}"
            )
        time.sleep(_POLL_SECONDS)


def tell(process: Process, message: signal.Signals) -> None:
    """Send a signal to the process and its children; nothing happens when it has ended."""
    # While it isn't waited for, its number can't belong to anybody else.
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, message)


def end(processes: Iterable[Process], message: signal.Signals = signal.SIGTERM) -> None:
    """Ask all of them to end, and make those that have not within 15 seconds."""
    processes = list(processes)
    for process in processes:
        tell(process, message)
    for process in processes:
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            tell(process, signal.SIGKILL)
            process.wait()
