"""AGCloud: takes an edit as a form with files, and answers with the result, whole or streamed.

The rules are those of its "image edits" document.  It calls nobody back and knows no lookup.
"""

from collections.abc import Mapping
from typing import Any

from app.errors import InvalidResultError
from app.providers import multipart
from app.providers.base import (
    Answered,
    Credentials,
    Edit,
    PartialImage,
    Result,
    Submission,
    Unknown,
)
from app.providers.envelopes import (
    error_of,
    failure,
    image_of,
    images_of,
    json_object,
    refusal,
    usage_of,
)
from app.providers.rules import (
    Choice,
    FileOnly,
    Flag,
    FreeSize,
    ImageFiles,
    ImageUrls,
    Integer,
    Needs,
    Nothing,
    Rules,
    Text,
)
from app.wire import Request, Response

# `images`, as Ace Data Cloud has it, is another API of theirs.
_EDITS = "/v1/image/edits"
# The images go as files, and how our client is answered is not the provider's.
_NOT_FIELDS = frozenset({"image", "mask", "response_format"})

_FREE_SIZES = {"size": FreeSize(16, 3840, 655_360, 8_294_400, 3)}

RULES = Rules(
    required=("model", "prompt", "image"),
    fields={
        "model": Text(200),
        "prompt": Text(32_000),
        "image": ImageUrls(16),
        "mask": FileOnly(),
        # "file" in the document's table, next to a text that describes this.
        "input_fidelity": Choice(("high", "low")),
        "n": Integer(1, 10),
        "size": Text(200),
        "quality": Choice(("auto", "low", "medium", "high")),
        "background": Choice(("auto", "opaque", "transparent")),
        "moderation": Choice(("auto", "low")),
        "output_format": Choice(("auto", "png", "jpeg", "webp")),
        "output_compression": Integer(0, 100),
        "stream": Flag(),
        "partial_images": Integer(0, 3),
        "user": Text(1000),
        # Ours: it says how our client is answered.
        "response_format": Choice(("url", "b64_json")),
        "async": Flag(),
    },
    models={
        "gpt-image-1": {"size": Choice(("auto", "1024x1024", "1536x1024", "1024x1536"))},
        "gpt-image-2": _FREE_SIZES,
        # The document's example has it so, and means the other.
        "git-image-2": _FREE_SIZES,
        "*-plus": {"quality": Nothing()},
    },
    needs=(
        Needs("background", "transparent", "model", ("gpt-image-1",), default=None),
        Needs("background", "transparent", "output_format", ("png", "webp"), default="auto"),
        Needs("output_compression", None, "output_format", ("jpeg", "webp"), default="auto"),
        Needs("partial_images", None, "stream", (True,), default=False),
    ),
    files={
        # The document has no limit on bytes; this is the one that OpenAI has for the same files.
        "image": ImageFiles(16, largest=50 * 2**20 - 1),
        "mask": ImageFiles(1, largest=50 * 2**20 - 1, formats=("png", "webp"), alpha=True),
    },
)


class AGCloud:
    """The protocol of AGCloud; see `base.Provider` for what each function is for."""

    name = "agcloud"
    calls_back = False
    lookup = None
    rules = RULES

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def submit_request(self, edit: Edit) -> Request:
        """A form with the caller's fields and the files.

        The body has no field for our task id, so that it goes in a header that is free to carry it.
        """
        fields = {name: value for name, value in edit.fields.items() if name not in _NOT_FIELDS}
        form_headers, form = multipart.encode(fields, edit.files)
        headers = {
            **self._credentials.headers(),
            **form_headers,
            "Accept": "text/event-stream" if fields.get("stream") else "application/json",
            "X-Request-Id": str(edit.task_id),
        }
        return Request("POST", self._credentials.base_url + _EDITS, headers, form)

    def read_submission(self, response: Response) -> Submission:
        """Answered with what may be the result; anything unclear is `Unknown`.

        Raises `ProviderError` when the provider refused before any work: for good on a 4xx, for now
        on a 429 and on a 5xx that carries the error envelope (504 excepted: the work may be done).
        """
        if 200 <= response.status < 300:
            return Answered(response.body)
        error = error_of(json_object(response.body))
        unclear = response.status < 400 or response.status == 504
        if unclear or (response.status >= 500 and error is None):
            return Unknown(f"the provider answered {response.status}")
        raise refusal(response, error)

    def read_result(self, payload: Mapping[str, Any]) -> Result:
        """The images of a whole answer, or the error that came in their place.

        With images it counts as a success whatever else it says: they were paid for.
        """
        if images := images_of(payload):
            return Result(None, images, usage=usage_of(payload))
        if error := error_of(payload):
            return Result(None, error=failure(error))
        raise InvalidResultError("neither a result (data with url or b64_json) nor an error")

    def read_event(self, payload: Mapping[str, Any]) -> PartialImage | Result | None:
        """A partial image, one that is completed, or an error; None for any other event.

        A whole answer that comes as an event is taken for what it is.
        """
        if error := error_of(payload):
            return Result(None, error=failure(error))
        if images := images_of(payload):
            return Result(None, images, usage=usage_of(payload))
        image = image_of(payload)
        kind = str(payload.get("type", ""))
        if image and kind.endswith(".partial_image"):
            return PartialImage(image.source)
        if image and kind.endswith(".completed"):
            return Result(None, (image,), usage=usage_of(payload))
        return None
