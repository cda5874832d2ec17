"""Ace Data Cloud: takes an edit with a `callback_url` and calls back when it is done.

The rules are those of its "OpenAI Images Edits API" document and of its published schema.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self
from uuid import UUID

from app.errors import InvalidResultError
from app.providers import multipart
from app.providers.base import (
    Accepted,
    Answered,
    Credentials,
    Edit,
    Found,
    Result,
    Submission,
    Unknown,
)
from app.providers.envelopes import (
    error_of,
    failure,
    images_of,
    json_object,
    refusal,
    usage_of,
)
from app.providers.rules import (
    AnySize,
    Choice,
    FileOnly,
    Flag,
    FreeSize,
    ImageFiles,
    ImageUrls,
    Integer,
    Needs,
    Rules,
    Text,
)
from app.wire import Request, Response

_EDITS = "/openai/images/edits"

# The provider's ids are UUIDs; PostgreSQL's index takes no value of thousands of characters.
MAX_ID_LENGTH = 255

# The provider's MB: what is a little above one in either reading is its to refuse.
_MB = 2**20
# What is our own way of answering: the provider calls back, and sends nothing before.
_OURS = frozenset({"stream", "partial_images"})

_FOUR_SIZES = {"size": Choice(("auto", "1024x1024", "1536x1024", "1024x1536"))}
_FREE_SIZES = {"size": FreeSize(16, 3840, 655_360, 8_294_400, 3)}

RULES = Rules(
    required=("image", "prompt"),
    fields={
        "image": ImageUrls(16),
        "prompt": Text(32_000),
        "model": Text(200),
        "n": Integer(1, 10),
        "quality": Choice(("auto", "high", "medium", "low")),
        "background": Choice(("transparent", "opaque", "auto")),
        "output_format": Choice(("png", "jpeg", "webp")),
        "output_compression": Integer(0, 100),
        "moderation": Text(200),
        "user": Text(1000),
        "size": Text(200),
        # The provider takes it with files only.
        "mask": FileOnly(),
        "input_fidelity": Choice(("high", "low")),
        "partial_images": Integer(0, 3),
        "response_format": Choice(("url", "b64_json")),
        "async": Flag(),
        "stream": Flag(),
    },
    models={
        "dall-e-2": {
            "image": ImageUrls(1),
            "prompt": Text(1000),
            "quality": Choice(("standard",)),
            "size": Choice(("256x256", "512x512", "1024x1024")),
        },
        "dall-e-3": {"n": Integer(1, 1), "size": AnySize()},
        "gpt-image-1": _FOUR_SIZES,
        "gpt-image-1.5": _FOUR_SIZES,
        "gpt-image-2": _FREE_SIZES,
        "gpt-image-2:official": _FREE_SIZES,
        "gpt-image-2:reverse": _FREE_SIZES,
        "gpt-image-2.5-flare": _FREE_SIZES,
        "gpt-image-2.5-flare:official": _FREE_SIZES,
        "gpt-image-2.5-sunburst": _FREE_SIZES,
        "gpt-image-2.5-sunburst:official": _FREE_SIZES,
    },
    needs=(
        Needs("background", "transparent", "output_format", ("png", "webp"), default="png"),
        Needs("output_compression", None, "output_format", ("jpeg", "webp"), default="png"),
        Needs("response_format", "b64_json", "n", (1,), default=1),
    ),
    files={
        "image": ImageFiles(16, largest=50 * _MB - 1),
        "mask": ImageFiles(
            1,
            largest=4 * _MB,
            formats=("png",),
            alpha=True,
            same_size_as="image",
            together_with="image",
        ),
    },
    model_files={
        "dall-e-2": {"image": ImageFiles(1, largest=4 * _MB - 1, formats=("png",), square=True)}
    },
)


class AceData:
    """The protocol of Ace Data Cloud; see `base.Provider` for what each function is for."""

    name = "acedata"
    calls_back = True
    rules = RULES

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    @property
    def lookup(self) -> Self:
        """It can be asked, free of charge."""
        return self

    def submit_request(self, edit: Edit) -> Request:
        """The caller's fields, our callback URL, and our task id as `trace_id`; a form with files."""
        body = {
            **{name: value for name, value in edit.fields.items() if name not in _OURS},
            "callback_url": edit.callback_url,
            "trace_id": str(edit.task_id),
        }
        if not edit.files:
            return self._post(_EDITS, body)
        headers, form = multipart.encode(body, edit.files)
        url = self._credentials.base_url + _EDITS
        return Request("POST", url, {**self._credentials.headers(), **headers}, form)

    def read_submission(self, response: Response) -> Submission:
        """Accepted with a task id, or answered at once; anything unclear is `Unknown`.

        Raises `ProviderError` when the provider refused before any work: for good on a 4xx, for now
        on a 429 and on a 5xx that carries the error envelope (504 excepted: the work may be done).
        """
        payload = json_object(response.body)
        if 200 <= response.status < 300:
            return _read_success(payload, response)
        error = error_of(payload)
        if response.status == 504 or (response.status >= 500 and error is None):
            return Unknown(f"the provider answered {response.status}")
        raise refusal(response, error)

    def read_result(self, payload: Mapping[str, Any]) -> Result:
        """Images, from `data` or a top-level `image_url`; or the error of a failure callback.

        A result with images counts as a success whatever else it says: they were paid for.
        """
        task_id = payload.get("task_id")
        provider_task_id = _id(task_id)
        if provider_task_id is None and task_id not in (None, ""):
            raise InvalidResultError(f"task_id: expected text of 1 to {MAX_ID_LENGTH} characters")
        if images := images_of(payload):
            return Result(provider_task_id, images, usage=usage_of(payload))
        if error := error_of(payload):
            return Result(provider_task_id, error=failure(error))
        raise InvalidResultError("neither a result (data with url or b64_json) nor an error")

    def read_event(self, payload: Mapping[str, Any]) -> None:
        """Nothing: it calls back."""

    def lookup_request(self, task_ids: Sequence[UUID]) -> Request:
        """One free call for all of them, by the `trace_id` that we submitted under."""
        trace_ids = [str(task_id) for task_id in task_ids]
        return self._post(
            "/openai/tasks",
            {"action": "retrieve_batch", "trace_ids": trace_ids, "limit": len(trace_ids)},
        )

    def read_lookup(self, response: Response) -> dict[UUID, Found]:
        """The tasks that the provider knows; raises `ProviderError` when it did not say."""
        payload = json_object(response.body)
        items = payload.get("items")
        if response.status != 200 or not isinstance(items, list):
            raise refusal(response, error_of(payload))
        return dict(found for item in items if (found := _read_task(item)))

    def _post(self, path: str, body: Mapping[str, Any]) -> Request:
        return Request(
            "POST",
            self._credentials.base_url + path,
            {**self._credentials.headers(), "Content-Type": "application/json"},
            json.dumps(body).encode(),
        )


def _read_success(payload: Mapping[str, Any], response: Response) -> Submission:
    if images_of(payload):
        return Answered(response.body)
    task_id = _id(payload.get("task_id"))
    if payload.get("success") is not False and task_id:
        return Accepted(task_id)
    if error := error_of(payload):
        raise refusal(response, error)
    return Unknown("the provider's answer names no task")


def _read_task(item: Any) -> tuple[UUID, Found] | None:
    if not isinstance(item, dict):
        return None
    try:
        task_id = UUID(str(item.get("trace_id")))
    except ValueError:
        return None
    response = item.get("response")
    body = json.dumps(response).encode() if isinstance(response, dict) and response else None
    return task_id, Found(_id(item.get("id")), body)


def _id(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH else None
