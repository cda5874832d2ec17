"""What each view takes and gives, beside what its docstring and its access say already.

A route without a row here fails a test: add one when you add a view.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.models import TaskStatus, Verdict
from app.providers.rules import Schema
from app.web.openapi.schemas import (
    ID,
    INTEGER,
    OBJECT,
    TEXT,
    TIME,
    page_of,
    ref,
    shape,
    words,
)
from app.web.parameters import DEFAULT_LIMIT, MAX_LIMIT

JSON = "application/json"
SSE = "text/event-stream"
BYTES = "application/octet-stream"
HTML = "text/html"


class Tag(StrEnum):
    """The chapters of the documentation, in their order."""

    SUBMITTING = "Submitting"
    LOOKING_UP = "Looking up"
    ACTING = "Acting on a task"
    PUSHING = "Pushing"
    RECEIVING = "Receiving"
    RUNNING = "Running"


@dataclass(frozen=True)
class Operation:
    """One view: the media types of what it gives with their shapes, and of what it takes.

    `also` are further answers with their meaning, `alike` those of them that have the same shape as
    the first; errors that follow from access, parameters and bodies need no mention.
    """

    tag: Tag
    gives: Mapping[str, Schema] = field(default_factory=dict)
    status: int = 200
    query: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)
    takes: Mapping[str, Schema] = field(default_factory=dict)
    also: Mapping[int, str] = field(default_factory=dict)
    alike: tuple[int, ...] = ()


PAGING = {
    "limit": {**INTEGER, "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    "cursor": {**ID, "description": "The next_cursor of the page before."},
}
_TASK = {JSON: ref("Task")}
_CONFLICT = {409: "The task is in no state for that."}
_STREAM = {SSE: {**TEXT, "description": "Events `task`; their data is a task's short form."}}
_RESUME = {"Last-Event-ID": {**TEXT, "description": "Go on after this event; nothing is missed."}}

OPERATIONS: Mapping[str, Operation] = {
    # What it takes is made of the providers' rules.
    "submissions.submit": Operation(
        Tag.SUBMITTING,
        {
            JSON: {"anyOf": [ref("Accepted"), ref("Result")]},
            SSE: {
                **TEXT,
                "description": "With stream: image_edit.partial_image, image_edit.completed, [DONE].",
            },
        },
        headers={
            "Idempotency-Key": {
                **TEXT,
                "maxLength": 255,
                "description": "The same key and body is the same edit, and gets the same answer "
                "with the header `Idempotent-Replayed: true`.",
            }
        },
        also={
            413: "Larger than MAX_UPLOAD_BYTES.",
            415: "Neither JSON nor a form.",
            422: "Another body under the same Idempotency-Key.",
            503: "Nothing was submitted; try again.",
            504: "The result is not there yet; the task, named in task_id, goes on.",
        },
    ),
    "lookups.task": Operation(
        Tag.LOOKING_UP,
        _TASK,
        query={
            "wait": {
                **INTEGER,
                "minimum": 1,
                "maximum": 60,
                "description": "Answer when the task has ended, or after so many seconds.",
            }
        },
        headers={"If-None-Match": TEXT},
        also={304: "Unchanged since the answer with that ETag."},
    ),
    "lookups.tasks": Operation(
        Tag.LOOKING_UP,
        {JSON: page_of("ShortTask")},
        query={
            "status": words(TaskStatus),
            "provider": TEXT,
            "model": TEXT,
            "trace_id": TEXT,
            "created_after": TIME,
            "created_before": TIME,
            "q": {**TEXT, "description": "The beginning of an id, or words of the prompt."},
            **PAGING,
        },
    ),
    "lookups.callbacks": Operation(
        Tag.LOOKING_UP,
        {JSON: page_of("Callback")},
        query={"verdict": words(Verdict), "task_id": TEXT, "created_after": TIME, **PAGING},
    ),
    "lookups.callback_body": Operation(Tag.LOOKING_UP, {BYTES: {}}),
    "compatible.tasks": Operation(
        Tag.LOOKING_UP,
        {JSON: OBJECT},
        takes={
            JSON: {
                **OBJECT,
                "description": "As Ace Data Cloud's own lookup takes it: an action, ids or trace_ids.",
                "properties": {
                    "action": {**TEXT, "enum": ["retrieve", "retrieve_batch"]},
                    "id": TEXT,
                    "trace_id": TEXT,
                    "ids": {"type": "array", "items": TEXT},
                    "trace_ids": {"type": "array", "items": TEXT},
                    "offset": INTEGER,
                    "limit": INTEGER,
                },
            }
        },
    ),
    "pictures.picture": Operation(
        Tag.LOOKING_UP,
        {"image/*": {}},
        also={
            206: "The range that was asked for.",
            302: "Where the bytes are.",
            425: "The image is being copied; try again after Retry-After.",
        },
    ),
    "stats.stats": Operation(
        Tag.LOOKING_UP,
        {JSON: ref("Stats")},
        query={
            "window": {**TEXT, "default": "24h", "description": "A duration, such as 1h or 7d."}
        },
    ),
    "actions.cancel": Operation(Tag.ACTING, _TASK, also=_CONFLICT),
    "actions.retry": Operation(Tag.ACTING, _TASK, also=_CONFLICT),
    "actions.reconcile": Operation(Tag.ACTING, _TASK, also=_CONFLICT),
    "actions.resubmit": Operation(Tag.ACTING, _TASK, also={503: "Nothing was submitted."}),
    "actions.delete": Operation(Tag.ACTING, status=204, also=_CONFLICT),
    "streams.task_events": Operation(Tag.PUSHING, _STREAM, headers=_RESUME),
    "streams.all_events": Operation(Tag.PUSHING, _STREAM, headers=_RESUME),
    "endpoints.create": Operation(
        Tag.PUSHING, {JSON: ref("Endpoint")}, 201, takes={JSON: ref("NewEndpoint")}
    ),
    "endpoints.endpoint_list": Operation(Tag.PUSHING, {JSON: page_of("Endpoint")}, query=PAGING),
    "endpoints.endpoint": Operation(Tag.PUSHING, {JSON: ref("Endpoint")}),
    "endpoints.change": Operation(
        Tag.PUSHING, {JSON: ref("Endpoint")}, takes={JSON: ref("EndpointChange")}
    ),
    "endpoints.delete": Operation(Tag.PUSHING, status=204),
    "endpoints.rotate_secret": Operation(Tag.PUSHING, {JSON: ref("Secret")}),
    "endpoints.test": Operation(Tag.PUSHING, {JSON: ref("Delivery")}),
    "endpoints.recover": Operation(
        Tag.PUSHING,
        {JSON: shape({"count": INTEGER})},
        takes={JSON: shape({"since": TIME})},
        also={409: "The endpoint is disabled."},
    ),
    "endpoints.delivery_list": Operation(Tag.PUSHING, {JSON: page_of("Delivery")}, query=PAGING),
    "endpoints.retry": Operation(
        Tag.PUSHING,
        {JSON: ref("Delivery")},
        also={409: "The endpoint is disabled, or the message no longer kept."},
    ),
    "receiver": Operation(
        Tag.RECEIVING,
        {JSON: ref("Verdict")},
        takes={JSON: ref("CallbackBody")},
        also={
            404: "The URL was not made here, has expired, or its task is gone.",
            413: "Larger than MAX_CALLBACK_BYTES.",
            422: "No result of this task.",
            503: "Nothing was taken; send it again.",
        },
    ),
    "health.healthz": Operation(Tag.RUNNING, {JSON: shape({"status": TEXT})}),
    "health.readyz": Operation(
        Tag.RUNNING,
        {JSON: shape({"status": TEXT, "database": TEXT, "storage": TEXT, "worker": TEXT})},
        also={503: "A part does not work; the answer names it."},
        alike=(503,),
    ),
    "metrics.metrics": Operation(
        Tag.RUNNING, {"text/plain": TEXT}, also={401: "Neither from this machine nor the token."}
    ),
    "pages.public_status": Operation(Tag.RUNNING, {HTML: TEXT}),
    "openapi.openapi": Operation(Tag.RUNNING, {JSON: OBJECT}),
    "openapi.docs": Operation(Tag.RUNNING, {HTML: TEXT}),
}
