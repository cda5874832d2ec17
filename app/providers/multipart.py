"""Forms with files (RFC 7578), streamed: no file is ever whole in memory."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from app.providers.base import File

_PIECE_BYTES = 64 * 1024
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


def encode(
    fields: Mapping[str, Any], files: Sequence[File]
) -> tuple[dict[str, str], Iterator[bytes]]:
    """The headers (type and length) and the body of a form; a list is one part for each item."""
    boundary = uuid4().hex
    texts = b"".join(_text(boundary, name, value) for name, value in _flat(fields))
    heads = [_head(boundary, file) for file in files]
    end = f"--{boundary}--\r\n".encode()
    length = len(texts) + sum(
        len(head) + file.size + 2 for head, file in zip(heads, files, strict=True)
    )
    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(length + len(end)),
    }
    return headers, _body(texts, heads, files, end)


def _body(
    texts: bytes, heads: Sequence[bytes], files: Sequence[File], end: bytes
) -> Iterator[bytes]:
    yield texts
    for head, file in zip(heads, files, strict=True):
        yield head
        with file.open() as stream:
            while piece := stream.read(_PIECE_BYTES):
                yield piece
        yield b"\r\n"
    yield end


def _flat(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            # As JSON says it: true, null, 1.5, and objects, which forms have no way for.
            yield name, item if isinstance(item, str) else json.dumps(item)


def _text(boundary: str, name: str, value: str) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n'
    return head.encode() + value.encode() + b"\r\n"


def _head(boundary: str, file: File) -> bytes:
    return (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{_quoted(file.field)}"; '
        f'filename="{_quoted(file.name)}"\r\n'
        f"Content-Type: {file.content_type}\r\n\r\n"
    ).encode()


def _quoted(name: str) -> str:
    return name.translate(_ESCAPES)
