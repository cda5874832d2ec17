"""Redirects: followed for images alone, each one checked like the first URL."""

import re
import socket
from collections.abc import Callable
from ipaddress import IPv4Network
from threading import Event

import pytest

from app.config import HostPort
from app.outbound import Limits, Outbound
from app.wire import Request
from tests.outbound.calls import LIMITS, LOOPBACK, OK, Serve, call, failing, get


def redirect(location: str, status: int = 302) -> bytes:
    head = f"HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    return head.encode()


def fetch(
    outbound: Outbound, request: Request, redirects: int = 3, hosts: tuple[str, ...] = ()
) -> tuple[int, str, bytes]:
    with outbound.stream(request, LIMITS, redirects=redirects, hosts=hosts) as answer:
        return answer.status, answer.url, b"".join(answer)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(
    status: int, serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    there = f"http://b.test:{serve(OK)}/there?x=1#f"
    answer = fetch(outbound, get(serve(redirect(there, status))))
    assert answer == (200, there, b"ok")
    assert heard[1].startswith(b"GET /there?x=1 HTTP/1.1\r\nHost: b.test:")


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("there", b"/deep/there"),
        ("/there", b"/there"),
        ("../there", b"/there"),
        ("?x=1", b"/deep/here?x=1"),
        ("/b\u00fc", b"/b%C3%BC"),
        ("/a%2fb", b"/a%2fb"),
    ],
)
def test_a_relative_redirect_stays_on_its_host(
    location: str, path: bytes, serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    answers = iter([redirect(location), OK])
    port = serve(lambda sock, _: sock.sendall(next(answers)))
    assert fetch(outbound, get(port, "/deep/here"))[0] == 200
    assert heard[1].split(b" ")[1] == path
    assert b"Host: a.test:%d\r\n" % port in heard[1]


@pytest.mark.parametrize("status", [300, 304, 305, 306])
def test_other_statuses_lead_nowhere(status: int, serve: Serve, outbound: Outbound) -> None:
    assert fetch(outbound, get(serve(redirect("/there", status))))[0] == status


def test_a_redirect_is_an_answer_where_none_is_asked_for(
    serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    port = serve(redirect("/there"))
    assert call(outbound, get(port)).headers["location"] == "/there"
    assert fetch(outbound, get(port), redirects=0)[0] == 302
    assert len(heard) == 2


@pytest.mark.parametrize(("method", "body"), [("POST", b"x"), ("POST", None), ("HEAD", None)])
def test_only_get_is_redirected(
    method: str, body: bytes | None, serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    request = Request(method, f"http://a.test:{serve(redirect('/there', 303))}/", {}, body)
    assert fetch(outbound, request)[0] == 303
    assert len(heard) == 1


@pytest.mark.parametrize(("redirects", "requests"), [(1, 2), (3, 4)])
def test_a_loop_ends(
    redirects: int, requests: int, serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    request = get(serve(redirect("/s3cret")))
    with failing("redirect", r"a\.test:\d+ .* one redirect too many"):
        fetch(outbound, request, redirects)
    assert len(heard) == requests


def test_as_many_redirects_as_allowed_are_followed_and_each_is_looked_up_once(
    serve: Serve, leading_to: Callable[..., Outbound], asked: list[str]
) -> None:
    answers = iter([redirect("/2"), redirect("/3"), redirect("/4"), OK])
    port = serve(lambda sock, _: sock.sendall(next(answers)))
    outbound = leading_to("127.0.0.1", allow_private=[LOOPBACK])
    assert fetch(outbound, get(port))[1].endswith("/4")
    assert asked == ["a.test"] * 4


@pytest.mark.parametrize("header", [b"", b"Location:\r\n", b"Location:  \r\n"])
def test_a_redirect_without_an_aim_is_an_error(
    header: bytes, serve: Serve, outbound: Outbound
) -> None:
    port = serve(b"HTTP/1.1 302 Found\r\n" + header + b"Content-Length: 0\r\n\r\n")
    with failing("redirect", "without saying where"):
        fetch(outbound, get(port))


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::a00:1]/",
        "//10.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.1/",
        "file:///etc/passwd",
        "ftp://a.test/",
        "gopher://a.test/",
        "data:text/plain,x",
        "javascript:alert(1)",
        "http://user@a.test/",
        "http://a.test\\@10.0.0.1/",
        "http:\\\\10.0.0.1",
        "/a b",
        "/a\tb",
        "/a\x0bb",
        "http://[::1",
        "http://b\u00fc.test/",
        "http://a.test:0/",
        "http://a.test/, http://b.test/",
    ],
)
def test_where_no_url_may_lead_no_redirect_may_either(
    location: str, serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    with failing("blocked_address"):
        fetch(outbound, get(serve(redirect(location))))
    assert len(heard) == 1


def test_a_redirect_to_a_name_that_leads_inside_is_refused(
    serve: Serve, heard: list[bytes]
) -> None:
    inside = serve(OK, host="127.0.0.2")
    port = serve(redirect(f"http://inside.test:{inside}/"))
    outbound = Outbound(
        [IPv4Network("127.0.0.1/32")],
        resolve=lambda host: ["127.0.0.2" if host == "inside.test" else "127.0.0.1"],
    )
    with failing("blocked_address"):
        fetch(outbound, get(port))
    assert len(heard) == 1


def test_an_exception_for_one_port_is_none_for_another(serve: Serve, heard: list[bytes]) -> None:
    port = serve(redirect(f"http://localhost:{serve(OK)}/"))
    outbound = Outbound([HostPort("localhost", port)])
    with failing("blocked_address"):
        fetch(outbound, Request("GET", f"http://localhost:{port}/"))
    assert len(heard) == 1


def test_a_redirect_may_not_leave_the_listed_hosts(
    serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    there, hosts = serve(OK), ("a.test", "*.a.test")
    within, outside = (
        get(serve(redirect(f"http://{aim}:{there}/"))) for aim in ("b.a.test", "b.test")
    )
    assert fetch(outbound, within, hosts=hosts)[0] == 200
    with failing("host_not_allowed"):
        fetch(outbound, outside, hosts=hosts)
    assert len(heard) == 3


@pytest.mark.parametrize(
    ("aim", "told"),
    [("/there", True), ("http://b.test:{port}/", False), ("//a.test:{other}/", False)],
)
def test_keys_stay_with_the_origin_they_were_meant_for(
    aim: str, told: bool, serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    aims = iter([aim.replace("{other}", str(serve(OK)))])

    def answer(sock: socket.socket, _: bytes) -> None:
        location = next(aims, "").replace("{port}", str(port))
        sock.sendall(redirect(location) if location else OK)

    port = serve(answer)
    keys = dict.fromkeys(("AUTHORIZATION", "Cookie", "X-Api-Key"), "s3cret")
    fetch(outbound, get(port, headers={**keys, "Accept": "a/b"}))
    assert heard[0].count(b"s3cret") == 3
    assert heard[1].count(b"s3cret") == (3 if told else 0)
    assert b"Accept: a/b\r\n" in heard[1]


def test_keys_do_not_come_back_on_the_way_back(
    serve: Serve, outbound: Outbound, heard: list[bytes]
) -> None:
    def answer(sock: socket.socket, message: bytes) -> None:
        host = re.search(rb"Host: (\w)", message)
        aim = {b"GET / ": "b", b"GET /b": "a"}.get(message[:6])
        reply = redirect(f"http://{aim}.test:{port}/{aim}") if aim and host else OK
        sock.sendall(reply)

    port = serve(answer)
    fetch(outbound, get(port, headers={"Authorization": "s3cret"}))
    assert [b"s3cret" in message for message in heard] == [True, False, False]


def test_a_dead_end_is_unreachable(serve: Serve, outbound: Outbound) -> None:
    # Port 1 belongs to nobody here.
    with failing("unreachable"):
        fetch(outbound, get(serve(redirect("http://a.test:1/"))))


def test_all_redirects_together_have_no_more_than_the_total(
    serve: Serve, outbound: Outbound, stopping: Event
) -> None:
    def hesitate(sock: socket.socket, _: bytes) -> None:
        stopping.wait(0.15)
        sock.sendall(redirect("/"))

    limits = Limits(connect=5, read=5, total=0.5)
    request = get(serve(hesitate))
    with failing("timeout"), outbound.stream(request, limits, redirects=99):
        pass
