"""Large bodies over real connections: stored in chunks, in memory that stays flat."""

import gzip
import json
import threading
from pathlib import Path
from uuid import UUID

import psutil
from sqlalchemy import func, select

from app.bodies import CHUNK_BYTES
from app.models import Chunk
from tests.factories import make_task, success
from tests.web.servers import Server, web_server
from tests.web.sites import DUPLICATE, accepted, all_at_once

MIB = 2**20


def large_body(size: int) -> bytes:
    return json.dumps(success(padding=size * "x")).encode()


def test_a_huge_body_takes_no_memory(server: Server) -> None:
    server.post_back(make_task(server.parts), large_body(MIB))
    task = make_task(server.parts)
    body = large_body(40 * MIB)
    with Peak(server.workers()) as peak:
        assert server.post_back(task, body).json == accepted(task)
        packed = gzip.compress(body, 1)
        assert server.post_back(task, packed, Content_Encoding="gzip").json == DUPLICATE

    assert peak.growth < 32 * MIB
    (callback,) = server.callbacks(task)
    assert (callback["bytes"], callback["duplicates"]) == (len(body), 1)
    wanted = select(func.count()).where(Chunk.owner_id == UUID(callback["id"]))
    with server.parts.db.reading() as session:
        assert session.scalar(wanted) == len(body) // CHUNK_BYTES + 1


def test_large_bodies_in_many_threads_leave_nothing_in_memory(
    sqlite_url: str, tmp_path: Path
) -> None:
    with web_server(sqlite_url, tmp_path) as server:
        task = make_task(server.parts)
        # Callbacks at once make threads, and each large body after them meets another one.
        all_at_once(50, lambda: server.post_back(task, b"{}").status)
        body = large_body(20 * MIB)
        server.post_back(task, body)
        with Peak(server.workers()) as peak:
            for _ in range(8):
                assert server.post_back(task, body).json == DUPLICATE

    assert peak.growth < 40 * MIB


class Peak:
    """How much memory these processes take at most inside the block, beyond that before it."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self._processes = processes
        self._before = self._memory()
        self._most = self._before
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        """In bytes."""
        return self._most - self._before

    def _memory(self) -> int:
        return sum(process.memory_info().rss for process in self._processes)

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self._most = max(self._most, self._memory())
