"""What is submitted, files and all: recognised by a digest, kept in storage, at hand when it is sent."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, BinaryIO
from uuid import UUID

from app import placements
from app.models import Input, Role
from app.providers.base import File
from app.providers.rules import FileFacts, Files
from app.scratch import scratch, write
from app.services import Services

_COPY_BYTES = 2**20
_EXTENSIONS = {"jpeg": "jpg"}


@dataclass(frozen=True)
class Upload:
    """One file of a submission; `file` is on disk, can seek, and is closed with its request."""

    role: str
    file: BinaryIO = field(repr=False)
    facts: FileFacts
    sha256: str

    @property
    def content_type(self) -> str:
        """What the bytes are, whatever the caller says."""
        return (
            f"image/{self.facts.header.format}" if self.facts.header else "application/octet-stream"
        )

    @property
    def stem(self) -> str:
        """What it is called; the name of an unknown field may hold what no file's name may."""
        return self.role if self.role in tuple(Role) else "file"

    @property
    def extension(self) -> str:
        """What a file of that type is called."""
        form = self.facts.header.format if self.facts.header else "bin"
        return _EXTENSIONS.get(form, form)


@dataclass(frozen=True)
class Submission:
    """What a caller asks of `provider`: fields with their types, however they came, and files."""

    provider: str
    fields: Mapping[str, Any]
    uploads: tuple[Upload, ...] = ()

    @property
    def files(self) -> Files:
        """The facts of the files, by the name of their field."""
        found: dict[str, list[FileFacts]] = {}
        for upload in self.uploads:
            found.setdefault(upload.role, []).append(upload.facts)
        return found

    @cached_property
    def digest(self) -> str:
        """The same for the same fields and files sent to the same provider, and for nothing else.

        The order of fields, a form's boundary and the names of files do not matter.
        """
        fields = {name: value for name, value in self.fields.items() if name != "provider"}
        files = [[upload.role, upload.sha256] for upload in self.uploads]
        canonical = json.dumps([self.provider, fields, files], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


@contextmanager
def stored(services: Services, task_id: UUID, uploads: Sequence[Upload]) -> Iterator[list[Input]]:
    """Put `uploads` into storage and give their rows; take them out again if the block fails.

    Whoever writes the rows settles their keys.  Raises `StorageError`.
    """
    inputs = [_row(task_id, upload, uploads[:place]) for place, upload in enumerate(uploads)]
    with placements.placing(services, keys_of(inputs)):
        for upload, row in zip(uploads, inputs, strict=True):
            upload.file.seek(0)
            services.storage.put(str(row.key), upload.file, upload.content_type)
        yield inputs


@contextmanager
def at_hand(services: Services, inputs: Sequence[Input]) -> Iterator[tuple[File, ...]]:
    """The uploaded ones of `inputs` as files to send, on this machine's disk until the block ends.

    Raises `StorageError` before any of them is sent: while they are, it would leave in doubt what the
    provider has got.
    """
    with ExitStack() as stack:
        yield tuple(_fetch(services, row, stack) for row in inputs if row.key)


def _row(task_id: UUID, upload: Upload, before: Sequence[Upload]) -> Input:
    index = sum(other.role == upload.role for other in before)
    number = sum(other.stem == upload.stem for other in before)
    return Input(
        task_id=task_id,
        role=upload.role,
        index=index,
        key=f"inputs/{task_id}/{upload.stem}-{number}.{upload.extension}",
        content_type=upload.content_type,
        size=upload.facts.size,
    )


def _fetch(services: Services, row: Input, stack: ExitStack) -> File:
    copy = stack.enter_context(scratch())
    with services.storage.open(str(row.key)) as stream:
        while piece := stream.read(_COPY_BYTES):
            write(copy, piece)
    size = copy.tell()
    name = str(row.key).rpartition("/")[2]
    return File(
        row.role,
        name,
        row.content_type or "application/octet-stream",
        size,
        partial(reopened, copy),
    )


def reopened(file: BinaryIO) -> BinaryIO:
    """The same file from its beginning, to be closed by itself; one at a time."""
    file.flush()
    file.seek(0)
    return open(os.dup(file.fileno()), "rb")  # noqa: PTH123 - it has no path


def keys_of(inputs: Sequence[Input]) -> list[str]:
    """Where in storage the uploaded ones are."""
    return [row.key for row in inputs if row.key]
