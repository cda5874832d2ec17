"""What the value of a field may be: as a check, as how a form writes it, and as JSON Schema."""

import json
import re
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

Schema = dict[str, Any]

_INTEGER = re.compile(r"-?[0-9]{1,18}")


class Kind(Protocol):
    """What the value of a field may be; `str()` of it says so to a person."""

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""

    def parse(self, text: str) -> Any:
        """The value that `text`, a field of a form, means; `text` itself when it means none."""

    def schema(self) -> Schema:
        """The same as JSON Schema (2020-12)."""


class _AsText:
    """Values that are text in JSON, too."""

    def parse(self, text: str) -> Any:
        """The text itself."""
        return text


@dataclass(frozen=True)
class Text(_AsText):
    """A string of at most `longest` characters, not blank."""

    longest: int

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        return isinstance(value, str) and bool(value.strip()) and len(value) <= self.longest

    def schema(self) -> Schema:
        """The same as JSON Schema."""
        return {"type": "string", "minLength": 1, "maxLength": self.longest, "pattern": r"\S"}

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

    def parse(self, text: str) -> Any:
        """A number that is written in digits."""
        return int(text) if _INTEGER.fullmatch(text) else text

    def schema(self) -> Schema:
        """The same as JSON Schema."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        return isinstance(value, bool)

    def parse(self, text: str) -> Any:
        """`true` or `1`, `false` or `0`, in letters of any case."""
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)

    def schema(self) -> Schema:
        """The same as JSON Schema."""
        return {"type": "boolean"}

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Choice(_AsText):
    """One of a few words."""

    words: tuple[str, ...]

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        return value in self.words

    def schema(self) -> Schema:
        """The same as JSON Schema."""
        return {"type": "string", "enum": list(self.words)}

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


@dataclass(frozen=True)
class ImageUrls:
    """One http(s) URL, or a list of up to `most`."""

    most: int

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        urls = value if isinstance(value, list) else [value]
        return 1 <= len(urls) <= self.most and all(_is_http_url(url) for url in urls)

    def parse(self, text: str) -> Any:
        """A URL, or a JSON array."""
        return _from_json(text, list)

    def schema(self) -> Schema:
        """The same as JSON Schema."""
        url = {"type": "string", "format": "uri", "pattern": "^https?://[^/]"}
        return {
            "oneOf": [url, {"type": "array", "items": url, "minItems": 1, "maxItems": self.most}]
        }

    def __str__(self) -> str:
        return (
            "an http(s) URL" if self.most == 1 else f"an http(s) URL, or 1 to {self.most} in a list"
        )


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

    def parse(self, text: str) -> Any:
        """A JSON object."""
        return _from_json(text, dict)

    def schema(self) -> Schema:
        """The same as JSON Schema."""
        return {
            "type": "object",
            "maxProperties": self.most,
            "additionalProperties": {"type": "string", "maxLength": self.longest},
        }

    def __str__(self) -> str:
        return (
            f"an object of at most {self.most} names with text of at most {self.longest} characters"
        )


@dataclass(frozen=True)
class FileOnly(_AsText):
    """A file of a form: nothing that JSON, or the text of a form, could say."""

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        del value
        return False

    def schema(self) -> Schema:
        """The same as JSON Schema."""
        return {"not": {}}

    def __str__(self) -> str:
        return "a file, in a form"


@dataclass(frozen=True)
class Nothing(_AsText):
    """A field that a model does not have."""

    def allows(self, value: Any) -> bool:
        """Whether `value` is one."""
        del value
        return False

    def schema(self) -> Schema:
        """The same as JSON Schema."""
        return {"not": {}}

    def __str__(self) -> str:
        return "none, which this model does not have"


def _is_http_url(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _from_json(text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, kind) else text
