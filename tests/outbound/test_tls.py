"""TLS to an address, in the name of a host: whose certificate is asked for and accepted."""

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event

import pytest

from app.outbound import Limits, Outbound
from app.wire import Request
from tests.outbound.authority import Authority
from tests.outbound.calls import HEAD, LIMITS, LOOPBACK, OK, Serve, call, failing, get, post, taking


def trusting(authority: Authority, *addresses: str) -> Outbound:
    """A way out to loopback that trusts this authority, and no other."""
    return Outbound(
        [LOOPBACK],
        resolve=lambda _: addresses,
        ssl_context=ssl.create_default_context(cafile=authority.file),
    )


def https(port: int, host: str = "a.test") -> Request:
    return Request("GET", f"https://{host}:{port}/")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def outbound(authority: Authority) -> Outbound:
    return trusting(authority, "127.0.0.1")


@pytest.mark.parametrize("host", ["a.test", "A.Test", "a.test."])
def test_the_certificate_is_asked_for_and_checked_under_the_name(
    host: str, authority: Authority, serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    asked: list[str | None] = []
    port = serve(OK, context=authority.server("a.test", asked=asked))
    answer = call(outbound, Request("POST", f"https://{host}:{port}/", {}, b"x" * 99_999))
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
    with failing("unreachable", r"a\.test:\d+ cannot be reached: .*certificate"):
        call(outbound, post(port, scheme="https"))
    assert heard == []


def test_an_address_in_the_url_is_checked_as_an_address(
    authority: Authority, serve: Serve, outbound: Outbound
) -> None:
    asked: list[str | None] = []
    port = serve(OK, context=authority.server("127.0.0.1", asked=asked))
    assert call(outbound, https(port, "127.0.0.1")).body == b"ok"
    assert asked == [None]
    port = serve(OK, context=authority.server("a.test"))
    with failing("unreachable"):
        call(outbound, https(port, "127.0.0.1"))


def test_an_unknown_authority_is_not_trusted(
    authority: Authority, serve: Serve, heard: list[bytes]
) -> None:
    port = serve(OK, context=authority.server("a.test"))
    outbound = Outbound([LOOPBACK], resolve=lambda _: ["127.0.0.1"])
    with failing("unreachable"):
        call(outbound, post(port, scheme="https"))
    assert heard == []


def test_a_server_without_tls_is_sent_nothing(
    serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    request = post(serve(OK), scheme="https")
    with failing("unreachable"):
        call(outbound, request, Limits(connect=0.5, read=5, total=8))
    assert heard == []


def test_another_address_is_tried_when_the_first_has_the_wrong_certificate(
    authority: Authority, serve: Serve
) -> None:
    port = serve(b"HTTP/1.1 500 Wrong\r\n\r\n", context=authority.server("b.test"))
    serve(OK, context=authority.server("a.test"), host="127.0.0.2", port=port)
    outbound = trusting(authority, "127.0.0.1", "127.0.0.2")
    assert call(outbound, https(port)).body == b"ok"


def test_a_body_without_a_length_must_end_as_tls_says(
    authority: Authority, serve: Serve, outbound: Outbound
) -> None:
    """Closing without TLS's own goodbye is what a cut by somebody in between looks like."""
    context = authority.server("a.test")
    cut = serve(HEAD + b"\r\nbody", context=context)
    with failing("connection_lost"):
        call(outbound, https(cut))

    def say_goodbye(sock: ssl.SSLSocket, _: bytes) -> None:
        sock.sendall(HEAD + b"\r\nbody")
        sock.unwrap()

    whole = serve(say_goodbye, context=context)
    assert call(outbound, https(whole)).body == b"body"


def test_a_drip_over_tls_ends_with_the_total(
    authority: Authority, serve: Serve, outbound: Outbound
) -> None:
    def drip(sock: ssl.SSLSocket, _: bytes) -> None:
        sock.sendall(HEAD + b"X: ")
        sock.settimeout(0.05)
        for letter in b"y" * 100:
            sock.sendall(bytes([letter]))
            try:
                if not sock.recv(1):
                    return
            except TimeoutError:
                pass

    port = serve(drip, context=authority.server("a.test"))
    with failing("timeout"):
        call(outbound, https(port), Limits(connect=5, read=5, total=0.5))


def test_a_body_that_is_taken_in_sips_over_tls_ends_with_the_total(
    authority: Authority, serve: Serve, outbound: Outbound, stopping: Event
) -> None:
    def sip(sock: ssl.SSLSocket, _: bytes) -> None:
        while sock.recv(65536) and not stopping.wait(0.05):
            pass

    port = serve(sip, whole=False, context=authority.server("a.test"))
    request = post(port, bytes(50_000_000), "https")
    with taking(0.5, 10), failing("timeout"):
        call(outbound, request, Limits(connect=5, read=30, total=0.5))


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
        request = https(listener.getsockname()[1])
        with taking(0, 10), failing("unreachable"):
            call(outbound, request, Limits(connect=0.5, read=30, total=60))
        stopping.set()


def redirect(location: str) -> bytes:
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    return head.encode()


def test_a_redirect_from_https_to_http_is_refused_and_the_other_way_followed(
    authority: Authority, serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    context = authority.server("a.test")
    plain, safe = serve(OK), serve(OK, context=context)
    down = https(serve(redirect(f"http://a.test:{plain}/"), context=context))
    rule = r"a\.test:\d+ redirects from https to http"
    with failing("redirect", rule, permanent=True), outbound.stream(down, LIMITS, redirects=3):
        pass
    assert len(heard) == 1
    up = get(serve(redirect(f"https://a.test:{safe}/")))
    with outbound.stream(up, LIMITS, redirects=1) as answer:
        assert (answer.status, answer.url) == (200, f"https://a.test:{safe}/")
