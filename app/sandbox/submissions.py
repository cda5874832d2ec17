"""A submission's request, read as an edit and as what is to go wrong with it.

What is allowed are the rules that the service checks by, too: one description for both.
"""

import io
import re
from collections.abc import Mapping
from typing import Any

from werkzeug import Request

from app.errors import InvalidFieldError
from app.providers.rules import FileFacts, Rules, facts_of
from app.sandbox import fields, misbehaviours
from app.sandbox.edits import Edit, bad_request
from app.sandbox.fields import Fields
from app.sandbox.misbehaviours import Wishes

_FILES = {"image": ("image", "image[]"), "mask": ("mask",)}
# Of a model whose rule for it is not known; what would not fit into memory is no size.
_SIZE = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})")
_MAX_SIDE = 3840


def read(request: Request, given: Fields, rules: Rules) -> tuple[Edit, Wishes]:
    """The edit that is asked for, and what its prompt wants to go wrong.

    Raises `ProviderError`, a 400, when one of `rules` is broken.
    """
    values = {name: value for name, value in given.items() if value is not None}
    if request.mimetype == "multipart/form-data":
        values = rules.parse(values)
    files = {
        name: [file.read() for each in aliases for file in request.files.getlist(each)]
        for name, aliases in _FILES.items()
    }
    try:
        rules.check(values, {name: list(map(_facts, each)) for name, each in files.items()})
    except InvalidFieldError as error:
        raise bad_request(str(error)) from None
    return _edit(values, files)


def _edit(values: Mapping[str, Any], files: Mapping[str, list[bytes]]) -> tuple[Edit, Wishes]:
    wishes, prompt = misbehaviours.read(values["prompt"])
    links = values.get("image", [])
    links = links if isinstance(links, list) else [links]
    if not all(fields.is_link(link) for link in links):
        raise bad_request("image must be an http(s) URL, an array of them, or files of a form")
    edit = Edit(
        # A prompt of nothing but wishes is a prompt all the same.
        prompt=prompt or values["prompt"],
        model=values.get("model"),
        images=(*files["image"], *links),
        mask=files["mask"][0] if files["mask"] else None,
        n=values.get("n", 1),
        size=_size(values.get("size", "auto")),
        output_format=_format(values.get("output_format", "auto")),
        compression=values.get("output_compression"),
        background=values.get("background", "auto"),
        base64=values.get("response_format") == "b64_json",
    )
    return edit, wishes


def _facts(data: bytes) -> FileFacts:
    return facts_of(io.BytesIO(data), len(data))


def _format(name: str) -> str:
    return "png" if name == "auto" else name


def _size(value: str) -> tuple[int, int] | None:
    if value == "auto":
        return None
    match = _SIZE.fullmatch(value)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < max(width, height) <= _MAX_SIDE:
        rule = f"auto or WIDTHxHEIGHT with sides up to {_MAX_SIDE}"
        raise bad_request(f"size must be {rule}, not {value!r}")
    return width, height
