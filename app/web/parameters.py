"""Reading what comes in a query string or a JSON body; bad input names the field and the rule."""

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from flask import request
from werkzeug.wrappers import Request

from app.errors import InvalidFieldError
from app.web.envelope import HttpError
from app.web.intake import incoming
from app.web.objects import MAX_JSON_BYTES, read_object
from app.web.state import upload_budget

E = TypeVar("E", bound=StrEnum)

DEFAULT_LIMIT = 50
MAX_LIMIT = 100


def json_object() -> dict[str, Any]:
    """The JSON object in the body.  Raises `HttpError`."""
    if request.mimetype != "application/json":
        raise HttpError(
            "unsupported_media_type",
            f"Content-Type: expected application/json, not {request.mimetype or 'none'!r}",
        )
    # Not Flask's own: that one has a limit for the forms of pages.
    plain = Request(request.environ, populate_request=False)
    with incoming(plain, MAX_JSON_BYTES, upload_budget()) as pieces:
        return read_object(pieces)


def text(name: str) -> str | None:
    """A parameter as it is; empty means none."""
    return request.args.get(name) or None


def word(name: str, words: type[E]) -> E | None:
    """A parameter that is one of `words`."""
    value = text(name)
    if value is None:
        return None
    try:
        return words(value)
    except ValueError:
        raise InvalidFieldError(
            name, f"{name}: expected one of {', '.join(words)}, not {value!r}"
        ) from None


def uuid(name: str) -> UUID | None:
    """A parameter that is a UUID."""
    value = text(name)
    if value is None:
        return None
    try:
        return UUID(value)
    except ValueError:
        raise InvalidFieldError(name, f"{name}: expected a UUID, not {value!r}") from None


def time(name: str) -> datetime | None:
    """A parameter that is a time by RFC 3339; without an offset it is UTC."""
    value = text(name)
    return None if value is None else as_time(name, value)


def as_time(name: str, value: object) -> datetime:
    """The time that the value of a field is."""
    rule = "expected a time such as 2026-11-20T08:31:26.577Z"
    if not isinstance(value, str):
        raise InvalidFieldError(name, f"{name}: {rule}, not {value!r}")
    try:
        # The plus sign of an offset that was not escaped arrives as a blank.
        at = datetime.fromisoformat(re.sub(r"(T.*) (\d\d:\d\d)$", r"\1+\2", value.upper()))
    except ValueError:
        raise InvalidFieldError(name, f"{name}: {rule}, not {value!r}") from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    if at.year < 1971:
        raise InvalidFieldError(name, f"{name}: {rule}, not before 1971")
    return at


def limit() -> int:
    """How many items a page has."""
    return whole_number("limit", MAX_LIMIT) or DEFAULT_LIMIT


def whole_number(name: str, highest: int) -> int | None:
    """A parameter that is a whole number from 1 to `highest`."""
    value = text(name)
    if value is None:
        return None
    if not re.fullmatch(r"\d{1,9}", value) or not 1 <= int(value) <= highest:
        raise InvalidFieldError(
            name, f"{name}: expected a whole number from 1 to {highest}, not {value!r}"
        )
    return int(value)
