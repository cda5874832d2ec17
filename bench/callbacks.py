"""How many callbacks a second the receiver stores: `make bench` (needs `wrk`).

Each request is a first result for a task of its own.  Beside it, in the same run, a bare WSGI application
under the same gunicorn, which says what this machine could do at most.
"""

import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import urllib3
from sqlalchemy import func, insert, select

from app import config, db, services
from app.columns import db_now
from app.models import Callback, Task, TaskStatus, new_id
from tests.servers.postgres import postgres_server

ROOT = Path(__file__).parent.parent
SECONDS = 8
PORT = 8765
BARE = """
def application(environ, start_response):
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
    return [b"{}"]
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


@click.command()
@click.option("--connections", default=[16, 64], multiple=True, help="How many at once.")
@click.option("--tasks", default=150_000, help="How many tasks there are.")
@click.option("--database", type=click.Choice(["postgresql", "sqlite"]), default="postgresql")
@click.option("--runs", default=3, help="How many runs the median is of.")
def main(connections: tuple[int, ...], tasks: int, database: str, runs: int) -> None:
    """Print requests a second, latency, and the ratio to a bare application."""
    with tempfile.TemporaryDirectory() as name, _database(database, Path(name)) as url:
        folder = Path(name)
        environ = environment(url, folder)
        (folder / "bare.py").write_text(BARE)
        for count in connections:
            rates = []
            bare = []
            for _ in range(runs):
                lua = prepare(environ, folder, tasks)
                with gunicorn(environ, ["--pythonpath", str(folder), "bare:application"]):
                    bare.append(wrk(lua, count)[0])
                before = _stored(environ)
                with gunicorn(environ, []):
                    rates.append(wrk(lua, count))
                print(f"  {rates[-1]}, {_stored(environ) - before} rows", file=sys.stderr)
            rate = statistics.median(rate for rate, _ in rates)
            p99 = statistics.median(p99 for _, p99 in rates)
            ratio = rate / statistics.median(bare)
            print(
                f"{database} {count} connections: {rate:.0f}/s, p99 {p99:.0f} ms, {ratio:.2f} of bare"
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
    # Unlike in the tests, commits reach the disk here.
    with postgres_server({"fsync": "on", "full_page_writes": "on"}) as server:
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
    lines = folder / "tokens"
    lines.write_text("\n".join(tokens))
    script = folder / "post.lua"
    script.write_text(LUA % (lines, 2, _body()))
    return script


def _body() -> str:
    url = "https://images.example.com/" + "x" * 300
    return json.dumps({"success": True, "data": [{"url": url}, {"url": url}, {"url": url}]})


@contextmanager
def gunicorn(environ: dict[str, str], arguments: list[str]) -> Iterator[None]:
    """Web processes, until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *arguments], env=environ, cwd=ROOT
    )
    try:
        _wait_until_up()
        yield
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


def wrk(lua: Path, connections: int) -> tuple[float, float]:
    """Requests a second, and the 99th percentile in milliseconds."""
    program = shutil.which("wrk") or sys.exit("wrk is not installed")
    command = [program, "-t2", f"-c{connections}", f"-d{SECONDS}s", "--latency", "-s", str(lua)]
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
