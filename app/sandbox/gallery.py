"""The pictures that were made, and uploads that wait for their edit, as files of one folder."""

import hashlib
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from app.sandbox.misbehaviours import Wishes

CONTENT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


class ClosedError(Exception):
    """The sandbox ends: its folder is gone."""


@dataclass
class Picture:
    """A picture under `/images/<id>.<format>`; `wishes` says what is wrong with its host."""

    id: str
    format: str
    path: Path
    sha256: str
    wishes: Wishes
    made_at: float = field(default_factory=time.monotonic)
    requests: int = 0

    @property
    def name(self) -> str:
        """The last part of the picture's address."""
        return f"{self.id}.{self.format}"


class Gallery:
    """Keeps the newest pictures, up to `limit` bytes, in a folder that `close` removes."""

    def __init__(self, *, limit: int = 4 * 2**30) -> None:
        self._limit = limit
        self._folder = Path(tempfile.mkdtemp(prefix="postback-sandbox-"))
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._bytes = 0
        self._closed = False
        self._lock = threading.Lock()

    def add(self, data: bytes, image_format: str, wishes: Wishes) -> Picture:
        """Stores a picture; the oldest ones make room for it.  Raises `ClosedError`."""
        sha256 = hashlib.sha256(data).hexdigest()
        picture = Picture(uuid4().hex, image_format, self._folder / uuid4().hex, sha256, wishes)
        with self._lock:
            self._write(picture.path, data)
            self._pictures[picture.id] = picture
            self._bytes += len(data)
            while self._bytes > self._limit and len(self._pictures) > 1:
                self._drop(next(iter(self._pictures)))
        return picture

    def spool(self, data: bytes) -> Path:
        """Keeps an upload; who takes the file deletes it.  Raises `ClosedError`."""
        path = self._folder / uuid4().hex
        with self._lock:
            self._write(path, data)
        return path

    def find(self, picture_id: str) -> Picture | None:
        """The picture of that id, if it is still there; counts how often it was asked for."""
        with self._lock:
            picture = self._pictures.get(picture_id)
            if picture:
                picture.requests += 1
            return picture

    def clear(self) -> None:
        """Forgets all pictures."""
        with self._lock:
            for picture_id in list(self._pictures):
                self._drop(picture_id)

    def close(self) -> None:
        """Removes the folder."""
        with self._lock:
            self._closed = True
            shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, path: Path, data: bytes) -> None:
        # Under the lock: what is written while `close` removes the folder would keep it alive.
        if self._closed:
            raise ClosedError
        path.write_bytes(data)

    def _drop(self, picture_id: str) -> None:
        picture = self._pictures.pop(picture_id)
        self._bytes -= picture.path.stat().st_size
        picture.path.unlink()
