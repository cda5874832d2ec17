"""Calls to real servers on loopback: what they hear, what comes back, and whom they reach."""

import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from queue import Queue

import pytest

from app.config import HostPort
from app.errors import BlockedAddressError, OutboundError
from app.outbound import Outbound
from app.wire import Request
from tests.outbound.calls import LIMITS, LOOPBACK, OK, Serve, call, failing, get, post


def test_a_call_says_what_is_asked_for_and_little_else(
    serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    port = serve(OK)
    call(outbound, get(port, "/p%2f/b\u00fc?q=%7e&r=a+b#f"))
    assert heard == [
        b"GET /p%2f/b%C3%BC?q=%7e&r=a+b HTTP/1.1\r\n"
        b"Host: a.test:" + str(port).encode() + b"\r\n"
        b"User-Agent: postback\r\n"
        b"Accept-Encoding: identity\r\n"
        b"Connection: close\r\n"
        b"\r\n"
    ]


def test_the_headers_that_are_given_replace_the_usual_ones(
    serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    headers = {"user-agent": "other", "ACCEPT-ENCODING": "gzip", "X-Key": "v\u00e4lue"}
    call(outbound, get(serve(OK), headers=headers))
    assert b"user-agent: other\r\n" in heard[0]
    assert b"ACCEPT-ENCODING: gzip\r\n" in heard[0]
    assert b"X-Key: v\xe4lue\r\n" in heard[0]
    assert b"postback" not in heard[0]
    assert b"identity" not in heard[0]


def test_the_answer_comes_whole_with_its_header_names_in_lower_case(
    serve: Serve, outbound: Outbound
) -> None:
    port = serve(
        b"HTTP/1.1 418 Teapot\r\nX-Two: 1\r\nCONTENT-Type: a/b\r\nx-two: 2\r\n"
        b"Content-Length: 3\r\n\r\nbod and more than was announced"
    )
    answer = call(outbound, get(port))
    assert answer.status == 418
    assert answer.headers == {"x-two": "1, 2", "content-type": "a/b", "content-length": "3"}
    assert answer.body == b"bod"


@pytest.mark.parametrize("body", [b"", b"x", b"abc" * 100_000, None])
def test_a_body_of_bytes_or_none_arrives_with_its_length(
    body: bytes | None, serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    call(outbound, Request("POST", f"http://a.test:{serve(OK)}/", {}, body))
    head, _, received = heard[0].partition(b"\r\n\r\n")
    assert received == (body or b"")
    assert head.count(b"\r\nContent-Length: %d" % len(body or b"")) == 1


def test_a_streamed_body_arrives_in_full(
    serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    pieces = [b"", b"a" * 200_000, b"b", b"", b"c" * 3]
    headers = {"content-length": "200004"}
    call(outbound, Request("PUT", f"http://a.test:{serve(OK)}/", headers, iter(pieces)))
    head, _, received = heard[0].partition(b"\r\n\r\n")
    assert received == b"".join(pieces)
    assert head.lower().count(b"\r\ncontent-length: 200004") == 1
    assert b"transfer-encoding" not in head.lower()


def failing_body() -> Iterator[bytes]:
    yield b"ab"
    raise ConnectionResetError("of something else")


@pytest.mark.parametrize("body", [iter([b"abc"]), iter([b"ab", b"cdefg"]), failing_body()])
def test_a_streamed_body_that_is_not_as_announced_counts_as_sent(
    body: Iterator[bytes], serve: Serve, outbound: Outbound
) -> None:
    received: Queue[bytes] = Queue()

    def listen(sock: socket.socket, message: bytes) -> None:
        while data := sock.recv(65536):
            message += data
        received.put(message.partition(b"\r\n\r\n")[2])

    url = f"http://a.test:{serve(listen, whole=False)}/"
    with failing("connection_lost", "broke off"):
        call(outbound, Request("POST", url, {"Content-Length": "5"}, body))
    assert len(received.get(timeout=5)) < 5


@pytest.mark.parametrize(
    "request_",
    [
        Request("GET\r\nX: y", "http://a.test/"),
        Request("GET /other", "http://a.test/"),
        Request("", "http://a.test/"),
        Request("GET", "http://a.test/", {"X": "a\r\nY: b"}),
        Request("GET", "http://a.test/", {"X": "a\nb"}),
        Request("GET", "http://a.test/", {"X": "a\r\n b"}),
        Request("GET", "http://a.test/", {"X": "a\x00b"}),
        Request("GET", "http://a.test/", {"X": "a\u20ac"}),
        Request("GET", "http://a.test/", {"X\r\nY": "a"}),
        Request("GET", "http://a.test/", {"X: y": "a"}),
        Request("GET", "http://a.test/", {"X ": "a"}),
        Request("GET", "http://a.test/", {"": "a"}),
        Request("GET", "http://a.test/", {"X": "a", "x": "b"}),
        Request("GET", "http://a.test/", {"host": "b.test"}),
        Request("POST", "http://a.test/", {"Transfer-Encoding": "chunked"}, b"a"),
        Request("POST", "http://a.test/", {"Content-Length": "2"}, b"a"),
        Request("POST", "http://a.test/", {"Content-Length": "1"}),
        Request("POST", "http://a.test/", {"Content-Length": "-1"}, iter([b"a"])),
        Request("POST", "http://a.test/", {"Content-Length": "1_0"}, iter([b"a" * 10])),
        Request("POST", "http://a.test/", {}, iter([b"a"])),
    ],
)
def test_a_malformed_request_is_a_mistake_of_the_caller(
    request_: Request, outbound: Outbound
) -> None:
    with pytest.raises(ValueError, match=r"[Hh]eader|method|Content-Length"):
        outbound.call(request_, LIMITS)


def test_proxies_of_the_environment_are_not_used(
    serve: Serve, outbound: Outbound, heard: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = f"http://127.0.0.1:{serve(b'HTTP/1.1 500 Proxy')}"
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert call(outbound, get(serve(OK))).status == 200
    assert heard[0].startswith(b"GET / HTTP/1.1\r\n")


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    serve: Serve, heard: list[bytes]
) -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    asked = []

    def rebinding(host: str) -> list[str]:
        asked.append(host)
        return next(answers)

    port = serve(OK)
    serve(b"HTTP/1.1 500 Inside\r\n\r\n", host="127.0.0.2", port=port)
    outbound = Outbound([IPv4Network("127.0.0.1/32")], resolve=rebinding)
    assert call(outbound, get(port)).status == 200
    assert asked == ["a.test"]
    assert len(heard) == 1


def test_nothing_is_sent_to_a_name_that_leads_inside_as_well(
    serve: Serve, heard: list[bytes]
) -> None:
    port = serve(OK)
    network = IPv4Network("127.0.0.1/32")
    outbound = Outbound([network], resolve=lambda _: ["127.0.0.1", "127.0.0.2"])
    with failing("blocked_address"):
        call(outbound, post(port))
    assert heard == []


def test_a_private_host_is_reached_on_the_port_that_is_listed_and_on_no_other(
    serve: Serve, heard: list[bytes]
) -> None:
    listed, other = serve(OK), serve(OK)
    outbound = Outbound([HostPort("localhost", listed)])
    assert outbound.call(Request("GET", f"http://localhost:{listed}/"), LIMITS).body == b"ok"
    for url in (f"http://localhost:{other}/", f"http://127.0.0.1:{listed}/"):
        with pytest.raises(BlockedAddressError):
            outbound.call(Request("GET", url), LIMITS)
    assert len(heard) == 1


def test_the_next_address_is_tried_when_one_takes_no_connection(serve: Serve) -> None:
    port = serve(OK, host="127.0.0.3")
    addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    outbound = Outbound([LOOPBACK], resolve=lambda _: addresses)
    assert call(outbound, get(port)).body == b"ok"


def test_a_connection_that_is_refused_is_not_sent(outbound: Outbound) -> None:
    # Port 1 belongs to nobody here.
    with failing("unreachable", r"a\.test:1 cannot be reached"):
        call(outbound, post(1))


def test_an_address_of_version_6_is_called_in_brackets(heard: list[bytes], serve: Serve) -> None:
    try:
        port = serve(OK, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    outbound = Outbound([HostPort("::1", port)])
    assert outbound.call(Request("GET", f"http://[0::1]:{port}/"), LIMITS).body == b"ok"
    assert b"\r\nHost: [::1]:%d\r\n" % port in heard[0]


def test_an_early_answer_is_read_although_the_body_could_not_be_sent(
    serve: Serve, outbound: Outbound
) -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"

    def refuse(sock: socket.socket, _: bytes) -> None:
        sock.sendall(refusal)
        sock.shutdown(socket.SHUT_WR)

    port = serve(refuse, whole=False)
    answer = call(outbound, post(port, b"x" * 50_000_000))
    assert (answer.status, answer.body) == (413, b"big")


def test_a_server_that_hangs_up_on_the_body_may_have_had_enough_of_it(
    serve: Serve, outbound: Outbound
) -> None:
    port = serve(b"", whole=False)
    with failing("connection_lost"):
        call(outbound, post(port, b"x" * 50_000_000))


def test_calls_from_many_threads_keep_apart(serve: Serve, outbound: Outbound) -> None:
    def echo(sock: socket.socket, message: bytes) -> None:
        path = message.split(b" ")[1]
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    port = serve(echo)
    with ThreadPoolExecutor(16) as pool:
        bodies = pool.map(lambda n: call(outbound, get(port, f"/{n}")).body, range(100))
    assert list(bodies) == [b"/%d" % number for number in range(100)]


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nno colon in s3cret\r\nContent-Length: 2\r\n\r\nok",
        b"s3cret\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX: s3cret\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
def test_nothing_of_the_url_or_the_headers_is_logged_or_told(
    reply: bytes, serve: Serve, outbound: Outbound, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"http://a.test:{serve(reply)}/s3cret?s3cret"
    told = ""
    try:
        outbound.call(Request("GET", url, {"Authorization": "s3cret"}), LIMITS)
    except OutboundError as error:
        told = str(error)
        assert "a.test" in told
    assert "s3cret" not in told + caplog.text
