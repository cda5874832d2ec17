"""What the S3 driver makes of answers that a sound server never gives, and what it asks."""

import io
from functools import partial

import pytest

from app.errors import MissingObjectError, StorageError
from app.storage.s3 import S3Storage
from tests.storage.answers import answers
from tests.storage.refusals import assert_refused

pytestmark = pytest.mark.usefixtures("aws_environ")


def test_whatever_status_the_server_refuses_with_is_storages_fault_but_a_404() -> None:
    with answers(404) as server:
        storage = S3Storage("bucket", endpoint_url=server.endpoint)
        with pytest.raises(MissingObjectError):
            storage.open("key")
        for server.status in (403, 500, 503, 507):
            assert_refused(storage, f"{server.status} ")


def test_an_object_that_breaks_off_is_storages_fault() -> None:
    with answers(200, b"half", {"Content-Length": "8"}) as server:
        storage = S3Storage("bucket", endpoint_url=server.endpoint)
        for size in (-1, 4):
            with (
                storage.open("key") as file,
                pytest.raises(StorageError, match="could not read 'key'"),
            ):
                list(iter(partial(file.read, size), b""))


def test_an_object_that_could_not_be_deleted_is_an_error_unless_it_is_missing() -> None:
    error = "<Error><Key>key</Key><Code>AccessDenied</Code><Message>-</Message></Error>"
    with answers(200, f"<DeleteResult>{error}</DeleteResult>".encode()) as server:
        storage = S3Storage("bucket", endpoint_url=server.endpoint)
        with pytest.raises(StorageError, match="could not delete 1 objects: AccessDenied"):
            storage.delete(["key"])
        server.body = server.body.replace(b"AccessDenied", b"NoSuchKey")
        storage.delete(["key"])


def test_as_many_keys_are_deleted_at_once_as_a_server_takes() -> None:
    with answers(200, b"<DeleteResult/>") as server:
        storage = S3Storage("bucket", endpoint_url=server.endpoint, prefix="images")
        storage.delete(f"key-{number:04}" for number in range(2001))
        bodies = [body for _, body in server.heard]
    assert [body.count(b"<Key>images/key-") for body in bodies] == [1000, 1000, 1]
    assert b"key-2000<" in bodies[2]


def test_requests_are_ones_that_older_servers_understand() -> None:
    """Many know no checksums but MD5, which they insist on for a deletion, and no chunks."""
    with answers(200, b"<DeleteResult/>") as server:
        storage = S3Storage("bucket", endpoint_url=server.endpoint)
        storage.put("key", io.BytesIO(b"bytes"), "image/png")
        storage.delete(["key"])
        stored, deleted = (headers for headers, _ in server.heard)
    assert not [name for name in stored if name.startswith(("x-amz-checksum", "x-amz-trailer"))]
    assert "aws-chunked" not in stored.get("content-encoding", "")
    assert "content-md5" in deleted
