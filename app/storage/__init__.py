"""Where image files are kept: one interface, `Storage`, with a driver for S3 and one for a folder.

A key is relative: segments between single slashes, each printable and without a leading dot.
Anything else is a `ValueError`.  What storage fails to do is a `StorageError`.
"""

from collections.abc import Iterable
from typing import BinaryIO, Protocol

from app.config import Config
from app.storage.local import LocalStorage
from app.storage.s3 import S3Storage


class Storage(Protocol):
    """What every driver does, from any thread.  Building one can't fail: `check` says how it is."""

    def put(self, key: str, file: BinaryIO, content_type: str) -> None:
        """Store `file`, from where it stands to its end, under `key`; what was there is replaced.

        All of it is stored or nothing is, and again is the same as once.  `file` is read in pieces
        and left open; it must give as many bytes as asked for until it ends, and what its `read`
        raises comes through.  Raises `StorageError`.
        """

    def open(self, key: str) -> BinaryIO:
        """The file under `key`, for a `with` statement.  It can seek only when storage is local.

        Raises `MissingObjectError` when there is none, else `StorageError`, as does reading it.
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Delete all of `keys`; missing ones are fine.

        Raises `StorageError`: some may be gone by then, and to delete them again is fine.
        """

    def address(self, key: str, method: str = "GET") -> str | None:
        """A URL where anybody can read `key` for the next hour, by GET or HEAD as `method` says; None
        when the caller must serve it.

        Nothing looks whether `key` is there.  Raises `StorageError` when it can't be signed.
        """

    def check(self) -> None:
        """Store and delete a little.  Raises `StorageError` when that fails or takes 5 seconds."""


def build(config: Config) -> Storage:
    """The storage that `config` names."""
    if config.storage == "s3" and config.s3_bucket:
        return S3Storage(
            config.s3_bucket,
            endpoint_url=config.s3_endpoint_url,
            prefix=config.s3_prefix,
            public_url=config.s3_public_url,
        )
    return LocalStorage(config.local_storage_dir)
