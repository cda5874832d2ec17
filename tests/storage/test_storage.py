"""What every driver does: the same tests on a real folder and on a real S3 server."""

import hashlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product

import pytest
import urllib3

from app.errors import MissingObjectError
from tests.factories import eventually
from tests.storage.targets import MIB, ROOT, Target, put, read

ODD_KEYS = [
    "task/ü ö.png",
    "日本/画像 100%.png",
    "a+b&c=d?e#f;g,h.png",
    "quote'\"<>&amp;.png",
    "back\\slash",
    "a../b..c/d..",
    "~tilde/*",
    "x" * 255,
]
BAD_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    "..",
    "../a",
    "..a/b",
    "a/../b",
    "a/..",
    "./a",
    ".partial/a",
    "a\nb",
    "a\x00b",
    "a\x7fb",
    "a\x85b",
    "a\ud800b",
    "x" * 256,
    "é" * 128,
    "a/" * 512 + "a",
]


class BrokenFile(io.BytesIO):
    """Has a good beginning, then can't be read."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size) or self._fail()

    def _fail(self) -> bytes:
        raise OSError("the connection to the source broke")


def test_what_was_stored_last_is_read_back(target: Target) -> None:
    for data in (b"\x89PNG\r\n\x1a\n", b"shorter", b"shorter", b""):
        put(target.storage, "task/0.png", data)
        assert read(target.storage, "task/0.png") == data
    assert target.names() == {"task/0.png"}


def test_a_large_file_is_read_back_in_pieces_and_deleted_whole(target: Target) -> None:
    # Around the size from which S3 gets a file in parts, and well above it.
    for size in (8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 20 * MIB):
        data = os.urandom(size)
        put(target.storage, "large", data)
        digest = hashlib.sha256()
        with target.storage.open("large") as file:
            while piece := file.read(100_000):
                digest.update(piece)
        assert digest.digest() == hashlib.sha256(data).digest()
        assert target.unfinished() == []
    target.storage.delete(["large"])
    assert target.names() == set()
    with pytest.raises(MissingObjectError):
        target.storage.open("large")


def test_a_file_is_stored_from_where_it_stands_and_left_open(target: Target) -> None:
    file = io.BytesIO(b"head and tail")
    file.seek(len("head and "))
    target.storage.put("tail", file, "text/plain")
    assert read(target.storage, "tail") == b"tail"
    assert not file.closed


def test_odd_keys_are_kept_apart_and_found_again(target: Target) -> None:
    for key in ODD_KEYS:
        put(target.storage, key, key.encode())
    assert target.names() == set(ODD_KEYS)
    for number, key in enumerate(ODD_KEYS, 1):
        assert read(target.storage, key) == key.encode()
        if address := target.storage.address(key):
            assert urllib3.request("GET", address).data == key.encode()
        target.storage.delete([key])
        assert target.names() == set(ODD_KEYS[number:])


def test_a_key_that_could_lead_elsewhere_is_refused(target: Target) -> None:
    acts: list[Callable[[str], object]] = [
        lambda key: put(target.storage, key),
        target.storage.open,
        lambda key: target.storage.delete(["good", key]),
        target.storage.address,
    ]
    put(target.storage, "good")
    for key, act in product(BAD_KEYS, acts):
        with pytest.raises(ValueError, match="a key"):
            act(key)
    assert target.names() == {"good"}


def test_a_missing_object_has_an_error_of_its_own(target: Target) -> None:
    put(target.storage, "task/0.png")
    # The second is where the first one's folder would be, the third is that folder.
    for key in ("nothing", "task/0.png/deeper", "task"):
        with pytest.raises(MissingObjectError, match=key):
            target.storage.open(key)


def test_delete_takes_what_is_named_and_does_not_mind_what_is_missing(target: Target) -> None:
    for key in ("task/0", "task/1", "task2/0"):
        put(target.storage, key)
    target.storage.delete([])
    target.storage.delete(["nothing", "task/nothing", "task/0/deeper", "task"])
    assert target.names() == {"task/0", "task/1", "task2/0"}
    for _ in range(2):
        target.storage.delete(iter(["task/nothing", "task/0", "task2/0"]))
        assert target.names() == {"task/1"}


def test_a_source_that_breaks_leaves_what_was_there(target: Target) -> None:
    put(target.storage, "key", b"old")
    # With the first piece unread, and after a part has gone to S3.
    for size in (0, 9 * MIB):
        with pytest.raises(OSError, match="the connection to the source broke"):
            target.storage.put("key", BrokenFile(bytes(size)), "image/png")
        assert read(target.storage, "key") == b"old"
        assert target.names() == {"key"}
        assert target.unfinished() == []


def test_a_process_killed_while_it_stores_leaves_nothing_to_see(target: Target) -> None:
    command = [sys.executable, "-m", "tests.storage.programs", "put", "task/key"]
    environ = {**os.environ, **target.environ}
    with subprocess.Popen(  # noqa: S603 - our own program
        command, cwd=ROOT, env=environ, stdin=subprocess.PIPE
    ) as process:
        assert process.stdin
        process.stdin.write(bytes(9 * MIB))
        process.stdin.flush()
        eventually(target.unfinished, seconds=30)
        process.kill()
        assert process.wait() == -signal.SIGKILL

    assert target.names() == set()
    with pytest.raises(MissingObjectError):
        target.storage.open("task/key")
    put(target.storage, "task/key", b"again")
    assert read(target.storage, "task/key") == b"again"


def test_threads_share_one_storage(target: Target) -> None:
    def work(thread: int) -> None:
        for round_ in range(4):
            key = f"task/{round_ % 2}/{thread}"
            put(target.storage, key, key.encode())
            assert read(target.storage, key) == key.encode()
            target.storage.delete([key])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert target.names() == set()
    assert target.unfinished() == []


def test_readers_see_the_old_bytes_or_the_new_never_a_mixture(target: Target) -> None:
    versions = [bytes([number]) * 300_000 for number in range(3)]
    put(target.storage, "key", versions[0])

    def write() -> None:
        for version in versions * 5:
            put(target.storage, "key", version)

    with ThreadPoolExecutor(1) as threads:
        writes = threads.submit(write)
        while not writes.done():
            assert read(target.storage, "key") in versions
        writes.result()


def test_check_passes_and_leaves_nothing(target: Target) -> None:
    target.storage.check()
    target.storage.check()
    assert target.names() == set()
    assert target.unfinished() == []


def test_an_object_may_be_closed_unread(target: Target) -> None:
    put(target.storage, "large", bytes(MIB))
    file = target.storage.open("large")
    assert len(file.read(10)) == 10
    file.close()
    with suppress(ValueError):
        pytest.fail(f"read {len(file.read())} bytes of a closed file")
