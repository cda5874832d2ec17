"""What the conformance suite runs against: a driver, and a way to look behind its back."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from app import config, storage

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 2**20
ROOT = Path(__file__).parents[2]

_SERVICE = {"PUBLIC_URL": "http://127.0.0.1:8000", "SECRET_KEY": "a secret key for tests only"}


class Target(Protocol):
    """A driver under test."""

    @property
    def storage(self) -> storage.Storage:
        """The driver."""

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment in which another process gets the same driver."""

    def names(self) -> set[str]:
        """The keys of everything that is stored."""

    def unfinished(self) -> list[str]:
        """What is left of files that were not stored, or are not yet."""


def build(environ: Mapping[str, str]) -> storage.Storage:
    """The driver for these settings."""
    return storage.build(config.load({**_SERVICE, **environ}))


def put(driver: storage.Storage, key: str, data: bytes = b"bytes") -> None:
    """Store `data`, or any bytes, as an image."""
    driver.put(key, io.BytesIO(data), "image/png")


def read(driver: storage.Storage, key: str) -> bytes:
    """All of an object."""
    with driver.open(key) as file:
        return file.read()


@dataclass
class LocalTarget:
    """Storage in a folder."""

    storage: storage.Storage
    environ: Mapping[str, str]
    folder: Path

    def names(self) -> set[str]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        keys = (str(path.relative_to(self.folder)) for path in files)
        return {key for key in keys if not key.startswith(".partial/")}

    def unfinished(self) -> list[str]:
        return [path.name for path in (self.folder / ".partial").iterdir()]


@dataclass
class S3Target:
    """Storage in a bucket."""

    storage: storage.Storage
    environ: Mapping[str, str]
    bucket: str
    client: "S3Client"

    def names(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {item["Key"] for page in pages for item in page.get("Contents", ())}

    def unfinished(self) -> list[str]:
        uploads = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ())
        return [upload["Key"] for upload in uploads]
