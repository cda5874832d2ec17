"""Programs that tests run in a process of their own, on the storage of its environment."""

import io
import json
import os
import re
import resource
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from app.errors import StorageError
from app.storage import Storage
from tests.storage.targets import build

_MIB = 2**20


def put(storage: Storage, key: str) -> None:
    """Store standard input under `key`."""
    storage.put(key, sys.stdin.buffer, "image/png")


def grow(storage: Storage, megabytes: str) -> None:
    """Print by how many bytes memory grows while a file is stored, and while it is read back."""
    storage.put("warm", io.BytesIO(b"up"), "image/png")
    with storage.open("warm") as warm:
        warm.read()
    with tempfile.TemporaryFile() as file:
        for _ in range(int(megabytes)):
            file.write(os.urandom(_MIB))
        file.seek(0)
        stored = _growth(lambda: storage.put("large", file, "image/png"))
    print(json.dumps({"stored": stored, "read": _growth(lambda: _read(storage, "large"))}))  # noqa: T201


def fill(storage: Storage, folder: str, how: str) -> None:
    """Let the disk run full under local storage in `folder`, a file system of 1 MiB.

    With `how` "limit" it is an ordinary one, and the largest file that we may write is so small.
    """
    # Not at the end of what the driver writes at once: so that a write is cut short.
    limit = _MIB - 4096
    if how == "limit":
        _limit(limit)
    storage.put("task/small", io.BytesIO(b"small"), "image/png")
    for size in (_MIB, 4 * _MIB):
        large = io.BytesIO(bytes(size))
        _must_fail(partial(storage.put, "task/large", large, "image/png"))
    assert _files(folder) == {"task/small"}
    storage.check()

    filler = Path(folder, "filler")
    _limit(0) if how == "limit" else _fill(filler)
    _must_fail(storage.check)
    _must_fail(lambda: storage.put("task/small", io.BytesIO(b"other"), "image/png"))
    _limit(limit) if how == "limit" else filler.unlink()
    with storage.open("task/small") as file:
        assert file.read() == b"small"
    storage.check()


def _files(folder: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def _must_fail(act: Callable[[], None]) -> None:
    try:
        act()
    except StorageError as error:
        print(error)  # noqa: T201
    else:
        raise AssertionError("there was room enough")


def _limit(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def _read(storage: Storage, key: str) -> None:
    with storage.open(key) as file:
        while file.read(64 * 2**10):
            pass


def _growth(act: Callable[[], None]) -> int:
    # Sets the peak back to what is in use now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    act()
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) * 1024


if __name__ == "__main__":
    programs: dict[str, Callable[..., None]] = {"put": put, "grow": grow, "fill": fill}
    programs[sys.argv[1]](build(os.environ), *sys.argv[2:])
