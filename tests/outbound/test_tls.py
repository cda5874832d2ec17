"""TLS to an address, in the name of a host: whose certificate is asked for and accepted."""

import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv4Network
from threading import Event
from time import monotonic

import pytest

from app.errors import NotSentError, OutboundError
from app.outbound import Limits, Outbound
from app.wire import Request
from tests.outbound.authority import Authority

Serve = Callable[..., int]

LIMITS = Limits(connect=5, read=5, total=8, bytes=2**20)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def outbound(authority: Authority) -> Outbound:
    """A way out to loopback that trusts our own authority, and no other."""
    return Outbound(
        [IPv4Network("127.0.0.0/8")],
        resolve=lambda _: ["127.0.0.1"],
        ssl_context=ssl.create_default_context(cafile=authority.file),
    )


@pytest.mark.parametrize("host", ["a.test", "A.Test", "a.test."])
def test_the_certificate_is_asked_for_and_checked_under_the_name(
    host: str, authority: Authority, serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    asked: list[str | None] = []
    port = serve(OK, context=authority.server("a.test", asked=asked))
    answer = outbound.call(Request("POST", f"https://{host}:{port}/", {}, b"x" * 99_999), LIMITS)
    assert answer.body == b"ok"
    assert asked == ["a.test"]
    assert b"\r\nHost: a.test:%d\r\n" % port in heard[0]
    assert heard[0].endswith(b"\r\n\r\n" + b"x" * 99_999)


@pytest.mark.parametrize("names", [("b.test",), ("*.a.test",), ("127.0.0.1",)])
def test_a_certificate_for_another_name_is_refused_and_nothing_sent(
    names: tuple[str, ...],
    authority: Authority,
    serve: Serve,
    outbound: Outbound,
    heard: list[bytes],
) -> None:
    port = serve(OK, context=authority.server(*names))
    with pytest.raises(
        NotSentError, match=r"a\.test:\d+ cannot be reached: .*certificate"
    ) as caught:
        outbound.call(Request("POST", f"https://a.test:{port}/s3cret", {}, b"paid"), LIMITS)
    assert caught.value.code == "unreachable"
    assert "s3cret" not in str(caught.value)
    assert heard == []


def test_an_address_in_the_url_is_checked_as_an_address(
    authority: Authority, serve: Serve, outbound: Outbound
) -> None:
    asked: list[str | None] = []
    port = serve(OK, context=authority.server("127.0.0.1", asked=asked))
    assert outbound.call(Request("GET", f"https://127.0.0.1:{port}/"), LIMITS).body == b"ok"
    assert asked == [None]
    port = serve(OK, context=authority.server("a.test"))
    with pytest.raises(NotSentError):
        outbound.call(Request("GET", f"https://127.0.0.1:{port}/"), LIMITS)


def test_an_unknown_authority_is_not_trusted(
    authority: Authority, serve: Serve, heard: list[bytes]
) -> None:
    port = serve(OK, context=authority.server("a.test"))
    outbound = Outbound([IPv4Network("127.0.0.0/8")], resolve=lambda _: ["127.0.0.1"])
    with pytest.raises(NotSentError):
        outbound.call(Request("POST", f"https://a.test:{port}/", {}, b"paid"), LIMITS)
    assert heard == []


def test_a_server_without_tls_is_sent_nothing(
    serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    port = serve(OK)
    with pytest.raises(NotSentError) as caught:
        outbound.call(
            Request("POST", f"https://a.test:{port}/", {}, b"paid"),
            Limits(connect=0.5, read=5, total=8),
        )
    assert caught.value.code == "unreachable"
    assert heard == []


def test_another_address_is_tried_when_the_first_has_the_wrong_certificate(
    authority: Authority, serve: Serve
) -> None:
    port = serve(b"HTTP/1.1 500 Wrong\r\n\r\n", context=authority.server("b.test"))
    serve(OK, context=authority.server("a.test"), host="127.0.0.2", port=port)
    outbound = Outbound(
        [IPv4Network("127.0.0.0/8")],
        resolve=lambda _: ["127.0.0.1", "127.0.0.2"],
        ssl_context=ssl.create_default_context(cafile=authority.file),
    )
    assert outbound.call(Request("GET", f"https://a.test:{port}/"), LIMITS).body == b"ok"


def test_a_body_without_a_length_must_end_as_tls_says(
    authority: Authority, serve: Serve, outbound: Outbound
) -> None:
    """Closing without TLS's own goodbye is what a cut by somebody in between looks like."""
    context = authority.server("a.test")
    cut = serve(b"HTTP/1.1 200 OK\r\n\r\nbody", context=context)
    with pytest.raises(OutboundError) as caught:
        outbound.call(Request("GET", f"https://a.test:{cut}/"), LIMITS)
    assert caught.value.code == "connection_lost"

    def say_goodbye(sock: ssl.SSLSocket, _: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nbody")
        sock.unwrap()

    whole = serve(say_goodbye, context=context)
    assert outbound.call(Request("GET", f"https://a.test:{whole}/"), LIMITS).body == b"body"


def test_a_drip_over_tls_ends_with_the_total(
    authority: Authority, serve: Serve, outbound: Outbound
) -> None:
    def drip(sock: ssl.SSLSocket, _: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        sock.settimeout(0.05)
        for letter in b"y" * 100:
            sock.sendall(bytes([letter]))
            try:
                if not sock.recv(1):
                    return
            except TimeoutError:
                pass

    port = serve(drip, context=authority.server("a.test"))
    limits = Limits(connect=5, read=5, total=0.5)
    with pytest.raises(OutboundError) as caught:
        outbound.call(Request("GET", f"https://a.test:{port}/"), limits)
    assert caught.value.code == "timeout"


def test_a_body_that_is_taken_in_sips_over_tls_ends_with_the_total(
    authority: Authority, serve: Serve, outbound: Outbound, stopping: Event
) -> None:
    def sip(sock: ssl.SSLSocket, _: bytes) -> None:
        while sock.recv(65536) and not stopping.wait(0.05):
            pass

    port = serve(sip, whole=False, context=authority.server("a.test"))
    request = Request("POST", f"https://a.test:{port}/", {}, bytes(50_000_000))
    start = monotonic()
    with pytest.raises(OutboundError) as caught:
        outbound.call(request, Limits(connect=5, read=30, total=0.5))
    assert caught.value.code == "timeout"
    assert 0.5 <= monotonic() - start < 3


def test_a_handshake_that_drips_has_no_more_than_the_limit(
    outbound: Outbound, stopping: Event
) -> None:
    def drip(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock, suppress(OSError):
            # The beginning of a long handshake message.
            sock.sendall(b"\x16\x03\x03\x40\x00")
            while not stopping.wait(0.05):
                sock.sendall(b"\x00")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        pool.submit(drip, listener)
        url = f"https://a.test:{listener.getsockname()[1]}/"
        start = monotonic()
        with pytest.raises(NotSentError) as caught:
            outbound.call(Request("GET", url), Limits(connect=0.5, read=30, total=60))
        assert monotonic() - start < 3
        stopping.set()
    assert caught.value.code == "unreachable"


def test_a_redirect_from_https_to_http_is_refused(
    authority: Authority, serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    plain = serve(OK)
    location = b"Location: http://a.test:%d/\r\n" % plain
    port = serve(
        b"HTTP/1.1 302 Found\r\n" + location + b"Content-Length: 0\r\n\r\n",
        context=authority.server("a.test"),
    )
    request = Request("GET", f"https://a.test:{port}/")
    with (
        pytest.raises(OutboundError, match=r"a\.test:\d+ redirects from https to http") as caught,
        outbound.stream(request, LIMITS, redirects=3),
    ):
        pass
    assert caught.value.code == "redirect"
    assert caught.value.permanent
    assert len(heard) == 1


def test_a_redirect_from_http_to_https_is_followed(
    authority: Authority, serve: Serve, outbound: Outbound
) -> None:
    safe = serve(OK, context=authority.server("a.test"))
    location = b"Location: https://a.test:%d/\r\n" % safe
    port = serve(b"HTTP/1.1 302 Found\r\n" + location + b"Content-Length: 0\r\n\r\n")
    request = Request("GET", f"http://a.test:{port}/")
    with outbound.stream(request, LIMITS, redirects=1) as answer:
        assert answer.status == 200
        assert answer.url == f"https://a.test:{safe}/"
