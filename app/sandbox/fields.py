"""The fields of a request, which a form gives as text and JSON with a type."""

import re
from collections.abc import Collection, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from werkzeug import Request

from app.errors import ProviderError
from app.sandbox.edits import bad_request

Fields = Mapping[str, Any]

# A prompt of 32,000 characters, sixteen long links, and what providers add.
_MAX_JSON_BYTES = 2**20


def read(request: Request) -> Fields:
    """The fields of a JSON or form request, without files; raises `ProviderError`, a 400 or 413."""
    if request.mimetype == "multipart/form-data":
        return request.form.to_dict()
    if (request.content_length or 0) > _MAX_JSON_BYTES:
        message = f"JSON of {request.content_length} bytes is larger than {_MAX_JSON_BYTES}"
        raise ProviderError(message, code="bad_request", status=413)
    fields = request.get_json(force=True, silent=True)
    if not isinstance(fields, dict):
        raise bad_request("the body is neither a JSON object nor a form")
    return cast(dict[str, Any], fields)


def text(fields: Fields, name: str) -> str | None:
    """The text of that name, None when it is missing or empty; raises `ProviderError`, a 400."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_request(f"{name} must be a string")
    return value or None


def flag(fields: Fields, name: str) -> bool:
    """Whether that field is true, in JSON or as a form says it."""
    return str(fields.get(name, "")).lower() in {"true", "1"}


def integer(fields: Fields, name: str, low: int, high: int) -> int | None:
    """The number of that name, None when it is missing.

    Raises `ProviderError`, a 400, when it is no integer from `low` to `high`.
    """
    value = fields.get(name)
    if value is None or value == "":
        return None
    if not re.fullmatch(r"-?\d{1,9}", str(value)):
        raise bad_request(f"{name} must be an integer, not {value!r}")
    if not low <= int(value) <= high:
        raise bad_request(f"{name} must be from {low} to {high}, not {value}")
    return int(value)


def number(fields: Fields, name: str, default: float) -> float:
    """The number of that name; raises `ProviderError`, a 400."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad_request(f"{name} must be a number, not {value!r}")
    return value


def choice(fields: Fields, name: str, *choices: str) -> str:
    """The value of that field, the first of `choices` when it is missing.

    Raises `ProviderError`, a 400, when it is none of them.
    """
    value = text(fields, name) or choices[0]
    if value not in choices:
        raise bad_request(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value


def strings(fields: Fields, name: str) -> Collection[str]:
    """The list of strings of that name, empty when it is missing; raises `ProviderError`, a 400."""
    value = fields.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise bad_request(f"{name} must be an array of strings")
    return value


def link(fields: Fields, name: str) -> str | None:
    """The http(s) URL of that name, None when it is missing; raises `ProviderError`, a 400."""
    value = text(fields, name)
    if value is not None and not is_link(value):
        raise bad_request(f"{name} must be an http(s) URL, not {value!r}")
    return value


def is_link(value: Any) -> bool:
    """Whether that is the text of an http(s) URL."""
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        # To ask for a port that is none raises ValueError.
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
