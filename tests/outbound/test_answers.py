"""Bodies of answers: what is cut off never looks whole, and what is too large is not read."""

import gzip
import socket
import zlib
from collections.abc import Callable, Iterator
from threading import Event

import pytest

from app.outbound import Limits, Outbound
from app.wire import Request
from tests.outbound.calls import HEAD, Serve, call, failing, get

Fetch = Callable[[bytes], bytes]

LIMITS = Limits(connect=5, read=5, total=8, bytes=100_000)
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def zipped(data: bytes) -> bytes:
    # Without the time: cases have the same names whenever they are collected.
    return gzip.compress(data, mtime=0)


GZIP = HEAD + b"Content-Encoding: gzip\r\n"


@pytest.fixture
def fetch(serve: Serve, outbound: Outbound) -> Fetch:
    """Makes a server say something and hang up; gives the body that arrives."""

    return lambda reply: call(outbound, get(serve(reply)), LIMITS).body


def with_length(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return HEAD + b"Content-Length: %d\r\n\r\n%b" % (size, body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (with_length(b"abc"), b"abc"),
        (with_length(b""), b""),
        (with_length(b"a" * 100_000), b"a" * 100_000),
        (CHUNKED + chunk(b"abc") + chunk(b"d" * 90_000) + chunk(b""), b"abc" + b"d" * 90_000),
        (CHUNKED + b"3;extension=1\r\nabc\r\n0\r\nTrailer: x\r\n\r\n", b"abc"),
        (HEAD.replace(b"1.1", b"1.0") + b"\r\nuntil the end", b"until the end"),
        (HEAD + b"\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + with_length(b"abc"), b"abc"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + with_length(b"abc"), b"abc"),
    ],
)
def test_a_whole_body_arrives_however_it_ends(reply: bytes, body: bytes, fetch: Fetch) -> None:
    assert fetch(reply) == body


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTT",
        b"HTTP/1.1 200 OK",
        HEAD,
        HEAD + b"X: a",
        HEAD + b"X: a\r\n",
        HEAD + b"X: a\r\n\r",
        HEAD + b"Content-Len",
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        with_length(b"abc", 4),
        with_length(b"", 4),
        with_length(b"a" * 70_000, 70_001),
        CHUNKED,
        CHUNKED + b"5",
        CHUNKED + b"5\r\n",
        CHUNKED + b"5\r\nabc",
        CHUNKED + b"5\r\nabcde",
        CHUNKED + b"5\r\nabcde\r\n",
        CHUNKED + b"5\r\nabcde\r\n0",
        CHUNKED + b"5\r\nabcde\r\n0\r\n",
        CHUNKED + b"5\r\nabcde\r\n0\r\nTrailer: x\r\n",
        CHUNKED + b"5\r\nabcde\r\nxyz\r\n",
        CHUNKED + b"-5\r\nabcde\r\n0\r\n\r\n",
        GZIP + b"\r\n" + zipped(b"abc")[:-1],
        GZIP + b"\r\n" + zipped(b"abc")[:5],
    ],
)
def test_what_is_cut_off_is_lost(reply: bytes, fetch: Fetch) -> None:
    with failing("connection_lost", r"a\.test"):
        fetch(reply)


def test_a_reset_is_no_end_of_a_body(serve: Serve, outbound: Outbound) -> None:
    def reset(sock: socket.socket, _: bytes) -> None:
        sock.sendall(HEAD + b"\r\nabc")
        # With this option close() resets, and does so once what is above was received.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        arrived.wait(5)

    arrived = Event()
    with outbound.stream(get(serve(reset)), LIMITS) as answer:
        pieces = answer.chunks()
        assert next(pieces) == b"abc"
        arrived.set()
        with failing("connection_lost"):
            next(pieces)


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"<html></html>\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 " + b"a" * 70_000 + b"\r\n\r\n",
        HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
        HEAD + b"X: a\r\n" * 101 + b"\r\n",
        HEAD + b"no colon\r\nContent-Length: 3\r\n\r\nabc",
        HEAD + b"Content-Length: abc\r\n\r\nabc",
        HEAD + b"Content-Length: -3\r\n\r\nabc",
        HEAD + b"Content-Length: +3\r\n\r\nabc",
        HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunk(b"abc") + chunk(b""),
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b""),
        HEAD + b"Content-Encoding: br\r\n\r\nabc",
        HEAD + b"Content-Encoding: gzip, gzip\r\n\r\n" + zipped(zipped(b"abc")),
        GZIP + b"\r\nno gzip",
        GZIP + b"\r\n" + zipped(b"abc") + b"more",
    ],
)
def test_what_is_not_http_is_a_bad_response(reply: bytes, fetch: Fetch) -> None:
    with failing("bad_response", r"a\.test"):
        fetch(reply)


@pytest.mark.parametrize(
    "reply",
    [
        with_length(b"", 100_001),
        with_length(b"a" * 100_001),
        CHUNKED + chunk(b"a" * 60_000) * 2 + chunk(b""),
        HEAD + b"\r\n" + b"a" * 100_001,
        GZIP + b"\r\n" + zipped(b"a" * 100_001),
        GZIP + b"\r\n" + zipped(bytes(50_000_000)),
        # Nothing but empty blocks: it inflates to nothing at all, however long it is.
        GZIP + b"\r\n" + zipped(b"")[:10] + b"\x00\x00\x00\xff\xff" * 20_001,
    ],
)
def test_what_is_too_large_is_given_up_for_good(reply: bytes, fetch: Fetch) -> None:
    with failing("too_large", r"a\.test:\d+ answers with more than 100000"):
        fetch(reply)


@pytest.mark.parametrize("name", ["gzip", "GZip", "x-gzip", "deflate"])
def test_a_compressed_body_is_inflated_and_its_headers_say_so(
    name: str, serve: Serve, outbound: Outbound
) -> None:
    body = bytes(range(256)) * 300
    packed = zlib.compress(body) if name == "deflate" else zipped(body)
    head = b"Content-Encoding: %b\r\nContent-Length: %d\r\nX: y\r\n\r\n"
    port = serve(HEAD + head % (name.encode(), len(packed)) + packed)
    answer = call(outbound, get(port))
    assert answer.body == body
    assert answer.headers == {"x": "y"}


def test_a_compressed_body_is_inflated_piece_by_piece(serve: Serve, outbound: Outbound) -> None:
    port = serve(GZIP + b"\r\n" + zipped(bytes(100_000)))
    with outbound.stream(get(port), LIMITS) as answer:
        assert max(map(len, answer)) <= 65536


def test_a_compressed_body_may_arrive_byte_by_byte(fetch: Fetch) -> None:
    packed = zipped(bytes(90_000) + b"end")
    chunks = b"".join(chunk(bytes([byte])) for byte in packed)
    head = GZIP + b"Transfer-Encoding: chunked\r\n\r\n"
    assert fetch(head + chunks + chunk(b"")) == bytes(90_000) + b"end"


@pytest.mark.parametrize("header", [b"Content-Encoding: gzip", b"Content-Length: 999999999"])
def test_an_answer_to_head_has_no_body_whatever_it_says(
    header: bytes, serve: Serve, outbound: Outbound
) -> None:
    port = serve(HEAD + header + b"\r\n\r\n")
    assert call(outbound, Request("HEAD", f"http://a.test:{port}/")).body == b""


def test_pieces_come_as_they_arrive(serve: Serve, outbound: Outbound) -> None:
    seen = Event()

    def speak(sock: socket.socket, _: bytes) -> None:
        sock.sendall(CHUNKED + chunk(b"first"))
        if seen.wait(5):
            sock.sendall(chunk(b"b" * 90_000) + chunk(b""))

    with outbound.stream(get(serve(speak)), LIMITS) as answer:
        pieces = iter(answer)
        assert next(pieces) == b"first"
        seen.set()
        rest = list(pieces)
    assert b"".join(rest) == b"b" * 90_000
    assert max(map(len, rest)) <= 65536


def test_the_status_can_be_read_although_the_body_cannot(serve: Serve, outbound: Outbound) -> None:
    port = serve(HEAD + b"Content-Encoding: br\r\nContent-Length: 999999\r\n\r\n")
    with outbound.stream(get(port), LIMITS) as answer:
        assert answer.status == 200
        assert answer.headers["content-encoding"] == "br"


def test_the_errors_of_who_reads_stay_theirs(serve: Serve, outbound: Outbound) -> None:
    request = get(serve(with_length(b"abc")))
    with pytest.raises(ConnectionResetError, match="else"), outbound.stream(request, LIMITS):
        raise ConnectionResetError("somewhere else")


def test_a_body_that_nobody_reads_does_not_keep_the_connection(
    serve: Serve, outbound: Outbound
) -> None:
    ended = Event()

    def flood(sock: socket.socket, _: bytes) -> None:
        try:
            sock.sendall(HEAD + b"\r\n" + bytes(50_000_000))
        except ConnectionError:
            ended.set()

    with outbound.stream(get(serve(flood)), LIMITS) as answer:
        pieces: Iterator[bytes] = answer.chunks()
        assert next(pieces)
    assert ended.wait(5)
