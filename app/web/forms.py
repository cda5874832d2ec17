"""A form that is read as it comes: texts in memory, files on disk."""

import hashlib
import re
from collections.abc import Callable, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Self

from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from app.errors import InvalidFieldError
from app.models import Role
from app.providers.rules import facts_of
from app.scratch import scratch, write
from app.uploads import Upload
from app.web.envelope import HttpError

# All texts together, as much as a JSON body may have; and what the decoder holds of one part.
MAX_TEXT_BYTES = 4 * 2**20
MAX_BUFFER_BYTES = 2**20
MAX_PARTS = 1000
# More than any provider takes; each is an open file.
MAX_FILES = 64
# Of a field with a file that there are no rules for.
MAX_NAME_LENGTH = 200

_METADATA = re.compile(r"metadata\[([^\[\]]+)\]")
# The files that there are rules for; several may have brackets, as PHP and the openai SDK write them.
_FILES = {"image": Role.IMAGE, "image[]": Role.IMAGE, "mask": Role.MASK}
_BINARY = re.compile(r"image/|application/octet-stream")


@dataclass
class _File:
    role: str
    name: str
    file: BinaryIO
    digest: Any = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        write(self.file, data)


@dataclass
class _Text:
    name: str
    data: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> None:
        self.data += data

    def decoded(self) -> str:
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise InvalidFieldError(
                self.name, f"{self.name}: not UTF-8: {error.reason} at byte {error.start}"
            ) from None


class Form:
    """The form whose parts `boundary` divides; to be fed, then ended, then asked.

    A file may come under any name, but for those `known` that are for text.
    Feeding raises `ValueError` and werkzeug's `RequestEntityTooLarge` for what is no form or too
    much of one, `InvalidFieldError`, and `StorageError` when the disk is full.
    """

    def __init__(self, boundary: str, known: Set[str]) -> None:
        if not boundary:
            raise HttpError("bad_request", "Content-Type: expected a boundary, which is missing")
        self._decoder = MultipartDecoder(
            boundary.encode(), max_form_memory_size=MAX_BUFFER_BYTES, max_parts=MAX_PARTS
        )
        self._texts_only = known - _FILES.keys()
        self._stack = ExitStack()
        self._texts: list[_Text] = []
        self._files: list[_File] = []
        self._write: Callable[[bytes], None] = lambda _: None
        self._text_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def feed(self, piece: bytes | None) -> None:
        """Take the next piece of the body, or None at its end."""
        self._decoder.receive_data(piece)
        while not isinstance(event := self._decoder.next_event(), NeedData | Epilogue):
            match event:
                case File() | Field():
                    self._begin(event)
                case Data(data):
                    self._write(data)

    def end(self) -> None:
        """The body is over."""
        self.feed(None)

    def fields(self) -> dict[str, Any]:
        """The texts by their names: those that come several times as a list, `metadata[name]` as
        one object.
        """
        fields: dict[str, Any] = {}
        for part in self._texts:
            if part.name.startswith("metadata["):
                _add_label(fields, part)
            elif part.name == "image[]":
                fields["image"] = [*_listed(fields.get("image")), part.decoded()]
            elif part.name in fields:
                fields[part.name] = [*_listed(fields[part.name]), part.decoded()]
            else:
                fields[part.name] = part.decoded()
        return fields

    def uploads(self) -> tuple[Upload, ...]:
        """The files, in their order.  One without name and bytes is a browser's empty field."""
        sized = [(part, part.file.seek(0, 2)) for part in self._files]
        return tuple(
            Upload(part.role, part.file, facts_of(part.file, size), part.digest.hexdigest())
            for part, size in sized
            if size or part.name
        )

    def _begin(self, part: File | Field) -> None:
        name = part.name
        if not isinstance(name, str):
            raise ValueError("a part has no name")
        filename = part.filename if isinstance(part, File) else None
        is_text = name in self._texts_only or name.startswith("metadata[")
        # Some clients send files without a name.
        unnamed = not is_text and _BINARY.match(part.headers.get("content-type", "").lower())
        if filename is None and not unnamed:
            self._texts.append(_Text(name))
            self._write = self._write_text
            return
        if is_text:
            raise InvalidFieldError(name, f"{name}: expected text, not a file")
        _check_name(name)
        if len(self._files) == MAX_FILES:
            raise InvalidFieldError(name, f"{name}: expected at most {MAX_FILES} files")
        role = _FILES.get(name, name)
        file = self._stack.enter_context(scratch())
        self._files.append(_File(role, "upload" if filename is None else filename, file))
        self._write = self._files[-1].write

    def _write_text(self, data: bytes) -> None:
        self._text_bytes += len(data)
        if self._text_bytes > MAX_TEXT_BYTES:
            raise HttpError(
                "too_large", f"the texts of the form are larger than {MAX_TEXT_BYTES:,} bytes"
            )
        self._texts[-1].write(data)


def _check_name(name: str) -> None:
    if not (name.isprintable() and 0 < len(name) <= MAX_NAME_LENGTH):
        shown = name[:MAX_NAME_LENGTH]
        rule = f"1 to {MAX_NAME_LENGTH} printable characters as the name of a file's field"
        raise InvalidFieldError(shown, f"expected {rule}, not {shown!r}")


def _add_label(fields: dict[str, Any], part: _Text) -> None:
    labels = fields.setdefault("metadata", {})
    named = _METADATA.fullmatch(part.name)
    if named is None or not isinstance(labels, dict) or named[1] in labels:
        rule = (
            f"expected JSON text or a field metadata[name] for each name, once, not {part.name!r}"
        )
        raise InvalidFieldError("metadata", f"metadata: {rule}")
    labels[named[1]] = part.decoded()


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
