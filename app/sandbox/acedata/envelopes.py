"""Ace Data Cloud's JSON: results, failures and tasks, as its documentation and SDK have them."""

import base64
import time
from collections.abc import Iterable
from typing import Any

from app.errors import ProviderError
from app.sandbox.edits import Edit
from app.sandbox.gallery import Picture
from app.sandbox.ledger import Task
from app.sandbox.messages import error_body, padded
from app.sandbox.misbehaviours import Wishes, Word

TASK_TYPE = "images_edits"
# Whose the tasks are: there is one user, with one application.
OWNER = "sandbox"

_DEFAULT_MODEL = "gpt-image-1"


def accepted(task: Task) -> dict[str, Any]:
    """What answers a submission whose result comes later."""
    return {"success": True, "task_id": task.id, "trace_id": task.trace_id}


def failure(task: Task, error: ProviderError) -> dict[str, Any]:
    """The result of a task that failed."""
    return {"success": False, "task_id": task.id, **error_body(error, task.trace_id)}


def success(
    task: Task, edit: Edit, pictures: Iterable[Picture], wishes: Wishes, base_url: str
) -> dict[str, Any]:
    """The result of a task, its images as links under `base_url` or in base64."""
    in_base64 = edit.base64 or not wishes.keys().isdisjoint({Word.BASE64, Word.HUGE})
    items = [_item(picture, base_url, in_base64=in_base64) for picture in pictures]
    if Word.IMAGE_URL in wishes and not in_base64:
        return accepted(task) | {"image_url": items[0]["url"]}
    model = edit.model or _DEFAULT_MODEL
    if model == "dall-e-3":
        items = [item | {"revised_prompt": f"{edit.prompt} (revised)"} for item in items]
    envelope = accepted(task) | {"created": int(time.time()), "model": model, "data": items}
    if not model.startswith("dall-e"):
        envelope["usage"] = usage(edit, len(items))
    return padded(envelope, wishes)


def looked_up(task: Task) -> dict[str, Any]:
    """The task as the lookup tells of it: without a status, done when `finished_at` is there."""
    fields = {
        "_id": task.id.replace("-", "")[:24],
        "id": task.id,
        "trace_id": task.trace_id,
        "type": TASK_TYPE,
        "application_id": OWNER,
        "user_id": OWNER,
        "credential_id": OWNER,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "request": task.request,
    }
    if task.finished_at:
        fields["finished_at"] = task.finished_at
        fields["elapsed"] = task.finished_at - (task.started_at or task.created_at)
        fields["response"] = task.response
    return {name: value for name, value in fields.items() if value is not None}


def _item(picture: Picture, base_url: str, *, in_base64: bool) -> dict[str, Any]:
    if in_base64:
        return {"b64_json": base64.b64encode(picture.path.read_bytes()).decode()}
    return {"url": f"{base_url}/images/{picture.name}"}


def usage(edit: Edit, results: int) -> dict[str, int]:
    """What the edit is billed as, in tokens."""
    tokens = {
        "input_tokens": len(edit.prompt.split()) + 100 * len(edit.images),
        "output_tokens": 1000 * results,
    }
    return tokens | {"total_tokens": sum(tokens.values())}
