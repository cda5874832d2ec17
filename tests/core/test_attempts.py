"""One attempt at a subscriber that takes its time."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_network

import pytest

from app.outbound import Limits, Outbound
from app.push import attempts

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"


@contextmanager
def saying(text: bytes) -> Iterator[str]:
    """The URL of one who says this to whoever calls, and then nothing for as long as it is asked."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        held: list[socket.socket] = []

        def answer() -> None:
            connection, _ = server.accept()
            held.append(connection)
            connection.recv(65536)
            connection.sendall(text)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/hook"
        thread.join()
        held[0].close()


@pytest.mark.parametrize(
    ("text", "status", "response"),
    [
        # The status has said what matters.
        (HEAD + b"thank", 200, "thank"),
        (HEAD[:-2] + b"Content-Encoding: gzip\r\n\r\nno gzip", 200, ""),
        (HEAD[:9], None, None),
        (b"", None, None),
    ],
    ids=["in the body", "with a broken body", "in the head", "before it"],
)
def test_who_stops_in_the_middle_is_waited_for_within_the_time(
    text: bytes, status: int | None, response: str | None
) -> None:
    outbound = Outbound([ip_network("127.0.0.0/8")])
    limits = Limits(total=0.3)
    with saying(text) as url:
        tried = attempts.post(outbound, url, "id", b"{}", [], limits=limits)

    assert (tried.status, tried.response) == (status, response)
    assert tried.succeeded == (status == 200)
    assert tried.seconds < 5
    assert status or tried.reason.endswith("did not answer in time")
