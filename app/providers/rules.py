"""What a provider allows in a request, as data: validation and documentation read the same."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from app.errors import InvalidFieldError

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_SHOWN = 80


class Kind(Protocol):
    """What the value of a field may be; `str()` of it says so to a person."""

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""


@dataclass(frozen=True)
class Text:
    """A string of at most `longest` characters, not blank."""

    longest: int

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        return isinstance(value, str) and bool(value.strip()) and len(value) <= self.longest

    def __str__(self) -> str:
        return f"text of 1 to {self.longest} characters"


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`."""

    low: int
    high: int

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        return value in self.words

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


@dataclass(frozen=True)
class AnySize:
    """WIDTHxHEIGHT in pixels, or auto."""

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        return value == "auto" or (isinstance(value, str) and bool(_SIZE.fullmatch(value)))

    def __str__(self) -> str:
        return "WIDTHxHEIGHT in pixels, or auto"


@dataclass(frozen=True)
class FreeSize:
    """WIDTHxHEIGHT within limits on multiple, long side, pixels and ratio; or auto."""

    multiple: int
    longest: int
    fewest_pixels: int
    most_pixels: int
    ratio: int

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        if value == "auto":
            return True
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if not match:
            return False
        short, long = sorted((int(match[1]), int(match[2])))
        return (
            math.gcd(short, long) % self.multiple == 0
            and long <= self.longest
            and self.fewest_pixels <= short * long <= self.most_pixels
            and long <= short * self.ratio
        )

    def __str__(self) -> str:
        return (
            f"auto or WIDTHxHEIGHT with both sides multiples of {self.multiple}, the long side at most "
            f"{self.longest}, {self.fewest_pixels:,} to {self.most_pixels:,} pixels, "
            f"and a ratio of at most {self.ratio}:1"
        )


@dataclass(frozen=True)
class ImageUrls:
    """One http(s) URL, or a list of up to `most`."""

    most: int

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        urls = value if isinstance(value, list) else [value]
        return 1 <= len(urls) <= self.most and all(_is_http_url(url) for url in urls)

    def __str__(self) -> str:
        return f"an http(s) URL, or a list of 1 to {self.most} of them"


@dataclass(frozen=True)
class FileOnly:
    """A file of a form: nothing that JSON could say."""

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        del value
        return False

    def __str__(self) -> str:
        return "a file, in a form"


@dataclass(frozen=True)
class Labels:
    """An object of at most `most` names, with strings of at most `longest` characters."""

    most: int
    longest: int

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        if not isinstance(value, dict) or len(value) > self.most:
            return False
        return all(isinstance(item, str) and len(item) <= self.longest for item in value.values())

    def __str__(self) -> str:
        return (
            f"an object of at most {self.most} names with text of at most {self.longest} characters"
        )


@dataclass(frozen=True)
class Needs:
    """A field, or one `value` of it, that goes only with certain values of another field."""

    field: str
    value: Any
    other: str
    others: tuple[Any, ...]
    # What the other field is when the request does not say.
    default: Any

    def broken_by(self, fields: Mapping[str, Any]) -> bool:
        """Whether `fields` has this without what it needs."""
        if self.field not in fields or self.value not in {None, fields[self.field]}:
            return False
        return fields.get(self.other, self.default) not in self.others

    def __str__(self) -> str:
        subject = self.field if self.value is None else f"{self.field}={self.value}"
        return f"{subject} needs {self.other} to be {' or '.join(map(str, self.others))}"


@dataclass(frozen=True)
class Rules:
    """What one provider allows: for any model, for some by name, and between fields."""

    required: tuple[str, ...]
    fields: Mapping[str, Kind]
    models: Mapping[str, Mapping[str, Kind]] = field(default_factory=dict)
    needs: tuple[Needs, ...] = ()

    def for_model(self, model: Any) -> Mapping[str, Kind]:
        """The kinds that hold for `model`; a model that is not named here has only the general ones."""
        return {**self.fields, **self.models.get(model if isinstance(model, str) else "", {})}

    def check(self, fields: Mapping[str, Any]) -> None:
        """Raise `InvalidFieldError` for the first of `fields` that breaks a rule.

        A field that is not named here passes: providers add parameters.
        """
        kinds = self.for_model(fields.get("model"))
        for name in self.required:
            if name not in fields:
                raise InvalidFieldError(name, f"{name} is missing: expected {kinds[name]}")
        for name, value in fields.items():
            if name in kinds and not kinds[name].allows(value):
                raise InvalidFieldError(name, f"{name}: expected {kinds[name]}, not {_show(value)}")
        for need in self.needs:
            if need.broken_by(fields):
                raise InvalidFieldError(
                    need.field, f"{need}, not {_show(fields.get(need.other, need.default))}"
                )


def _is_http_url(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}... ({len(shown)} characters)"
