"""The JSON that the providers share, because both follow OpenAI's: images, errors, refusals."""

import json
from collections.abc import Mapping
from typing import Any

from app.errors import ProviderError
from app.providers.base import ResultImage
from app.wire import Response

# The HTTP statuses of errors that come without one; of all others it is 500.
ERROR_STATUSES = {
    "bad_request": 400,
    "forbidden": 403,
    "used_up": 403,
    "disabled": 403,
    "too_many_requests": 429,
    "timeout": 504,
}

Error = tuple[str, str]


def json_object(body: bytes) -> Mapping[str, Any]:
    """The JSON object that `body` is; an empty one when it is none."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return payload if isinstance(payload, dict) else {}


def images_of(payload: Mapping[str, Any]) -> tuple[ResultImage, ...]:
    """The images in `data`, or those of a top-level `image_url`."""
    data = payload.get("data")
    items = data if isinstance(data, list) else []
    images = [image for item in items if (image := image_of(item))]
    if not images:
        top = payload.get("image_url")
        urls = top if isinstance(top, list) else [top]
        images = [image for url in urls if (image := image_of({"url": url}))]
    return tuple(images)


def image_of(item: Any) -> ResultImage | None:
    """The image that `url` or `b64_json` of `item` is; the link wins, for it is small."""
    if not isinstance(item, dict):
        return None
    prompt = item.get("revised_prompt")
    revised_prompt = prompt if isinstance(prompt, str) else None
    url, base64 = item.get("url"), item.get("b64_json")
    if isinstance(url, str):
        scheme, colon, rest = url.partition(":")
        if scheme.lower() in {"http", "https", "data", "body"} and colon:
            return ResultImage(f"{scheme.lower()}:{rest}", revised_prompt)
    if isinstance(base64, str) and base64:
        source = base64 if base64.startswith(("body:", "data:")) else f"data:;base64,{base64}"
        return ResultImage(source, revised_prompt)
    return None


def usage_of(payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What was billed, if it says so."""
    usage = payload.get("usage")
    return usage if isinstance(usage, dict) else None


def error_of(payload: Mapping[str, Any]) -> Error | None:
    """Code and message of the error that `payload` tells of; the code may be called `type`."""
    error = payload.get("error")
    if not isinstance(error, dict):
        return None
    code, message = error.get("code") or error.get("type"), error.get("message")
    if not isinstance(code, str) and not isinstance(message, str):
        return None
    return str(code or "api_error"), str(message or code)


def failure(error: Error) -> ProviderError:
    """An error that came without an HTTP status of its own."""
    code, message = error
    return ProviderError(message, code=code, status=ERROR_STATUSES.get(code, 500))


def refusal(response: Response, error: Error | None) -> ProviderError:
    """What an answer that is a refusal means: for good on a 4xx, for now on a 429 and a 5xx."""
    code, message = error or ("api_error", f"the provider answered {response.status}")
    status = ERROR_STATUSES.get(code, 500) if response.status < 400 else response.status
    if status == 401:
        message = f"the provider refused the service's own API key, not the caller's: {message}"
    return ProviderError(
        message,
        code=code,
        status=status,
        permanent=status < 500 and status != 429,
        retry_after=response.retry_after(),
    )
