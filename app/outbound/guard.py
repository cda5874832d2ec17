"""Which URLs and addresses may be reached: pure judgement, without a lookup or a connection."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from app.config import HostPort
from app.errors import BlockedAddressError

Network = IPv4Network | IPv6Network

DEFAULT_PORTS = {"http": 80, "https": 443}

# All of version 6 that is given out for public use.  Outside it, and so in no need of an entry
# below: loopback, v4-mapped and v4-compatible, both NAT64 prefixes, discard, 5f00::/16, unique
# local, link-local, site-local, multicast.
_GLOBAL_UNICAST = IPv6Network("2000::/3")

# By list, because Python's `is_global` holds for 6to4, 192.88.99.1, multicast and 168.63.129.16.
_BLOCKED = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers; metadata of one cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # public by number, but the inside of one cloud: its metadata
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "2001::/23",  # protocol assignments; Teredo, which wraps a v4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which wraps a v4 address
        "3fff::/20",  # documentation
    )
)

# Strict, where URL parsers are generous: no percent sign (so no zone), no letter that is not ASCII.
_LABEL = r"[A-Za-z0-9_-]{1,63}"
_AUTHORITY = re.compile(
    r"(?P<user>.*@)?"
    rf"(?:\[(?P<v6>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)\]|(?P<name>{_LABEL}(?:\.{_LABEL})*\.?))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
# What `inet_aton`, and so many a resolver, takes for a part of an address.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
# All of printable ASCII: what a URL already has stays byte for byte, because signatures cover it.
_AS_IT_IS = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True)
class Target:
    """A URL that the guard can read: `host` in lower case, without brackets and trailing dot.

    `path` is what the request line asks for, with the query.
    """

    scheme: str
    host: str
    port: int
    path: str = field(repr=False)

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them; what error messages name."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Whom a header that was meant for this URL may also be told."""
        return self.scheme, self.host, self.port

    @property
    def is_address(self) -> bool:
        """Whether the host is an address itself, so that there is nothing to look up."""
        return _address(self.host) is not None


def parse(url: str) -> Target:
    """The parts of `url`: the one reading on which both the check and the connection rest.

    Raises `BlockedAddressError` for whatever is not a plain http(s) URL.
    """
    parts = _split(url)
    match = _AUTHORITY.fullmatch(parts.netloc)
    if not match:
        raise BlockedAddressError("The URL is refused: its host is no plain ASCII name or address")
    host = _host(match["v6"], match["name"])
    if parts.scheme not in DEFAULT_PORTS:
        raise BlockedAddressError(f"{host} is refused: the URL is neither http nor https")
    if match["user"]:
        raise BlockedAddressError(f"{host} is refused: the URL names a user")
    port = int(match["port"] or DEFAULT_PORTS[parts.scheme])
    if not 0 < port < 65536:
        raise BlockedAddressError(f"{host} is refused: there is no port {port}")
    return Target(parts.scheme, host, port, _path(parts))


def follow(url: str, location: str) -> str:
    """The URL that a `Location` header leads to from `url`; raises `BlockedAddressError`."""
    # Servers that do not escape send UTF-8, of which http.client makes a letter from each byte.
    location = re.sub(r"[\x80-\xff]", _escaped, location.strip(" \t"))
    _require_plain(location)
    try:
        return urljoin(url, location)
    except ValueError:
        raise BlockedAddressError("The redirect is refused: it leads to no valid URL") from None


def require_host(target: Target, hosts: Sequence[str]) -> None:
    """Raise `BlockedAddressError` with code `host_not_allowed` unless `hosts` is empty or has it.

    An entry is a name, or `*.example.com` for every host under that one.
    """
    if hosts and not any(_covers(canonical(entry), target.host) for entry in hosts):
        raise BlockedAddressError(
            f"{target.host} is not among the hosts that are allowed", code="host_not_allowed"
        )


def canonical(host: str) -> str:
    """The one spelling of a host: lower case, no brackets or trailing dot, v6 in its short form."""
    bare = host.lower().removeprefix("[").removesuffix("]").removesuffix(".")
    return str(_address(bare) or bare)


class Guard:
    """Judges addresses; `allow_private` lists what may be reached although it is not public."""

    def __init__(self, allow_private: Sequence[HostPort | Network] = ()) -> None:
        self._hosts = {
            (canonical(entry.host), entry.port)
            for entry in allow_private
            if isinstance(entry, HostPort)
        }
        self._networks = [entry for entry in allow_private if not isinstance(entry, HostPort)]

    def admit(self, target: Target, answers: Sequence[str]) -> list[str]:
        """The addresses to connect to for `target`: all of `answers`, in their order.

        Raises `BlockedAddressError` if a single one of them may not be reached: a name that leads
        to our own network as well is not to be trusted with the choice.
        """
        addresses = [_address(answer) for answer in answers]
        trusted = (target.host, target.port) in self._hosts
        admitted = [str(each) for each in addresses if each and (trusted or self._reachable(each))]
        if len(admitted) < len(addresses):
            raise BlockedAddressError(f"{target.authority} is refused: its address is not public")
        return admitted

    def _reachable(self, address: IPv4Address | IPv6Address) -> bool:
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        plain = mapped or address
        return is_public(plain) or any(plain in network for network in self._networks)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether `address` belongs to the public internet; one that wraps another never does."""
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return not any(address in network for network in _BLOCKED)


def _split(url: str) -> SplitResult:
    _require_plain(url)
    try:
        return urlsplit(url)
    except ValueError:
        raise BlockedAddressError("The URL is refused: it is not valid") from None


def _require_plain(url: str) -> None:
    # Before any parsing: parsers drop or reinterpret these, each in its own way.
    if not url.isprintable() or " " in url or "\\" in url:
        raise BlockedAddressError(
            "The URL is refused: it has a space, a control character or a backslash"
        )


def _host(v6: str | None, name: str | None) -> str:
    text = v6 or name or ""
    last = text.removesuffix(".").rpartition(".")[2]
    if v6 or _NUMBER.fullmatch(last):
        address = _address(text)
        if address is None:
            raise BlockedAddressError(f"{text} is refused: it is no address in its plain spelling")
        return str(address)
    return canonical(text)


def _path(parts: SplitResult) -> str:
    path = parts.path or "/"
    return quote(f"{path}?{parts.query}" if parts.query else path, safe=_AS_IT_IS)


def _escaped(letter: re.Match[str]) -> str:
    return f"%{ord(letter[0]):02X}"


def _covers(entry: str, host: str) -> bool:
    return host.endswith(entry[1:]) if entry.startswith("*.") else host == entry


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
