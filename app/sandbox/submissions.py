"""A submission's request, read as an edit and as what is to go wrong with it."""

import re
from typing import Any

from werkzeug import Request

from app.sandbox import fields, misbehaviours, rules
from app.sandbox.edits import Edit, bad_request
from app.sandbox.fields import Fields
from app.sandbox.misbehaviours import Wishes

FORMATS = ("auto", "png", "jpeg", "webp")
QUALITIES = ("auto", "high", "medium", "low", "standard")


def read(request: Request, given: Fields) -> tuple[Edit, Wishes]:
    """The edit that is asked for, and what its prompt wants to go wrong.

    Raises `ProviderError`, a 400, when a rule of the providers' schemas is broken.
    """
    wishes, prompt = misbehaviours.read(fields.text(given, "prompt") or "")
    masks = request.files.getlist("mask")
    edit = Edit(
        # A prompt of nothing but wishes is a prompt all the same.
        prompt=prompt or (fields.text(given, "prompt") or ""),
        model=fields.text(given, "model"),
        images=_images(request, given),
        mask=masks[0].read() if masks else None,
        n=fields.integer(given, "n", 1, 10) or 1,
        size=_size(fields.text(given, "size")),
        output_format=_format(fields.choice(given, "output_format", *FORMATS)),
        compression=fields.integer(given, "output_compression", 0, 100),
        background=fields.choice(given, "background", "auto", "opaque", "transparent"),
        base64=fields.choice(given, "response_format", "url", "b64_json") == "b64_json",
    )
    rules.check(edit, fields.choice(given, "quality", *QUALITIES))
    fields.choice(given, "input_fidelity", "low", "high")
    return edit, wishes


def _images(request: Request, given: Fields) -> tuple[str | bytes, ...]:
    files = request.files.getlist("image") + request.files.getlist("image[]")
    if files:
        return tuple(file.read() for file in files)
    return _links(given.get("image"))


def _links(value: Any) -> tuple[str, ...]:
    links = value if isinstance(value, list) else [value] if value else []
    if not all(fields.is_link(link) for link in links):
        raise bad_request("image must be an http(s) URL, an array of them, or files of a form")
    return tuple(links)


def _format(name: str) -> str:
    return "png" if name == "auto" else name


def _size(value: str | None) -> tuple[int, int] | None:
    if value is None or value == "auto":
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", value)
    if not match:
        raise bad_request(f"size must be auto or WIDTHxHEIGHT, not {value!r}")
    return int(match[1]), int(match[2])
