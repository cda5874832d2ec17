"""What a callback costs, and how many a second are stored: `make bench` (needs `wrk`).

Each request is a first result for a task of its own.  In turns with it, under the same gunicorn, a bare
WSGI application and a bare Flask one, which say what this machine could do at most.  Processor time
for each says more than how many a second, for whatever else runs on the machine takes part in that.
"""

import json
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import click
import psutil
import urllib3
from sqlalchemy import func, insert, select

from app import config, db, services
from app.columns import db_now
from app.models import Callback, Task, TaskStatus, new_id
from tests.servers.postgres import postgres_server

ROOT = Path(__file__).parent.parent
SECONDS = 4
PORT = 8765
# More than can be answered in one run.
TASKS_A_RUN = 20_000
BARE = """
def application(environ, start_response):
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
    return [b"{}"]
"""
FLASK = """
from flask import Flask, jsonify, request

application = Flask(__name__)

@application.post("/callbacks/<token>")
def callback(token):
    request.get_json()
    return jsonify(status="accepted")
"""
LUA = """
local lines = {}
local threads = 0
function setup(thread) thread:set("number", threads); threads = threads + 1 end
function init(args)
  for line in io.lines("%s") do lines[#lines + 1] = line end
  next_line = number * math.floor(#lines / %d)
end
function request()
  next_line = next_line %% #lines + 1
  return wrk.format("POST", "/callbacks/" .. lines[next_line],
    {["Content-Type"] = "application/json"}, BODY)
end
BODY = [[%s]]
"""


@dataclass(frozen=True)
class Figures:
    """One run; processor times are microseconds for each request."""

    web: float
    database: float
    wrk: float
    rate: float
    p99: float


@click.command()
@click.option("--connections", default=[16, 64], multiple=True, help="How many at once.")
@click.option("--tasks", default=150_000, help="How many tasks there are before.")
@click.option("--database", type=click.Choice(["postgresql", "sqlite"]), default="postgresql")
@click.option("--runs", default=3, help="How many runs the medians are of.")
def main(connections: tuple[int, ...], tasks: int, database: str, runs: int) -> None:
    """Print the processor time of a request in microseconds, its ratios, requests a second, latency."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environ = environment(stack.enter_context(_database(database, folder)), folder)
        (folder / "bare.py").write_text(BARE)
        (folder / "bareflask.py").write_text(FLASK)
        prepare(environ, folder, tasks)
        of_a_module = ["--pythonpath", str(folder)]
        kinds = {
            "bare WSGI": [*of_a_module, "bare:application"],
            "bare Flask": [*of_a_module, "bareflask:application"],
            "callback": [],
        }
        for count in connections:
            figures: dict[str, list[Figures]] = {kind: [] for kind in kinds}
            for _ in range(runs):
                warm, lua = prepare(environ, folder, 500), prepare(environ, folder, TASKS_A_RUN)
                for kind, arguments in kinds.items():
                    figures[kind].append(_run(environ, arguments, warm, lua, count))
                    print(f"  {kind}: {figures[kind][-1]}", file=sys.stderr)
            _report(f"{database}, {count} connections", figures)


def _run(
    environ: dict[str, str], arguments: list[str], warm: Path, lua: Path, connections: int
) -> Figures:
    with gunicorn(environ, arguments) as web:
        # What is done only once, as compiling statements, is no part of it.
        wrk(warm, connections, seconds=1)
        before, stored = _used(web), _stored(environ)
        rate, p99 = wrk(lua, connections)
        requests = rate * SECONDS
        each = [1e6 * (now - then) / requests for now, then in zip(_used(web), before, strict=True)]
        if not arguments and (stored := _stored(environ) - stored) < 0.98 * requests:
            print(f"  only {stored} of {requests:.0f} are stored", file=sys.stderr)
    return Figures(*each, rate, p99)


def _used(web: psutil.Process) -> list[float]:
    """Processor seconds so far: of the web processes, of PostgreSQL, of wrk."""
    postgres = [each for each in psutil.Process().children() if each.name() == "postgres"]
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    return [_of_tree([web]), _of_tree(postgres), ours.ru_utime + ours.ru_stime]


def _of_tree(roots: list[psutil.Process]) -> float:
    used = 0.0
    for root in roots:
        used += sum(root.cpu_times()[:4])
        used += sum(sum(child.cpu_times()[:2]) for child in root.children(recursive=True))
    return used


def _report(title: str, figures: dict[str, list[Figures]]) -> None:
    print(f"{title}: microseconds of processor time, medians of runs")
    medians = {
        kind: Figures(*map(statistics.median, zip(*map(astuple, runs), strict=True)))
        for kind, runs in figures.items()
    }
    for kind, each in medians.items():
        wsgi, flask = (medians[bare].web / each.web for bare in ("bare WSGI", "bare Flask"))
        print(
            f"  {kind:10} web {each.web:4.0f}, database {each.database:4.0f}, wrk {each.wrk:3.0f};"
            f" web: {wsgi:.2f} of bare WSGI, {flask:.2f} of bare Flask;"
            f" {each.rate:.0f}/s, p99 {each.p99:.0f} ms"
        )


def environment(url: str, folder: Path) -> dict[str, str]:
    """The environment of a web process."""
    return {
        **os.environ,
        "PUBLIC_URL": f"http://127.0.0.1:{PORT}",
        "SECRET_KEY": "a key that is good enough for a benchmark",
        "DATABASE_URL": url,
        "LOCAL_STORAGE_DIR": str(folder / "storage"),
        "PORT": str(PORT),
        "LOG_LEVEL": "warning",
    }


@contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/bench.db"
        return
    # Unlike in the tests, commits reach the disk here; tidying up after the tasks are made is no part.
    settings = {"fsync": "on", "full_page_writes": "on", "autovacuum": "off"}
    with postgres_server(settings) as server:
        yield server.new_database()


def prepare(environ: dict[str, str], folder: Path, count: int) -> Path:
    """Fresh tasks, and a wrk script that answers each of them once."""
    settings = config.load(environ)
    db.migrate(settings.database_url)
    parts = services.build(settings)
    ids = [new_id() for _ in range(count)]
    with parts.db.transaction() as session:
        for start in range(0, count, 5000):
            rows = [
                {"id": id_, "provider": "acedata", "status": TaskStatus.SUBMITTED, "request": {}}
                for id_ in ids[start : start + 5000]
            ]
            session.execute(insert(Task).values(deadline_at=db_now(86_400)), rows)
    tokens = [parts.signing.callback_token("acedata", id_) for id_ in ids]
    parts.close()
    random.shuffle(tokens)
    lines = folder / f"tokens-{count}"
    lines.write_text("\n".join(tokens))
    script = folder / f"post-{count}.lua"
    script.write_text(LUA % (lines, 2, _body()))
    return script


def _body() -> str:
    url = "https://images.example.com/" + "x" * 300
    return json.dumps({"success": True, "data": [{"url": url}, {"url": url}, {"url": url}]})


@contextmanager
def gunicorn(environ: dict[str, str], arguments: list[str]) -> Iterator[psutil.Process]:
    """Web processes, until the end of the block; gives the one that has started them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *arguments], env=environ, cwd=ROOT
    )
    try:
        _wait_until_up()
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait_until_up() -> None:
    http = urllib3.PoolManager(retries=False)
    for _ in range(100):
        try:
            http.request("GET", f"http://127.0.0.1:{PORT}/healthz")
        except urllib3.exceptions.HTTPError:
            time.sleep(0.1)  # until it listens
        else:
            return
    raise SystemExit("gunicorn did not come up")


def wrk(lua: Path, connections: int, seconds: int = SECONDS) -> tuple[float, float]:
    """Requests a second, and the 99th percentile in milliseconds."""
    program = shutil.which("wrk") or sys.exit("wrk is not installed")
    command = [program, "-t2", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(lua)]
    output = subprocess.run(
        [*command, f"http://127.0.0.1:{PORT}"], capture_output=True, text=True, check=True
    ).stdout
    if failed := re.search(r"Non-2xx.*", output):
        print(failed[0], file=sys.stderr)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
    number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", output).groups()
    return rate, float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def _stored(environ: dict[str, str]) -> int:
    parts = services.build(config.load(environ))
    with parts.db.reading() as session:
        count = session.scalar(select(func.count()).select_from(Callback))
    parts.close()
    return count or 0


if __name__ == "__main__":
    main()
