"""What settings are written like: durations, sizes, lists, addresses."""

import re
from base64 import b64decode
from collections.abc import Callable
from decimal import Decimal
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import limits
from pydantic import AfterValidator, BeforeValidator, Field
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_DURATION_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# Longer than anything is kept or waited for; clocks and calendars end not much later.
_CENTURY = 36_500 * 86_400.0
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(KiB|MiB|GiB)?")
_SIZE_UNITS = {None: 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


# Names, and addresses with colons; what else there may be is for the resolver to refuse.
_HOST = re.compile(r"[\w.:-]+")
# As with a key of 128 bits.
WEBHOOK_SECRET_BYTES = 16
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
# Of the 1,024 that S3 takes for a key.
_PREFIX_BYTES = 800


class HostPort(NamedTuple):
    """A host, by the name that a URL gives it, and one port of it."""

    host: str
    port: int


def duration(value: str) -> float:
    """The seconds that a duration stands for.  Raises `ValueError`, which says the rule."""
    match = _DURATION.fullmatch(value.strip())
    seconds = float(match[1]) * _DURATION_UNITS[match[2]] if match else 0
    if seconds <= 0:
        raise ValueError("expected a positive number of seconds, or one with ms, s, m, h or d")
    return min(seconds, _CENTURY)


def _size(value: str) -> int:
    match = _SIZE.fullmatch(value.strip())
    # As a decimal: a float knows the largest numbers only roughly.
    size = int(Decimal(match[1]) * _SIZE_UNITS[match[2]]) if match else 0
    if size <= 0:
        raise ValueError("expected a positive number of bytes, or one with KiB, MiB or GiB")
    return size


def _http_url(value: str) -> str:
    rule = "expected a URL that begins with http:// or https:// and names a host"
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{rule}: {error}") from None
    if parts.scheme not in {"http", "https"} or not host or not _HOST.fullmatch(host):
        raise ValueError(rule)
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("expected a URL without user name, query and fragment")
    return value.rstrip("/")


def _sentry_dsn(value: str) -> str:
    try:
        parts = urlsplit(value)
        complete = parts.scheme in {"http", "https"} and parts.hostname and parts.username
        project = parts.path.rpartition("/")[2]
    except ValueError:
        complete, project = None, ""
    if not complete or not re.fullmatch(r"[0-9]+", project):
        raise ValueError("expected https://key@host/project, as Sentry shows it")
    if find_spec("sentry_sdk") is None:
        raise ValueError("the package sentry-sdk is not installed: pip install sentry-sdk")
    return value


def _database_url(value: str) -> str:
    rule = "expected sqlite:///path/to/file or postgresql://user:password@host/name"
    try:
        make_url(value)
    except (ArgumentError, ValueError):
        raise ValueError(rule) from None
    scheme, _, rest = value.partition("://")
    if scheme in {"postgres", "postgresql", "postgresql+psycopg"} and rest:
        return f"postgresql+psycopg://{rest}"
    # In memory each connection would have a database of its own.
    if scheme == "sqlite" and rest.startswith("/") and rest not in {"/", "/:memory:"}:
        return value
    raise ValueError(rule)


def _bucket(value: str) -> str:
    if not _BUCKET.fullmatch(value):
        raise ValueError("expected 3 to 63 letters, digits, dots, hyphens or underscores")
    return value


def _prefix(value: str) -> str:
    segments = value.strip("/").split("/") if value.strip("/") else []
    odd = {"", ".", ".."}.intersection(segments) or not value.isprintable()
    if odd or len(value.encode()) > _PREFIX_BYTES:
        rule = f"printable names between single slashes, at most {_PREFIX_BYTES} bytes"
        raise ValueError(f"expected {rule}")
    return value


def _host_pattern(text: str) -> str:
    if not _HOST.fullmatch(text.removeprefix("*.")):
        raise ValueError(f"expected host names such as example.com or *.example.com, not {text!r}")
    return text


def _lower(value: str) -> str:
    return value.lower()


def _at_least_one(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values:
        raise ValueError("expected at least one duration")
    return values


def _private_host(text: str) -> HostPort | IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        host, port = _split_host_port(text)
        if not host or not port:
            rule = "expected host:port or an address range such as 10.0.0.0/8"
            raise ValueError(f"{rule}, not {text!r}") from None
        return HostPort(host, port)


def _split_host_port(text: str) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(f"//{text}")
        return (None, None) if parts.path else (parts.hostname, parts.port)
    except ValueError:
        return None, None


def _rate_limits(value: str) -> str:
    if value.lower() == "off":
        return "off"
    rule = "expected limits such as 1000 per second or 10/second;300/minute, or off"
    try:
        items = limits.parse_many(value)
    except ValueError:
        raise ValueError(rule) from None
    if not all(item.amount for item in items):
        raise ValueError(rule)
    return value


def _per_second(value: str) -> float | None:
    if value.lower() == "off":
        return None
    try:
        item = limits.parse(value)
    except ValueError:
        raise ValueError("expected a rate such as 10 per second or 90/minute, or off") from None
    if not item.amount:
        raise ValueError("expected at least one")
    return float(item.amount / item.get_expiry())


def _webhook_secret(value: str) -> str:
    prefix, _, encoded = value.partition("_")
    try:
        length = len(b64decode(encoded, validate=True)) if prefix == "whsec" else 0
    except ValueError:
        length = 0
    if length < WEBHOOK_SECRET_BYTES:
        raise ValueError(
            f"expected whsec_ and at least {WEBHOOK_SECRET_BYTES} random bytes in base64; "
            'make one: echo "whsec_$(openssl rand -base64 32)"'
        )
    return value


def _split(separator: str, parse: Callable[[str], Any] = str) -> BeforeValidator:
    return BeforeValidator(
        lambda value: tuple(parse(item) for item in re.split(separator, value.strip()) if item)
    )


Seconds = Annotated[float, BeforeValidator(duration)]
Bytes = Annotated[int, BeforeValidator(_size)]
Count = Annotated[int, Field(gt=0)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Names = Annotated[tuple[str, ...], _split(r"\s*,\s*")]
# Never shown: not in a repr, not in an error.
Secret = Annotated[str, Field(repr=False)]
Days = Annotated[
    float, Field(gt=0, allow_inf_nan=False), AfterValidator(lambda days: min(days, 36_500.0))
]
WebhookSecret = Annotated[str, AfterValidator(_webhook_secret)]
SentryDsn = Annotated[str, AfterValidator(_sentry_dsn)]
OptionalSecret = Annotated[str | None, Field(repr=False)]
Bucket = Annotated[str, AfterValidator(_bucket)]
Prefix = Annotated[str, AfterValidator(_prefix)]
Hosts = Annotated[tuple[str, ...], _split(r"\s*,\s*", _host_pattern)]
PrivateHosts = Annotated[
    tuple[HostPort | IPv4Network | IPv6Network, ...], _split(r"\s*,\s*", _private_host)
]
Durations = Annotated[tuple[float, ...], _split(r"[\s,]+", duration), AfterValidator(_at_least_one)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url), Field(repr=False)]
PerSecond = Annotated[float | None, BeforeValidator(_per_second)]
RateLimits = Annotated[str, AfterValidator(_rate_limits)]
# Before a choice between words: people write them in capitals, too.
AnyCase = BeforeValidator(_lower)
