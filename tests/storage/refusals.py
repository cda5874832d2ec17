"""How a test sees that storage refuses everything."""

import io
from collections.abc import Callable

import pytest

from app.errors import MissingObjectError, StorageError
from app.storage import Storage

SECRET = "not-the-secret"

_LARGE = bytes(9 * 2**20)


def acts(storage: Storage) -> list[Callable[[], object]]:
    """Everything that needs the server."""
    return [
        lambda: storage.put("small", io.BytesIO(b"bytes"), "image/png"),
        lambda: storage.put("large", io.BytesIO(_LARGE), "image/png"),
        lambda: storage.open("small"),
        lambda: storage.delete(["small"]),
        storage.check,
    ]


def assert_refused(storage: Storage, match: str) -> None:
    """Everything fails as storage's fault, never as a missing object's, and betrays no secret."""
    for act in acts(storage):
        with pytest.raises(StorageError, match=match) as caught:
            act()
        assert not isinstance(caught.value, MissingObjectError)
        assert SECRET not in str(caught.value)
