"""Where a connection may lead: addresses, and the two lists that make exceptions."""

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network

import pytest

from app.config import HostPort
from app.errors import BlockedAddressError
from app.outbound import Outbound
from tests.outbound.calls import failing
from tests.scarcity import no_more_threads

Network = IPv4Network | IPv6Network
LeadingTo = Callable[..., Outbound]

PUBLIC = "93.184.215.14"
PUBLIC_V6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"

# Nothing is connected to in this file: check() only looks up, and the answers are given here.
# Each row is of one kind: the edges of a network, or the ways to wrap an address.
REFUSED_ADDRESSES = [
    *("0.0.0.0", "0.1.2.3"),
    *("10.0.0.0", "10.255.255.255"),
    *("100.64.0.1", "100.100.100.200", "100.127.255.255"),
    *("127.0.0.1", "127.255.255.254"),
    "168.63.129.16",
    "169.254.169.254",
    *("172.16.0.1", "172.31.255.255"),
    *("192.0.0.1", "192.0.0.192"),
    *("192.0.2.1", "198.51.100.7", "203.0.113.7"),
    "192.88.99.1",
    *("192.168.0.1", "192.168.255.255"),
    *("198.18.0.1", "198.19.255.255"),
    *("224.0.0.1", "239.255.255.255"),
    *("240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::2"),
    *("::7f00:1", "::127.0.0.1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::169.254.169.254", "64:ff9b::5db8:d70e", "64:ff9b:1::7f00:1"),
    "100::1",
    *("2001::1", "2001:0:7f00:1::1", "2001:10::1", "2001:1ff:ffff::1"),
    "2001:db8::1",
    *("2002:7f00:1::1", "2002:a9fe:a9fe::"),
    *("3fff::1", "3fff:fff:ffff::1"),
    *("4000::1", "5f00::1"),
    *("fc00::1", "fd00:ec2::254"),
    *("fe80::1", "fe80::1%lo", "febf::1", "fec0::1"),
    *("ff02::1", "ff0e::1"),
]
ALLOWED_ADDRESSES = [
    *(PUBLIC, "1.1.1.1"),
    *("9.255.255.255", "11.0.0.0"),
    *("100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.0"),
    "168.63.129.17",
    *("169.253.255.255", "169.255.0.0"),
    *("172.15.255.255", "172.32.0.0"),
    *("192.0.1.0", "192.0.3.0"),
    "192.88.98.255",
    *("192.167.255.255", "192.169.0.0"),
    *("198.17.255.255", "198.20.0.0"),
    "223.255.255.255",
    *(PUBLIC_V6, "2001:4860:4860::8888", "2a00:1450:4001:800::200e"),
    *("2001:200::1", "2003::1", "3ffe:ffff::1"),
    "::ffff:93.184.215.14",
]


@pytest.mark.parametrize("address", REFUSED_ADDRESSES)
def test_a_private_address_is_refused_behind_a_name_and_in_the_url(
    address: str, leading_to: LeadingTo, asked: list[str]
) -> None:
    with failing("blocked_address", "example.com"):
        leading_to(address).check("https://example.com/hook?token=s3cret")
    asked.clear()
    host = f"[{address}]" if ":" in address else address
    with failing("blocked_address", "host is no plain" if "%" in host else "not public"):
        leading_to(PUBLIC).check(f"http://{host}/")
    assert asked == []


@pytest.mark.parametrize("address", ALLOWED_ADDRESSES)
def test_a_public_address_is_allowed_behind_a_name_and_in_the_url(
    address: str, leading_to: LeadingTo
) -> None:
    host = f"[{address}]" if ":" in address else address
    leading_to(address).check("https://example.com/")
    leading_to("127.0.0.1").check(f"https://{host}/")


@pytest.mark.parametrize("private", ["127.0.0.1", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"])
def test_one_private_answer_among_public_ones_is_enough(
    private: str, leading_to: LeadingTo
) -> None:
    for answers in ([PUBLIC, PUBLIC_V6, private], [private, PUBLIC]):
        with pytest.raises(BlockedAddressError):
            leading_to(*answers).check("https://example.com/")


@pytest.mark.parametrize("host", ["localhost", "localhost.", "LOCALHOST"])
def test_what_the_system_s_own_resolver_says_is_judged(host: str) -> None:
    with pytest.raises(BlockedAddressError, match="not public"):
        Outbound().check(f"http://{host}/")


def test_a_name_without_addresses_is_unreachable(leading_to: LeadingTo) -> None:
    def unknown(_: str) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with failing("unreachable", r"example\.com cannot be reached: .* not known"):
        Outbound(resolve=unknown).check("https://example.com/")
    with failing("unreachable", "no address"):
        leading_to().check("https://example.com/")


def test_a_name_that_cannot_be_looked_up_for_want_of_a_thread_is_unreachable(
    leading_to: LeadingTo,
) -> None:
    with no_more_threads(), failing("unreachable", "can't start new thread"):
        leading_to(PUBLIC).check("https://example.com/")


def test_an_answer_that_is_no_address_is_refused(leading_to: LeadingTo) -> None:
    # Connecting to it would look it up, and nobody would judge what comes out.
    with pytest.raises(BlockedAddressError):
        leading_to(PUBLIC, "internal.example.com").check("https://example.com/")


@pytest.mark.parametrize(
    ("entry", "url", "answer", "allowed"),
    [
        (HostPort("localhost", 9000), "http://localhost:9000/", "127.0.0.1", True),
        (HostPort("localhost", 9000), "http://LocalHost:9000/", "127.0.0.1", True),
        (HostPort("LOCALHOST", 9000), "http://localhost.:9000/", "::1", True),
        (HostPort("localhost", 9000), "https://localhost:9000/", "127.0.0.1", True),
        (HostPort("localhost", 443), "https://localhost/", "127.0.0.1", True),
        (HostPort("localhost", 9000), "http://localhost:9001/", "127.0.0.1", False),
        (HostPort("localhost", 9000), "http://localhost/", "127.0.0.1", False),
        (HostPort("localhost", 9000), "http://other:9000/", "127.0.0.1", False),
        (HostPort("localhost", 9000), "http://a.localhost:9000/", "127.0.0.1", False),
        (HostPort("localhost", 9000), "http://127.0.0.1:9000/", "127.0.0.1", False),
        (HostPort("localhost", 9000), "http://user@localhost:9000/", "127.0.0.1", False),
        (HostPort("localhost", 9000), "ftp://localhost:9000/", "127.0.0.1", False),
        (HostPort("2130706433", 80), "http://2130706433/", "127.0.0.1", False),
        (HostPort("127.0.0.1", 80), "http://127.0.0.1/", "", True),
        (HostPort("127.0.0.1", 80), "http://127.1/", "127.0.0.1", False),
        (HostPort("::1", 80), "http://[::1]/", "", True),
        (HostPort("[::1]", 80), "http://[0:0::1]/", "", True),
        (IPv4Network("10.1.0.0/16"), "http://example.com/", "10.1.2.3", True),
        (IPv4Network("10.1.0.0/16"), "http://10.1.2.3:81/", "", True),
        (IPv4Network("10.1.0.0/16"), "http://example.com/", "10.2.0.1", False),
        (IPv4Network("10.1.0.0/16"), "http://example.com/", "::ffff:10.1.2.3", True),
        (IPv4Network("10.1.0.0/16"), "http://example.com/", "64:ff9b::10.1.2.3", False),
        (IPv4Network("0.0.0.0/0"), "http://example.com/", "::1", False),
        (IPv6Network("::/0"), "http://example.com/", "::ffff:10.0.0.1", False),
        (IPv6Network("fd00::/8"), "http://example.com/", "fd12::1", True),
        (IPv6Network("64:ff9b::/96"), "http://example.com/", "64:ff9b::101:101", True),
    ],
)
def test_only_what_is_listed_may_be_private(
    entry: HostPort | Network, url: str, answer: str, allowed: bool, leading_to: LeadingTo
) -> None:
    outbound = leading_to(answer, allow_private=[entry])
    if allowed:
        outbound.check(url)
    else:
        with pytest.raises(BlockedAddressError):
            outbound.check(url)


@pytest.mark.parametrize(
    ("entry", "host", "allowed"),
    [
        ("example.com", "example.com", True),
        ("Example.COM", "eXample.com", True),
        ("example.com", "example.com.", True),
        ("example.com", "www.example.com", False),
        ("example.com", "notexample.com", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.EXAMPLE.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "notexample.com", False),
        ("*.example.com", "example.com.evil.test", False),
        ("*", "example.com", False),
        ("*.", "example.com", False),
        ("93.184.215.14", "93.184.215.14", True),
    ],
)
def test_a_list_of_hosts_allows_those_alone(
    entry: str, host: str, allowed: bool, leading_to: LeadingTo, asked: list[str]
) -> None:
    outbound = leading_to(PUBLIC)
    if allowed:
        outbound.check(f"https://{host}/", hosts=["other.test", entry])
        return
    with failing("host_not_allowed", "not among the hosts"):
        outbound.check(f"https://{host}/", hosts=["other.test", entry])
    assert asked == []


def test_a_listed_host_is_no_exception_from_the_block(leading_to: LeadingTo) -> None:
    with failing("blocked_address"):
        leading_to("127.0.0.1").check("http://a.test/", hosts=["a.test"])
