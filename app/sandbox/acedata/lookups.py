"""Ace Data Cloud's task endpoint, `POST /openai/tasks`."""

from collections.abc import Callable
from typing import Any

from app.sandbox import fields
from app.sandbox.acedata import envelopes
from app.sandbox.edits import bad_request
from app.sandbox.fields import Fields
from app.sandbox.ledger import Ledger, Task

_MAX_LIMIT = 1000


def answer(ledger: Ledger, given: Fields) -> dict[str, Any]:
    """What the fields of a lookup ask for; raises `ProviderError`, a 400."""
    if fields.choice(given, "action", "retrieve", "retrieve_batch") == "retrieve":
        return _retrieve(ledger, given)
    return _retrieve_batch(ledger, given)


def _retrieve(ledger: Ledger, given: Fields) -> dict[str, Any]:
    task_id, trace_id = fields.text(given, "id"), fields.text(given, "trace_id")
    if not task_id and not trace_id:
        raise bad_request("id or trace_id is missing")
    task = ledger.find(task_id=task_id, trace_id=trace_id)
    return envelopes.looked_up(task) if task else {}


def _retrieve_batch(ledger: Ledger, given: Fields) -> dict[str, Any]:
    # The documentation says nothing of order and `count`: here newest first, and all that were found.
    found = ledger.select(_wanted(given))
    offset = fields.integer(given, "offset", 0, 10**9) or 0
    limit = fields.integer(given, "limit", 0, _MAX_LIMIT)
    items = found[offset : offset + (12 if limit is None else limit)]
    return {"items": [envelopes.looked_up(task) for task in items], "count": len(found)}


def _wanted(given: Fields) -> Callable[[Task], bool]:
    ids, trace_ids = fields.strings(given, "ids"), fields.strings(given, "trace_ids")
    owner = fields.text(given, "application_id") or fields.text(given, "user_id")
    if not (ids or trace_ids or owner):
        raise bad_request("ids, trace_ids, application_id or user_id is missing")
    kinds = {None, "images", envelopes.TASK_TYPE}
    of_kind = fields.text(given, "type") in kinds
    low = fields.number(given, "created_at_min", 0)
    high = fields.number(given, "created_at_max", float("inf"))
    ids, trace_ids = frozenset(ids), frozenset(trace_ids)

    def wanted(task: Task) -> bool:
        named = task.id in ids or task.trace_id in trace_ids or owner == envelopes.OWNER
        return named and of_kind and low <= task.created_at <= high

    return wanted
