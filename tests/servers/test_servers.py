"""The servers of the tests are what tests believe they are."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest
import sqlalchemy
import urllib3
from botocore.exceptions import EndpointConnectionError

from tests.servers.postgres import Postgres, postgres_server
from tests.servers.processes import ReservedPort, ServerError, start, wait_until
from tests.servers.swift import Swift

ROOT = Path(__file__).parents[2]


def ask(uri: str, statement: str) -> object:
    """The first value that `statement` gives, through SQLAlchemy as the service does it."""
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.begin() as connection:
            result = connection.execute(sqlalchemy.text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


def runs(pid: int) -> bool:
    """Whether there is such a process, other than one that nobody has waited for."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_postgres_gives_everybody_a_database_of_their_own(postgres: Postgres) -> None:
    one, two = postgres.new_database(), postgres.new_database()
    ask(one, "CREATE TABLE things (id int)")
    assert ask(one, "SELECT count(*) FROM things") == 0
    assert ask(two, "SELECT to_regclass('things')") is None
    assert ask(two, "SHOW max_connections") == "200"
    assert ask(two, "SELECT 'ЖÄ' ILIKE 'жä'") is True


def test_postgres_copies_a_database(postgres: Postgres) -> None:
    original = postgres.new_database()
    ask(original, "CREATE TABLE things AS SELECT 42 AS id")
    assert ask(postgres.new_database(original), "SELECT id FROM things") == 42


@pytest.mark.parametrize("immediate", [False, True])
def test_postgres_keeps_its_data_over_a_restart(postgres: Postgres, immediate: bool) -> None:
    uri = postgres.new_database()
    ask(uri, "CREATE TABLE things AS SELECT 42 AS id")
    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        postgres.restart(immediate=immediate)
        with pytest.raises(sqlalchemy.exc.OperationalError):
            connection.execute(sqlalchemy.text("SELECT 1"))
        connection.invalidate()
    engine.dispose()
    assert ask(uri, "SELECT id FROM things") == 42


def test_postgres_is_down_while_it_is_down(postgres: Postgres) -> None:
    uri = postgres.new_database()
    with postgres.down(), pytest.raises(sqlalchemy.exc.OperationalError):
        ask(uri, "SELECT 1")
    assert ask(uri, "SELECT 1") == 1


def test_postgres_drops_a_database_that_is_in_use(postgres: Postgres) -> None:
    uri = postgres.new_database()
    with psycopg.connect(uri.replace("+psycopg", "")) as connection:
        postgres.drop_database(uri)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(sqlalchemy.exc.OperationalError, match="does not exist"):
        ask(uri, "SELECT 1")


def test_postgres_takes_settings() -> None:
    with postgres_server({"fsync": "on", "max_connections": "20"}) as server:
        assert ask(server.uri, "SHOW fsync") == "on"
        assert ask(server.uri, "SHOW max_connections") == "20"


def test_swift_keeps_its_data_and_its_address_over_a_stop(swift: Swift) -> None:
    bucket = swift.new_bucket()
    swift.client.put_object(Bucket=bucket, Key="key", Body=b"bytes")
    with swift.down(), pytest.raises(EndpointConnectionError):
        swift.client.get_object(Bucket=bucket, Key="key")
    with swift.client.get_object(Bucket=bucket, Key="key")["Body"] as body:
        assert body.read() == b"bytes"


def test_swift_hangs_while_it_is_told_to(swift: Swift) -> None:
    with swift.hanging(), pytest.raises(urllib3.exceptions.TimeoutError):
        urllib3.request("GET", swift.endpoint, timeout=0.2, retries=False)
    assert urllib3.request("GET", swift.endpoint).status > 0


def test_to_start_a_server_that_runs_does_nothing(swift: Swift, postgres: Postgres) -> None:
    before = [process.pid for process in psutil.Process().children()]
    swift.start()
    postgres.start()
    assert [process.pid for process in psutil.Process().children()] == before


def test_a_reserved_port_refuses_and_is_given_to_nobody() -> None:
    port = ReservedPort()
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port.number), timeout=5)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port.number))
    finally:
        port.release()


def test_a_server_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    process = start([sys.executable, "-c", "raise SystemExit('no such luck')"], folder=tmp_path)
    with pytest.raises(ServerError, match="no such luck"):
        wait_until(lambda: False, process, folder=tmp_path)


@pytest.mark.skipif(not shutil.which("setpriv"), reason="nothing tells the server without it")
def test_a_killed_session_leaves_no_server() -> None:
    program = """
import sys
from tests.servers.postgres import postgres_server
with postgres_server() as server:
    print(server.uri.partition("host=")[2], flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(  # noqa: S603 - the program above
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as session:
        assert session.stdout
        folder = Path(session.stdout.readline().strip())
        postmaster = int((folder / "data" / "postmaster.pid").read_text().split()[0])
        session.kill()
        assert session.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while runs(postmaster):
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.02)
    shutil.rmtree(folder)
