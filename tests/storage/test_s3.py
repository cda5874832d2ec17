"""What only the S3 driver does, against a real server, and with answers that only a broken one gives."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import urllib3

from app.errors import StorageError
from app.storage.s3 import S3Storage
from tests.factories import eventually
from tests.servers.swift import STRANGER_ACCESS_KEY, STRANGER_SECRET_KEY, Swift
from tests.storage.refusals import SECRET, acts, assert_refused
from tests.storage.targets import MIB, ROOT, S3Target, build, put, read

S3TargetFactory = Callable[..., S3Target]

STRANGER = {
    "AWS_ACCESS_KEY_ID": STRANGER_ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": STRANGER_SECRET_KEY,
}


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """The block is over in time."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param(
            {"AWS_SECRET_ACCESS_KEY": SECRET}, "403 SignatureDoesNotMatch", id="a wrong secret"
        ),
        pytest.param({"AWS_ACCESS_KEY_ID": "test:nobody"}, "403 ", id="an unknown access key"),
        pytest.param(STRANGER, "AccessDenied", id="rights that do not suffice"),
        pytest.param({"S3_BUCKET": "no-such-bucket"}, "404 NoSuchBucket", id="no such bucket"),
    ],
)
def test_a_refusal_is_storages_fault_and_no_missing_object(
    s3_target: S3TargetFactory, settings: dict[str, str], reason: str
) -> None:
    assert_refused(s3_target(**settings).storage, reason)


def test_missing_credentials_are_storages_fault(
    s3: S3Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    storage = S3Storage(s3.bucket, endpoint_url=s3.environ["S3_ENDPOINT_URL"])
    assert_refused(storage, "NoCredentialsError")
    with pytest.raises(StorageError, match="NoCredentialsError"):
        storage.address("key")


def test_storage_that_is_down_fails_soon_and_works_when_it_is_back(
    s3: S3Target, swift: Swift
) -> None:
    put(s3.storage, "before")
    with swift.down():
        for act in acts(s3.storage):
            with at_most(10), pytest.raises(StorageError, match="EndpointConnectionError"):
                act()
    s3.storage.check()
    assert read(s3.storage, "before") == b"bytes"
    put(s3.storage, "after")
    assert s3.names() == {"before", "after"}


def test_storage_that_hangs_fails_within_its_time_outs(s3: S3Target, swift: Swift) -> None:
    storage = S3Storage(s3.bucket, endpoint_url=swift.endpoint, read_seconds=0.5)
    with swift.hanging(), ThreadPoolExecutor(1) as threads, at_most(6):
        check = threads.submit(s3.storage.check)
        with at_most(5), pytest.raises(StorageError, match="ReadTimeoutError"):
            put(storage, "key")
        with pytest.raises(StorageError, match="ReadTimeoutError"):
            check.result()
    s3.storage.check()


# With a part to come, and when only completing is left.
@pytest.mark.parametrize("read_before", [8 * MIB, 16 * MIB])
def test_storage_that_goes_down_amid_a_large_file_leaves_nothing_to_see(
    s3: S3Target, swift: Swift, read_before: int
) -> None:
    class Source(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() == read_before:
                swift.stop()
            return super().read(size)

    try:
        with at_most(15), pytest.raises(StorageError, match="could not store 'key'"):
            s3.storage.put("key", Source(bytes(16 * MIB)), "image/png")
    finally:
        swift.start()
    assert s3.names() == set()


def test_an_address_gives_one_file_and_its_type_to_anybody_for_an_hour(s3: S3Target) -> None:
    put(s3.storage, "two")
    for key, data in (("small", b"bytes"), ("large", os.urandom(9 * MIB))):
        put(s3.storage, key, data)
        address = s3.storage.address(key)
        assert address
        answer = urllib3.request("GET", address)
        assert (answer.status, answer.data) == (200, data)
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["Content-Disposition"] == "inline"
        assert "X-Amz-Expires=3600&" in address
        head = urllib3.request("HEAD", s3.storage.address(key, "HEAD") or "")
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(data)))
        assert urllib3.request("GET", address.replace(f"/{key}?", "/two?")).status == 403
        assert urllib3.request("GET", address.partition("?")[0]).status >= 400


def test_an_address_expires(s3: S3Target) -> None:
    endpoint = s3.environ["S3_ENDPOINT_URL"]
    storage = S3Storage(s3.bucket, endpoint_url=endpoint, address_seconds=2)
    put(storage, "key")
    address = storage.address("key")
    assert urllib3.request("GET", address).status == 200
    eventually(lambda: urllib3.request("GET", address).status != 200)
    answer = urllib3.request("GET", address)
    assert (answer.status, b"Request has expired" in answer.data) == (403, True)


def test_a_public_address_needs_no_signature(s3: S3Target, swift: Swift) -> None:
    swift.client.put_bucket_acl(Bucket=s3.bucket, ACL="public-read")
    public_url = swift.public_url(s3.bucket)
    storage = build({**s3.environ, "S3_PREFIX": "images", "S3_PUBLIC_URL": f"{public_url}/"})
    put(storage, "ü/1 %?.png")
    address = storage.address("ü/1 %?.png")
    assert address == f"{public_url}/images/%C3%BC/1%20%25%3F.png"
    assert urllib3.request("GET", address).data == b"bytes"


@pytest.mark.parametrize(
    ("prefix", "name"), [("", "k"), ("/", "k"), ("a", "a/k"), ("/a/b/", "a/b/k")]
)
def test_the_prefix_and_one_slash_come_before_every_key(
    s3_target: S3TargetFactory, prefix: str, name: str
) -> None:
    target = s3_target(S3_PREFIX=prefix)
    put(target.storage, "k")
    assert target.names() == {name}
    assert read(target.storage, "k") == b"bytes"
    address = target.storage.address("k")
    assert address
    assert urllib3.request("GET", address).data == b"bytes"
    target.storage.delete(["k"])
    target.storage.check()
    assert target.names() == set()


def test_check_leaves_no_versions(s3: S3Target, swift: Swift) -> None:
    swift.client.put_bucket_versioning(
        Bucket=s3.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    s3.storage.check()
    s3.storage.check()
    versions = swift.client.list_object_versions(Bucket=s3.bucket)
    assert not versions.get("Versions")
    assert not versions.get("DeleteMarkers")


@pytest.mark.usefixtures("aws_environ")
@pytest.mark.parametrize(
    ("settings", "host", "region"),
    [
        ({}, "pictures.s3.us-east-1.amazonaws.com", "us-east-1"),
        ({"AWS_REGION": "eu-west-1"}, "pictures.s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "pictures.s3.eu-west-1.amazonaws.com", "eu-west-1"),
    ],
)
def test_an_address_at_amazon_names_the_region(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], host: str, region: str
) -> None:
    """With another host Amazon redirects while the bucket is new, and the signature is void then."""
    monkeypatch.delenv("AWS_REGION")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    address = S3Storage("pictures").address("key")
    assert address.startswith(f"https://{host}/key?")
    assert f"%2F{region}%2Fs3%2F" in address


@pytest.mark.usefixtures("aws_environ")
def test_an_address_elsewhere_has_the_bucket_in_its_path() -> None:
    storage = S3Storage("pictures", endpoint_url="https://storage.example.com:9000")
    assert storage.address("key").startswith("https://storage.example.com:9000/pictures/key?")


def test_memory_does_not_grow_with_the_file(s3: S3Target) -> None:
    command = [sys.executable, "-m", "tests.storage.programs", "grow", "40"]
    environ = {**os.environ, **s3.environ}
    output = subprocess.check_output(command, cwd=ROOT, env=environ)  # noqa: S603 - our own program
    growth = json.loads(output)
    assert s3.client.head_object(Bucket=s3.bucket, Key="large")["ContentLength"] == 40 * MIB
    assert growth["stored"] < 24 * MIB
    assert growth["read"] < 4 * MIB
