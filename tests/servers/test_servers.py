"""The servers of the tests fail as told, and keep what they have: else other tests would show nothing."""

import socket

import pytest
import sqlalchemy
import urllib3
from botocore.exceptions import EndpointConnectionError

from tests.servers.postgres import Postgres
from tests.servers.processes import ReservedPort
from tests.servers.swift import Swift


def ask(uri: str, statement: str) -> object:
    """The first value that `statement` gives, through SQLAlchemy as the service does it."""
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.begin() as connection:
            result = connection.execute(sqlalchemy.text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


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


def test_a_reserved_port_refuses_and_is_given_to_nobody() -> None:
    port = ReservedPort()
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port.number), timeout=5)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port.number))
    finally:
        port.release()
