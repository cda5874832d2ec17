"""Servers and resolvers that take their time: nobody waits longer than was said."""

import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

import pytest

from app.errors import OutboundError
from app.outbound import Limits, Outbound
from app.outbound.guard import parse
from app.outbound.limits import Clock
from app.outbound.sending import connect
from app.wire import Request
from tests.outbound.calls import HEAD, LOOPBACK, Serve, call, failing, get, post, taking

Handler = Callable[[socket.socket, bytes], None]
Drip = Callable[[bytes, bytes], Handler]

# Of the two that are told apart below, one is short, but not for a busy machine, the other far away.
SHORT, SOON, LONG = 1.0, 10.0, 30.0
SHORT_TOTAL = Limits(connect=LONG, read=LONG, total=SHORT)
SHORT_READ = Limits(connect=LONG, read=SHORT, total=LONG)
SHORT_CONNECT = Limits(connect=SHORT, read=LONG, total=LONG)


def outcomes(outbound: Outbound, ports: list[int], limits: Limits) -> list[str]:
    """What becomes of a call to each of `ports`, all at the same time."""

    def outcome(port: int) -> str:
        with pytest.raises(OutboundError, match=r"a\.test") as caught:
            call(outbound, get(port), limits)
        assert caught.value.sent
        return caught.value.code

    with ThreadPoolExecutor(len(ports)) as pool:
        return list(pool.map(outcome, ports))


@pytest.fixture
def drip(stopping: Event) -> Drip:
    """Servers that say something, and then something else over and over, 20 bytes a second."""

    def start(beginning: bytes, rest: bytes) -> Handler:
        def speak(sock: socket.socket, _: bytes) -> None:
            sock.sendall(beginning)
            while True:
                for byte in rest:
                    if stopping.wait(0.05):
                        return
                    sock.sendall(bytes([byte]))

        return speak

    return start


DRIPS = [
    (b"", b"HTTP/1.1 200 OK"),
    (HEAD, b"X: y\r\n"),
    (HEAD + b"X: ", b"y"),
    (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    (HEAD + b"\r\n", b"y"),
    (HEAD + b"Content-Length: 9999\r\n\r\n", b"y"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\ny\r\n"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"y"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
]


def test_a_drip_ends_with_the_total_and_is_no_end_of_the_body(
    serve: Serve, drip: Drip, outbound: Outbound
) -> None:
    ports = [serve(drip(beginning, rest)) for beginning, rest in DRIPS]
    with taking(SHORT, SOON):
        assert outcomes(outbound, ports, SHORT_TOTAL) == ["timeout"] * len(DRIPS)


@pytest.mark.parametrize("limits", [SHORT_TOTAL, SHORT_READ])
def test_silence_ends_with_the_limit_that_comes_first(
    limits: Limits, serve: Serve, outbound: Outbound, stopping: Event
) -> None:
    def falling_silent_after(beginning: bytes) -> Handler:
        def speak(sock: socket.socket, _: bytes) -> None:
            sock.sendall(beginning)
            stopping.wait()

        return speak

    beginnings = (b"", HEAD, HEAD + b"\r\n", HEAD + b"\r\nabc")
    ports = [serve(falling_silent_after(beginning)) for beginning in beginnings]
    with taking(SHORT, SOON):
        assert outcomes(outbound, ports, limits) == ["timeout"] * 4


def test_a_slow_body_may_take_longer_than_one_read(
    serve: Serve, drip: Drip, outbound: Outbound
) -> None:
    port = serve(drip(HEAD + b"Content-Length: 30\r\n\r\n", b"y"))
    with taking(SHORT, SOON):
        assert call(outbound, get(port), SHORT_READ).body == b"y" * 30


@pytest.mark.parametrize("limits", [SHORT_TOTAL, SHORT_READ])
def test_a_server_that_does_not_take_the_body_is_not_waited_for(
    limits: Limits, serve: Serve, outbound: Outbound, stopping: Event
) -> None:
    port = serve(lambda *_: stopping.wait() and None, whole=False)
    with taking(SHORT, SOON), failing("timeout"):
        call(outbound, post(port, bytes(50_000_000)), limits)


def test_a_large_body_may_take_longer_than_one_read(
    serve: Serve, outbound: Outbound, stopping: Event
) -> None:
    size = 20_000_000

    def sip(sock: socket.socket, message: bytes) -> None:
        taken = len(message.partition(b"\r\n\r\n")[2])
        while taken < size:
            taken += len(sock.recv(2**20))
            stopping.wait(0.1)
        sock.sendall(HEAD + b"Content-Length: 0\r\n\r\n")

    with taking(SHORT, LONG):
        assert call(outbound, post(serve(sip, whole=False), bytes(size)), SHORT_READ).status == 200


def test_a_server_that_takes_the_body_in_sips_is_given_the_total(
    serve: Serve, outbound: Outbound, stopping: Event
) -> None:
    def sip(sock: socket.socket, _: bytes) -> None:
        while sock.recv(65536) and not stopping.wait(0.05):
            pass

    port = serve(sip, whole=False)
    with taking(SHORT, SOON), failing("timeout"):
        call(outbound, post(port, bytes(50_000_000)), SHORT_TOTAL)


def test_an_answer_is_taken_from_a_server_that_stopped_listening(
    serve: Serve, outbound: Outbound, stopping: Event
) -> None:
    def refuse(sock: socket.socket, _: bytes) -> None:
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        stopping.wait()

    port = serve(refuse, whole=False)
    with taking(SHORT, SOON):
        assert call(outbound, post(port, bytes(50_000_000)), SHORT_READ).status == 413


def test_time_that_the_reader_takes_counts(serve: Serve, outbound: Outbound) -> None:
    port = serve(HEAD + b"Content-Length: 100000\r\n\r\n" + bytes(100_000))
    with outbound.stream(get(port), SHORT_TOTAL) as answer:
        pieces = answer.chunks()
        next(pieces)
        Event().wait(SHORT)
        with failing("timeout"):
            list(pieces)


@pytest.mark.parametrize("limits", [SHORT_TOTAL, SHORT_CONNECT])
def test_a_lookup_that_hangs_is_not_waited_for(limits: Limits, stopping: Event) -> None:
    def hang(_: str) -> list[str]:
        stopping.wait(5)
        return ["127.0.0.1"]

    with taking(SHORT, SOON), failing("unreachable", "in time"):
        call(Outbound([LOOPBACK], resolve=hang), get(80), limits)
    stopping.set()


@pytest.mark.parametrize("limits", [SHORT_TOTAL, SHORT_CONNECT])
def test_a_tls_handshake_that_hangs_is_not_waited_for_and_nothing_was_sent(
    limits: Limits, outbound: Outbound
) -> None:
    # Nobody accepts; the operating system does all the same.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        request = post(listener.getsockname()[1], scheme="https")
        with taking(SHORT, SOON), failing("unreachable", "in time"):
            call(outbound, request, limits)


@pytest.mark.parametrize("limits", [SHORT_TOTAL, SHORT_CONNECT])
def test_a_host_that_is_silent_is_not_waited_for(limits: Limits, outbound: Outbound) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        # Its queue is full with these: the operating system ignores the next one.
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        request = post(listener.getsockname()[1])
        with taking(SHORT, SOON), failing("unreachable", "in time"):
            call(outbound, request, limits)


class Expiring(Clock):
    """A clock whose time is over when it is asked for the second time."""

    asked = 0

    def within(self, seconds: float) -> float:
        self.asked += 1
        if self.asked > 1:
            raise TimeoutError
        return seconds


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_that_comes_too_late_is_closed_unused(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = parse(f"{scheme}://a.test:{listener.getsockname()[1]}/")
        context = ssl.create_default_context()
        with failing("unreachable"):
            connect(target, ["127.0.0.1"], Expiring(Limits(connect=SHORT)), context)
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(5)
            assert accepted.recv(1) == b""


def test_all_addresses_together_have_no_more_than_the_total() -> None:
    addresses = [f"127.0.0.{number}" for number in range(1, 100)]
    outbound = Outbound([LOOPBACK], resolve=lambda _: addresses)
    limits = Limits(connect=0.15, read=LONG, total=0.5)
    with socket.create_server(("0.0.0.0", 0)) as listener:
        request = Request("GET", f"https://a.test:{listener.getsockname()[1]}/")
        with taking(0.5, SOON), failing("unreachable"):
            call(outbound, request, limits)
