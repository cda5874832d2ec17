"""Which URLs are refused for their spelling alone, wherever they may lead."""

import socket
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.errors import BlockedAddressError, NotSentError
from app.outbound import Outbound

LeadingTo = Callable[..., Outbound]

PUBLIC = "93.184.215.14"
EVERYWHERE = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

REFUSED_URLS = [
    # Schemes.
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "ws://example.com/",
    "unix:///var/run/docker.sock",
    "javascript:alert(1)",
    "//example.com/",
    "example.com",
    "/path",
    "",
    "http",
    "http:",
    "http:/example.com",
    "http:example.com",
    "http://",
    "http:///path",
    "http://?query",
    "http://:80/",
    # Users.
    "http://user@example.com/",
    "http://user:password@example.com/",
    "http://@example.com/",
    "http://:@example.com/",
    "http://example.com@127.0.0.1/",
    "http://example.com:80@127.0.0.1/",
    "http://127.0.0.1@example.com/",
    "http://a@b@example.com/",
    # Where parsers disagree on the end of the host.
    "http://127.0.0.1\\@example.com/",
    "http://example.com\\@127.0.0.1/",
    "http:\\\\127.0.0.1\\",
    "http://example.com\t/",
    "http://exam\nple.com/",
    "http://example.com\r\nHost: other/",
    " http://example.com/",
    "http://example.com/a b",
    "http://example.com/\x00",
    "http://example.com/\x7f",
    "http://example.com/\u2028",
    "http://example.com/\u00a0",
    "http://example.com/\ud800",
    "http://example.com%00.evil.test/",
    "http://example.com%2f@127.0.0.1/",
    "http://%31%32%37.0.0.1/",
    "http://example.com&@127.0.0.1/",
    "http://example.com;127.0.0.1/",
    # Names.
    "http://.example.com/",
    "http://example..com/",
    "http://example.com../",
    "http://./",
    f"http://{'a' * 64}.com/",
    "http://*.example.com/",
    "http://b\u00fccher.example/",
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
    "http://\uff11\uff12\uff17.0.0.1/",
    "http://127\u30020\u30020\u30021/",
    "http://\u0661\u0662\u0667.0.0.1/",
    "http://127.0.0.\u00b9/",
    # Numbers that are no dotted quad.
    "http://2130706433/",
    "http://134744072/",
    "http://0/",
    "http://0x7f000001/",
    "http://0X7F000001/",
    "http://0x7f.1/",
    "http://0x/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0177.0.0.01/",
    "http://08.08.08.08/",
    "http://127.1/",
    "http://127.0.1/",
    "http://8.8.8/",
    "http://8.8.8.8.8/",
    "http://8.8.8.256/",
    "http://8.8.8.8./",
    "http://8.8.8.0x8/",
    "http://example.com.1/",
    "http://00000008.8.8.8/",
    # Brackets.
    "http://[::1/",
    "http://::1/",
    "http://[]/",
    "http://[example.com]/",
    "http://[8.8.8.8]/",
    "http://[v1.fe80]/",
    "http://[2606:2800:21f::1]x/",
    "http://x[2606:2800:21f::1]/",
    "http://[fe80::1%25lo]/",
    "http://[fe80::1%lo]/",
    "http://[2606:2800:21f::1%251]/",
    "http://[1:2:3:4:5:6:7:8:9]/",
    # Ports.
    "http://example.com:0/",
    "http://example.com:65536/",
    "http://example.com:99999/",
    "http://example.com:-1/",
    "http://example.com:+80/",
    "http://example.com:8_0/",
    "http://example.com:\u0668\u0660/",
    "http://example.com:80:80/",
    "http://example.com:http/",
    "http://example.com:/",
]
ALLOWED_URLS = [
    ("http://example.com", "example.com"),
    ("https://example.com/", "example.com"),
    ("HTTPS://EXAMPLE.COM/Path", "example.com"),
    ("https://example.com./", "example.com"),
    ("https://example.com:8443/a?b=c#d", "example.com"),
    ("https://example.com?b=//127.0.0.1/", "example.com"),
    ("https://example.com/@127.0.0.1/", "example.com"),
    ("https://example.com#@127.0.0.1/", "example.com"),
    ("https://example.com/b\u00fccher", "example.com"),
    ("https://xn--bcher-kva.example/", "xn--bcher-kva.example"),
    ("https://under_score.example/", "under_score.example"),
    ("https://1e100.net/", "1e100.net"),
    ("https://0xdeadbeef.example/", "0xdeadbeef.example"),
    ("https://127.0.0.1.example/", "127.0.0.1.example"),
]


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_a_url_that_can_be_read_in_two_ways_is_refused_wherever_it_leads(
    url: str, leading_to: LeadingTo, asked: list[str]
) -> None:
    with pytest.raises(BlockedAddressError):
        leading_to(PUBLIC, allow_private=EVERYWHERE).check(url)
    assert asked == []
    # What may be secret is not repeated.
    with pytest.raises(BlockedAddressError) as caught:
        Outbound().check(f"{url}/p4th?token=s3cret#fr4gment")
    for secret in ("s3cret", "p4th", "fr4gment", "password", "user@"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize(("url", "host"), ALLOWED_URLS)
def test_the_host_that_is_looked_up_is_the_one_that_is_meant(
    url: str, host: str, leading_to: LeadingTo, asked: list[str]
) -> None:
    leading_to(PUBLIC).check(url)
    assert asked == [host]


# What URLs are made of, and what parsers of URLs have stumbled over.
PARTS = st.sampled_from(
    [
        *(
            "http://",
            "https://",
            "HTTP:",
            "::1",
            "ffff:",
            "127.0.0.1",
            "8.8.8.8",
            "localhost",
            "80",
        ),
        *("example.com", "0x7f", "0177", "1", "2130706433", "%2e", "%00", "\u3002", "\uff0e"),
        *("\uff11", "\u2024", "\ud800"),
        *"//\\@:?#.%[] \t\n\x00",
    ]
)
SPELLINGS = st.lists(PARTS, max_size=10).map("".join) | st.text()
URLS = SPELLINGS | SPELLINGS.map("http://{}".format)


@given(URLS)
@example("http://127.0.0.1/")
@example("http://8.8.8.8/")
@example("http://[2606:2800:21f::1]:80/")
@settings(max_examples=400, deadline=None)
def test_no_url_gets_in_where_every_name_leads_to_loopback(url: str) -> None:
    asked: list[str] = []

    def resolve(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    try:
        Outbound(resolve=resolve).check(url)
    except NotSentError:
        return
    # It passed: then as an address that is written out and public by any judgement.
    assert asked == []
    assert ip_address(urlsplit(url).hostname or "").is_global


SPELLED = st.sampled_from(["{}", "{:#x}", "0{:o}", "{:03}"])
NUMBERS = st.builds(str.format, SPELLED, st.integers(0, 300) | st.integers(0, 2**33))


@given(st.lists(NUMBERS, min_size=1, max_size=5).map(".".join))
@example("127.1")
@example("8.8.8.8")
@settings(max_examples=300, deadline=None)
def test_of_all_spellings_that_the_system_takes_for_an_address_one_is_allowed(host: str) -> None:
    try:
        Outbound(resolve=lambda _: [PUBLIC]).check(f"http://{host}/")
    except BlockedAddressError:
        return
    assert socket.inet_ntoa(socket.inet_aton(host)) == host
