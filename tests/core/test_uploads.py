"""Uploaded files: into storage all or none, and at hand when they are sent."""

import io
from collections.abc import Iterable
from dataclasses import replace
from typing import BinaryIO

import pytest

from app import uploads
from app.errors import MissingObjectError, StorageError
from app.models import Role, new_id
from app.providers.rules import facts_of
from app.services import Services
from app.storage.local import LocalStorage
from app.uploads import Upload
from tests.factories import png


def upload(role: Role, data: bytes) -> Upload:
    return Upload(role, io.BytesIO(data), facts_of(io.BytesIO(data), len(data)), "")


RED, BLUE = png(8, 8, "red"), png(8, 8, "blue")


class Small(LocalStorage):
    """Has room for one file; remembers what was deleted."""

    def __init__(self, parts: Services) -> None:
        super().__init__(parts.config.local_storage_dir)
        self.deleted: list[str] = []

    def put(self, key: str, file: BinaryIO, content_type: str) -> None:
        if "image-1" in key:
            raise StorageError("full")
        super().put(key, file, content_type)

    def delete(self, keys: Iterable[str]) -> None:
        self.deleted += keys
        super().delete(self.deleted)
        raise StorageError("down by now")


def test_what_does_not_fit_as_a_whole_is_taken_out_again(sqlite_parts: Services) -> None:
    storage = Small(sqlite_parts)
    parts = replace(sqlite_parts, storage=storage)
    both = [upload(Role.IMAGE, RED), upload(Role.IMAGE, BLUE)]

    with pytest.raises(StorageError, match="full"), uploads.stored(parts, new_id(), both):
        pass
    assert len(storage.deleted) == 2
    with pytest.raises(MissingObjectError):
        storage.open(storage.deleted[0])


def test_files_are_fetched_before_any_is_sent(sqlite_parts: Services) -> None:
    parts = sqlite_parts
    given = [upload(Role.IMAGE, RED), upload(Role.IMAGE, BLUE), upload(Role.MASK, RED)]
    with uploads.stored(parts, new_id(), given) as rows:
        pass
    with uploads.at_hand(parts, rows) as files:
        assert [(each.field, each.name, each.content_type, each.size) for each in files] == [
            ("image", "image-0.png", "image/png", len(RED)),
            ("image", "image-1.png", "image/png", len(BLUE)),
            ("mask", "mask-0.png", "image/png", len(RED)),
        ]
        parts.storage.delete(str(row.key) for row in rows)
        for each, data in zip(files, (RED, BLUE, RED), strict=True):
            with each.open() as stream:
                assert stream.read() == data
    with pytest.raises(MissingObjectError), uploads.at_hand(parts, rows):
        pass
    with pytest.raises(FileNotFoundError):
        files[0].open()
