"""What 200 streams cost one web process: `make bench-streams` (needs `wrk`).

In turns without and with clients that listen to all tasks: lookups a second while something happens
twenty times a second, callbacks a second (each is told to everybody), and the web process's processor
time for each.  Then what the database does while nobody calls and 10 or 200 listen.
"""

import logging
import multiprocessing
import random
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import psutil
import structlog
from sqlalchemy import select, text

from app import config, events, keys, services
from app.events import Fact, Happened
from app.models import Scope, Task
from app.services import Services
from bench.callbacks import PORT, SECONDS, environment, gunicorn, prepare, wrk
from tests.servers.postgres import postgres_server

CONNECTIONS = 16
PER_SECOND = 20
# Longer than a stream takes to notice that its client is gone, and PostgreSQL to count.
SETTLE_SECONDS = 6
GET = """
request = function()
  return wrk.format("GET", "/v1/tasks/%s", {["Authorization"] = "Bearer %s"})
end
"""
HEAD = "GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n"
TRANSACTIONS = (
    "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
)


class Figures:
    """What was measured with so many listeners."""

    def __init__(self) -> None:
        self._values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, name: str, listeners: int, value: float) -> None:
        """Note and print it."""
        self._values[name][listeners].append(value)
        print(f"  {name} with {listeners} listeners: {value:.2f}", file=sys.stderr)

    def report(self) -> None:
        """Print the medians, and the ratio of the last to the first."""
        for name, values in self._values.items():
            medians = {count: statistics.median(each) for count, each in values.items()}
            first, *_, last = medians.values()
            shown = ", ".join(f"{value:.2f} with {count}" for count, value in medians.items())
            print(f"{name}: {shown} listeners, ratio {last / first:.2f}")


@click.command()
@click.option("--runs", default=3, help="How many runs the medians are of.")
@click.option("--clients", default=200, help="How many listen.")
def main(runs: int, clients: int) -> None:
    """Print the figures and their ratios."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    figures = Figures()
    with tempfile.TemporaryDirectory() as name, postgres_server() as server:
        folder = Path(name)
        environ = environment(server.new_database(), folder) | {
            "RATE_LIMITS": "off",
            "WEB_CONCURRENCY": "1",
        }
        prepare(environ, folder, 1000)
        parts = services.build(config.load(environ))
        with gunicorn(environ, []):
            bench = Bench(parts, folder, figures)
            for _ in range(runs):
                for count in (0, clients):
                    posts = prepare(environ, folder, 12_000)
                    with listeners(count, bench.api_key):
                        bench.lookups(count)
                        bench.callbacks(count, posts)
            for count in (10, clients):
                with listeners(count, bench.api_key):
                    bench.nobody_calls(count)
        parts.close()
    figures.report()


class Bench:
    """One web process and its database."""

    def __init__(self, parts: Services, folder: Path, figures: Figures) -> None:
        self._parts = parts
        self._figures = figures
        with parts.db.transaction() as session:
            self.api_key = keys.create(session, parts.signing, "bench", {Scope.ADMIN})
        with parts.db.reading() as session:
            self._ids = list(session.scalars(select(Task.id).limit(1000)))
        self._get = folder / "get.lua"
        self._get.write_text(GET % (self._ids[0], self.api_key))
        children = psutil.Process().children(recursive=True)
        self._web = [child for child in children if "gunicorn" in child.cmdline()][-1]

    def lookups(self, count: int) -> None:
        """Look up one task again and again."""
        with self._happening():
            self._measure("lookups", count, self._get)

    def callbacks(self, count: int, posts: Path) -> None:
        """Post results."""
        self._measure("callbacks", count, posts)

    def nobody_calls(self, count: int) -> None:
        """Only listen."""
        with self._happening():
            time.sleep(SETTLE_SECONDS)
            before, used = self._transactions(), self._used()
            time.sleep(SECONDS)
            made = self._transactions() - before
            self._figures.add("transactions/s", count, made / SECONDS)
            self._figures.add("processor %", count, 100 * (self._used() - used) / SECONDS)

    def _measure(self, name: str, count: int, script: Path) -> None:
        used = self._used()
        rate, p99 = wrk(script, CONNECTIONS)
        self._figures.add(f"{name}/s", count, rate)
        self._figures.add(f"{name}, p99 ms", count, p99)
        each = 1000 * (self._used() - used) / (rate * SECONDS)
        self._figures.add(f"{name}, processor ms for each", count, each)

    def _used(self) -> float:
        times = self._web.cpu_times()
        return times.user + times.system

    def _transactions(self) -> int:
        with self._parts.db.reading() as session:
            return int(session.scalar(text(TRANSACTIONS)) or 0)

    @contextmanager
    def _happening(self) -> Iterator[None]:
        """Something happens to some task all the time."""
        done = threading.Event()

        def write() -> None:
            while not done.wait(1 / PER_SECOND):
                with self._parts.db.transaction() as session:
                    fact = Fact(random.choice(self._ids), Happened.CONFLICT)
                    events.record(session, fact)

        thread = threading.Thread(target=write)
        thread.start()
        yield
        done.set()
        thread.join()


@contextmanager
def listeners(count: int, api_key: str) -> Iterator[None]:
    """So many clients, in a process of their own."""
    connected, stop = multiprocessing.Event(), multiprocessing.Event()
    process = multiprocessing.Process(target=_listen, args=(count, api_key, connected, stop))
    process.start()
    if not connected.wait(60):
        raise SystemExit("the listeners were not let in")
    yield
    stop.set()
    process.join()
    time.sleep(SETTLE_SECONDS if count else 0)


def _listen(count: int, api_key: str, connected: object, stop: object) -> None:
    selector = selectors.DefaultSelector()
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", PORT))
        connection.sendall((HEAD % api_key).encode())
        if b" 200 " not in connection.recv(4096):
            return
        selector.register(connection, selectors.EVENT_READ)
    connected.set()
    buffer = bytearray(2**20)
    while not stop.is_set():
        for key, _ in selector.select(0.2):
            if not key.fileobj.recv_into(buffer):
                raise SystemExit("a stream has ended")


if __name__ == "__main__":
    main()
