"""What 200 listeners cost those who call: next to nothing."""

import selectors
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from statistics import median

import pytest

from app import events
from app.events import Fact, Happened
from tests.factories import failure, make_task
from tests.web.servers import Line, Server, head, web_server

CALLERS = 4
CALLS = 120
ROUNDS = 4
# A machine that does other things at the same time; by itself it is about 1.1.
SLOWER = 1.5


@pytest.fixture
def one_process(postgres_url: str, tmp_path: Path) -> Iterator[Server]:
    with web_server(postgres_url, tmp_path, WEB_CONCURRENCY="1", RATE_LIMITS="off") as server:
        yield server


class Listeners:
    """Clients that read what comes and throw it away."""

    def __init__(self, server: Server, number: int) -> None:
        self._stack = ExitStack()
        self._ended = threading.Event()
        self.read: dict[int, int] = {}
        selector = selectors.DefaultSelector()
        request = head("GET", "/v1/events", Authorization=f"Bearer {server.api_key}")
        for _ in range(number):
            line = self._stack.enter_context(Line(server.port))
            line.send(request)
            assert b" 200 " in line.socket.recv(4096)
            selector.register(line.socket, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._listen, args=(selector,))
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._stack.close()

    def _listen(self, selector: selectors.BaseSelector) -> None:
        while not self._ended.is_set():
            for key, _ in selector.select(0.1):
                data = key.fileobj.recv(2**20)  # type: ignore[union-attr]  # they are sockets
                self.read[key.fd] = self.read.get(key.fd, 0) + len(data)


@contextmanager
def listeners(server: Server, number: int) -> Iterator[Listeners]:
    listeners = Listeners(server, number)
    try:
        yield listeners
    finally:
        listeners.close()


def seconds_for(call: Callable[[], int]) -> float:
    started = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        assert set(pool.map(lambda _: call(), range(CALLS))) == {200}
    return time.monotonic() - started


def processor_seconds(server: Server) -> float:
    (web,) = server.workers()
    times = web.cpu_times()
    return float(times.user + times.system)


def test_who_calls_is_hardly_slower_while_two_hundred_listen(
    one_process: Server, record_property: Callable[[str, object], None]
) -> None:
    server, tasks = one_process, [make_task(one_process.parts) for _ in range(40)]
    numbers = count()

    def post() -> int:
        number = next(numbers)
        return server.post_back(tasks[number % 40], failure(f"number{number}")).status

    def look_up() -> int:
        if next(numbers) % 10 == 0:
            with server.parts.db.transaction() as session:
                events.record(session, Fact(tasks[0].id, Happened.CONFLICT))
        return server.get(f"/v1/tasks/{tasks[0].id}").status

    taken: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for number in (0, 200):
            with listeners(server, number) as heard:
                for call in (post, look_up):
                    used = processor_seconds(server)
                    taken[call.__name__, number].append(seconds_for(call))
                    used = processor_seconds(server) - used
                    taken[f"{call.__name__}, processor", number].append(used)
            assert len(heard.read) == number
    for what in ("post", "look_up"):
        # The best of each: all others are about what else the machine had to do.
        ratio = min(taken[what, 200]) / min(taken[what, 0])
        processor = median(taken[f"{what}, processor", 200]) / median(
            taken[f"{what}, processor", 0]
        )
        record_property(what, f"{ratio:.2f}, processor {processor:.2f}")
        assert ratio < SLOWER
        assert processor < SLOWER
