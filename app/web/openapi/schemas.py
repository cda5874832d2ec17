"""The shapes of what goes in and comes out, as JSON Schema (2020-12), by their names."""

from collections.abc import Mapping
from typing import Any

from app.events import PUSHED
from app.models import (
    DeliveryStatus,
    ImageStatus,
    Source,
    TaskStatus,
    Verdict,
    Verification,
)
from app.providers.rules import Schema

TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
ID: Schema = {"type": "string", "format": "uuid"}
TIME: Schema = {"type": "string", "format": "date-time", "examples": ["2026-11-20T08:31:26.577Z"]}
URL: Schema = {"type": "string", "format": "uri"}
SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
EVENTS: Schema = {"type": "string", "enum": sorted(f"task.{word}" for word in PUSHED)}


def ref(name: str) -> Schema:
    """The shape of that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def words(kind: Any) -> Schema:
    """One of the words of an enumeration."""
    return {"type": "string", "enum": [str(word) for word in kind]}


def maybe(schema: Schema) -> Schema:
    """That, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def listed(schema: Schema) -> Schema:
    """A list of those."""
    return {"type": "array", "items": schema}


_NONE: Mapping[str, Schema] = {}


def shape(properties: Mapping[str, Schema], *, optional: Mapping[str, Schema] = _NONE) -> Schema:
    """An object that has `properties`, and may have the optional ones."""
    return {
        "type": "object",
        "properties": {**properties, **optional},
        "required": list(properties),
    }


def page_of(name: str) -> Schema:
    """A page of a list; the cursor is for the next one, null on the last."""
    return shape({"items": listed(ref(name)), "next_cursor": maybe(ID)})


_ERROR = shape({"code": TEXT, "message": TEXT})

_SHORT_TASK = {
    "task_id": ID,
    "provider": TEXT,
    "provider_task_id": maybe(TEXT),
    "trace_id": maybe(TEXT),
    "status": words(TaskStatus),
    "model": maybe(TEXT),
    "prompt": maybe(TEXT),
    "metadata": OBJECT,
    "images": listed(ref("Image")),
    "usage": maybe(OBJECT),
    "error": maybe(_ERROR),
    "verification": maybe(words(Verification)),
    "created_at": TIME,
    "submitted_at": maybe(TIME),
    "received_at": maybe(TIME),
    "finished_at": maybe(TIME),
}

_CALLBACK = {
    "id": ID,
    "source": words(Source),
    "verdict": words(Verdict),
    "received_at": TIME,
    "bytes": maybe(INTEGER),
    "sha256": maybe(SHA256),
}

_SPREAD = shape(
    {"count": INTEGER, "p50": maybe(NUMBER), "p95": maybe(NUMBER), "p99": maybe(NUMBER)}
)
_FIGURES = {
    "counts": {"type": "object", "additionalProperties": INTEGER},
    "rates": {"type": "object", "additionalProperties": maybe(NUMBER)},
    "latencies": {"type": "object", "additionalProperties": _SPREAD},
}

_ENDPOINT = {
    "url": {**URL, "description": "http(s), and no private host."},
    "events": {**maybe(listed(EVENTS)), "description": "Which types; null for all."},
    "description": maybe({**TEXT, "maxLength": 500}),
}

SCHEMAS: Mapping[str, Schema] = {
    "Error": shape(
        {
            "error": shape(
                {"code": TEXT, "message": TEXT, "type": TEXT, "param": maybe(TEXT)},
            ),
            "trace_id": {**TEXT, "description": "The same as the header X-Request-Id."},
        },
        optional={"task_id": {**ID, "description": "Of the task that goes on, or has failed."}},
    ),
    "Accepted": shape({"success": {"const": True}, "task_id": ID, "trace_id": TEXT}),
    "Result": shape(
        {
            "success": {"const": True},
            "task_id": ID,
            "trace_id": TEXT,
            "created": {**INTEGER, "description": "Unix seconds."},
            "model": maybe(TEXT),
            "data": listed(
                shape({}, optional={"url": URL, "b64_json": TEXT, "revised_prompt": TEXT})
            ),
        },
        optional={"usage": OBJECT},
    ),
    "Image": shape(
        {
            "index": INTEGER,
            "url": URL,
            "thumbnail_url": maybe(URL),
            "content_type": maybe(TEXT),
            "bytes": maybe(INTEGER),
            "width": maybe(INTEGER),
            "height": maybe(INTEGER),
            "sha256": maybe(SHA256),
            "revised_prompt": maybe(TEXT),
            "status": words(ImageStatus),
        },
        optional={"error": _ERROR},
    ),
    "Input": shape(
        {
            "index": INTEGER,
            "role": {
                **TEXT,
                "description": "`image`, `mask`, or the name of the field that another file came under.",
            },
            "url": URL,
            "content_type": maybe(TEXT),
            "bytes": maybe(INTEGER),
        }
    ),
    "ShortTask": shape(_SHORT_TASK),
    "Task": shape(
        {
            **_SHORT_TASK,
            "request": {**OBJECT, "description": "As submitted."},
            "inputs": listed(ref("Input")),
            "partial_images": {
                **listed(
                    shape(
                        {"index": INTEGER, "url": URL, "content_type": TEXT, "bytes": INTEGER},
                    )
                ),
                "description": "As they were while the provider was still at work.",
            },
            "callbacks": listed(shape(_CALLBACK)),
            "timeline": listed(shape({"at": TIME, "event": TEXT, "detail": OBJECT})),
        }
    ),
    "Callback": shape(
        {
            **_CALLBACK,
            "task_id": maybe(ID),
            "reason": maybe(TEXT),
            "address": maybe(TEXT),
            "duplicates": INTEGER,
        }
    ),
    "Stats": shape(
        {
            "window": TEXT,
            "since": TIME,
            "until": TIME,
            "total": shape(_FIGURES),
            "items": listed(shape({"provider": TEXT, "model": maybe(TEXT), **_FIGURES})),
        }
    ),
    "NewEndpoint": shape(
        {"url": _ENDPOINT["url"]},
        optional={name: schema for name, schema in _ENDPOINT.items() if name != "url"},
    ),
    "EndpointChange": shape({}, optional={**_ENDPOINT, "enabled": FLAG}),
    "Endpoint": shape(
        {
            "id": ID,
            **_ENDPOINT,
            "enabled": FLAG,
            "disabled_at": maybe(TIME),
            "disabled_reason": maybe(TEXT),
            "created_at": TIME,
        },
        optional={"secret": {**TEXT, "description": "Only in the answer that makes it."}},
    ),
    "Secret": shape({"id": ID, "secret": TEXT}),
    "Delivery": shape(
        {
            "id": ID,
            "event_id": {**ID, "description": "The webhook-id, the same for every attempt."},
            "type": TEXT,
            "task_id": maybe(ID),
            "status": words(DeliveryStatus),
            "next_attempt_at": maybe(TIME),
            "attempts": listed(
                shape(
                    {
                        "at": TIME,
                        "status": maybe(INTEGER),
                        "duration_ms": maybe(INTEGER),
                        "response": maybe(TEXT),
                    },
                    optional={"error": maybe(TEXT)},
                )
            ),
        },
        optional={"endpoint_id": maybe(ID), "url": maybe(URL), "created_at": TIME},
    ),
    "Event": shape(
        {
            "type": EVENTS,
            "timestamp": TIME,
            "data": ref("Task"),
        }
    ),
    "CallbackBody": {
        **shape(
            {},
            optional={
                "success": FLAG,
                "task_id": {**TEXT, "description": "The provider's own, if it names one."},
                "data": listed(
                    shape({}, optional={"url": URL, "b64_json": TEXT, "revised_prompt": TEXT})
                ),
                "image_url": {**URL, "description": "Instead of data."},
                "usage": OBJECT,
                "error": _ERROR,
            },
        ),
        "description": "A result, or an error.",
    },
    "Verdict": shape(
        {"status": {"type": "string", "enum": ["accepted", "duplicate", "conflict"]}},
        optional={"task_id": ID},
    ),
}
