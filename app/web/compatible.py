"""`POST /openai/tasks`: the provider's lookup, answered from our store."""

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app import lookalikes
from app.errors import InvalidFieldError
from app.lookalikes import Wanted
from app.models import Scope
from app.web import parameters
from app.web.auth import requires
from app.web.state import services

bp = Blueprint("compatible", __name__)

ACTIONS = ("retrieve", "retrieve_batch")
# The provider's own, when none is given.
LIMIT = 12
MAX_LIMIT = 1000
MAX_OFFSET = 10**9
MAX_IDS = 1000


@bp.post("/openai/tasks")
@requires(Scope.READ)
def tasks() -> ResponseReturnValue:
    """One task or several, as the provider shows them."""
    given = parameters.json_object()
    action = given.get("action", "retrieve")
    if action not in ACTIONS:
        raise _expected("action", f"one of {', '.join(ACTIONS)}", action)
    with services().db.reading() as session:
        if action == "retrieve":
            id_, trace_id = _text(given, "id"), _text(given, "trace_id")
            if not id_ and not trace_id:
                raise InvalidFieldError("id", "id: expected it or trace_id")
            return jsonify(lookalikes.retrieve(services(), session, id_, trace_id))
        wanted = Wanted(
            ids=_texts(given, "ids"),
            trace_ids=_texts(given, "trace_ids"),
            type=_text(given, "type"),
            created_at_min=_number(given, "created_at_min"),
            created_at_max=_number(given, "created_at_max"),
        )
        offset = _count(given, "offset", 0, MAX_OFFSET)
        limit = _count(given, "limit", LIMIT, MAX_LIMIT)
        return jsonify(
            lookalikes.retrieve_batch(services(), session, wanted, offset=offset, limit=limit)
        )


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise _expected(name, "text", value)
    return value


def _texts(given: Mapping[str, Any], name: str) -> Sequence[str] | None:
    value = given.get(name)
    if value is None:
        return None
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_IDS or not all(isinstance(item, str) for item in items):
        raise _expected(name, f"a list of at most {MAX_IDS} texts", value)
    return items


def _number(given: Mapping[str, Any], name: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _expected(name, "seconds since 1970", value)
    # No time is beyond that, and a whole number may be too large for a float.
    return float(min(max(value, 0), 10**12))


def _count(given: Mapping[str, Any], name: str, default: int, most: int) -> int:
    value = given.get(name, default)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise _expected(name, f"a whole number from 0 to {most}", value)
    return value


def _expected(name: str, rule: str, value: object) -> InvalidFieldError:
    return InvalidFieldError(name, f"{name}: expected {rule}, not {str(value)[:100]!r}")
