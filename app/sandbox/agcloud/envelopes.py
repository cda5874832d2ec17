"""AGCloud's JSON, as far as its document has it, and else OpenAI's: answers, events, errors."""

import base64
import json
import time
from collections.abc import Sequence
from typing import Any

from app.errors import ProviderError
from app.sandbox.edits import Edit
from app.sandbox.gallery import Picture
from app.sandbox.messages import padded
from app.sandbox.misbehaviours import Wishes, Word

DONE = b"data: [DONE]\n\n"

_PARTIAL_TOKENS = 100
_IMAGE_TOKENS = 1000


def answer(
    edit: Edit, pictures: Sequence[Picture], wishes: Wishes, base_url: str
) -> dict[str, Any]:
    """The answer to one who doesn't stream."""
    items = [
        {"url": f"{base_url}/images/{picture.name}"}
        if Word.LINKS in wishes
        else {"b64_json": _base64(picture.path.read_bytes())}
        for picture in pictures
    ]
    tokens = usage(edit, len(items))
    return padded({"created": int(time.time()), "data": items, "usage": tokens}, wishes)


def partial(edit: Edit, quality: str, index: int, data: bytes) -> bytes:
    """The event that brings the image as it is while the work goes on."""
    return _event("image_edit.partial_image", edit, quality, data, {"partial_image_index": index})


def completed(edit: Edit, quality: str, picture: Picture, tokens: dict[str, Any]) -> bytes:
    """The event that brings an image that is done."""
    data = picture.path.read_bytes()
    return _event("image_edit.completed", edit, quality, data, {"usage": tokens})


def failure(error: ProviderError) -> dict[str, Any]:
    """How it tells of an error; with `type` where others have a `code`."""
    return {"error": {"type": error.code, "message": str(error)}}


def failed(error: ProviderError) -> bytes:
    """The event that brings an error."""
    return _data("error", failure(error))


def usage(edit: Edit, results: int, partials: int = 0) -> dict[str, Any]:
    """What the edit is billed as, in tokens."""
    details = {"text_tokens": len(edit.prompt.split()), "image_tokens": 100 * len(edit.images)}
    given, made = sum(details.values()), _IMAGE_TOKENS * results + _PARTIAL_TOKENS * partials
    return {
        "input_tokens": given,
        "input_tokens_details": details,
        "output_tokens": made,
        "total_tokens": given + made,
    }


def _event(kind: str, edit: Edit, quality: str, image: bytes, more: dict[str, Any]) -> bytes:
    return _data(
        kind,
        {
            "type": kind,
            "b64_json": _base64(image),
            "created_at": int(time.time()),
            "size": f"{edit.size[0]}x{edit.size[1]}" if edit.size else "auto",
            "quality": quality,
            "background": edit.background,
            "output_format": edit.output_format,
            **more,
        },
    )


def _data(kind: str, content: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n".encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
