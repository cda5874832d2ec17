"""Storage in a bucket of Amazon S3 or of any server that speaks its protocol."""

import base64
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict, cast
from urllib.parse import quote

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from app.errors import MissingObjectError, StorageError
from app.storage.checks import BoundedCheck
from app.storage.keys import check_key

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from botocore.awsrequest import AWSRequest
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

ADDRESS_SECONDS = 3600
CHECK_SECONDS = 5.0

# Every part of a large file is this large, but for the last; S3 wants 5 MiB at least.
_PART_BYTES = 8 * 2**20
_READ_BYTES = 64 * 2**10
# As many as S3 takes in one request.
_DELETE_KEYS = 1000
_ERRORS = (BotoCoreError, ClientError, HTTPError, OSError)


class _Target(TypedDict):
    Bucket: str
    Key: str


class _Headers(TypedDict):
    CacheControl: str
    ContentDisposition: str
    ContentType: str


class S3Storage:
    """Storage in `bucket`; the credentials and the region are those that boto3 finds.

    `prefix`, if any, comes before every key, with one slash between.  `public_url` is where anybody
    reads the bucket's objects; without it addresses are signed for `address_seconds`.  Every
    request is tried twice, each time with these time-outs.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint_url: str | None = None,
        prefix: str = "",
        public_url: str | None = None,
        address_seconds: int = ADDRESS_SECONDS,
        connect_seconds: float = 5,
        read_seconds: float = 30,
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/") and f"{prefix.strip('/')}/"
        self._public_url = public_url
        self._address_seconds = address_seconds
        session = boto3.session.Session()
        self._client = _client(session, endpoint_url, connect_seconds, read_seconds, attempts=2)
        # One attempt, over within CHECK_SECONDS.
        self._check_client = _client(session, endpoint_url, 2, 3, attempts=1)
        self._check = BoundedCheck(self._probe, seconds=CHECK_SECONDS)

    def put(self, key: str, file: BinaryIO, content_type: str) -> None:
        target, headers = self._target(key), _headers(content_type)
        part = file.read(_PART_BYTES)
        if len(part) < _PART_BYTES:
            with self._reported(f"store {key!r}"):
                self._client.put_object(**target, **headers, Body=part)
            return
        with self._multipart(target, headers, f"store {key!r}") as add:
            while part:
                add(part)
                # Released before the next one is read, so that only one is in memory.
                del part
                part = file.read(_PART_BYTES)

    def open(self, key: str) -> BinaryIO:
        target = self._target(key)
        doing = f"read {key!r}"
        with self._reported(doing):
            try:
                body = self._client.get_object(**target)["Body"]
            except ClientError as error:
                # A server that answers without a body leaves only the status.
                if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
                    raise MissingObjectError(f"nothing is stored under {key!r}") from None
                raise
        return io.BufferedReader(_Body(body, lambda: self._reported(doing)), _READ_BYTES)

    def delete(self, keys: Iterable[str]) -> None:
        names = [self._target(key)["Key"] for key in keys]
        for start in range(0, len(names), _DELETE_KEYS):
            self._delete_batch(names[start : start + _DELETE_KEYS])

    def address(self, key: str, method: str = "GET") -> str:
        target = self._target(key)
        if self._public_url:
            return f"{self._public_url}/{quote(target['Key'])}"
        # The method is signed, too.
        operation = "head_object" if method == "HEAD" else "get_object"
        with self._reported(f"sign an address of {key!r}"):
            return self._client.generate_presigned_url(
                operation, Params=dict(target), ExpiresIn=self._address_seconds
            )

    def check(self) -> None:
        self._check()

    def _target(self, key: str) -> _Target:
        check_key(key)
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _delete_batch(self, names: list[str]) -> None:
        doing = f"delete {len(names)} objects"
        with self._reported(doing):
            answer = self._client.delete_objects(
                Bucket=self._bucket,
                Delete={"Objects": [{"Key": name} for name in names], "Quiet": True},
            )
        for error in answer.get("Errors", ()):
            if error.get("Code") != "NoSuchKey":
                raise self._error(doing, str(error.get("Code")))

    def _probe(self) -> None:
        # A write, because a bucket that can be seen may still refuse or be full.  Where objects
        # have versions each check would leave one: so exactly the one written is deleted.
        target: _Target = {"Bucket": self._bucket, "Key": f"{self._prefix}.check"}
        with self._reported("be written to"):
            written = self._check_client.put_object(**target, Body=b"check")
        # Whoever may write but not delete is ready nevertheless.
        with suppress(*_ERRORS):
            if version := written.get("VersionId"):
                self._check_client.delete_object(**target, VersionId=version)
            else:
                self._check_client.delete_object(**target)

    @contextmanager
    def _multipart(
        self, target: _Target, headers: _Headers, doing: str
    ) -> Iterator[Callable[[bytes], None]]:
        """Gives a function that adds a part; after the block the object is there, or nothing is."""
        with self._reported(doing):
            upload = self._client.create_multipart_upload(**target, **headers)["UploadId"]
        parts: list[CompletedPartTypeDef] = []

        def add(part: bytes) -> None:
            number = len(parts) + 1
            with self._reported(doing):
                answer = self._client.upload_part(
                    **target, UploadId=upload, PartNumber=number, Body=part
                )
            parts.append({"ETag": answer["ETag"], "PartNumber": number})

        try:
            yield add
            with self._reported(doing):
                self._client.complete_multipart_upload(
                    **target, UploadId=upload, MultipartUpload={"Parts": parts}
                )
        except BaseException:
            # Parts are kept, and paid for, until somebody does this.
            with suppress(*_ERRORS):
                self._client.abort_multipart_upload(**target, UploadId=upload)
            raise

    @contextmanager
    def _reported(self, doing: str) -> Iterator[None]:
        try:
            yield
        except _ERRORS as error:
            raise self._error(doing, _reason(error)) from error

    def _error(self, doing: str, reason: str) -> StorageError:
        # Without the name of the bucket: anybody may read what `/readyz` says.
        return StorageError(f"S3 could not {doing}: {reason}")


class _Body(io.RawIOBase):
    """An object's bytes as they arrive; that they don't is storage's error."""

    def __init__(
        self, body: "StreamingBody", reported: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._body = body
        self._reported = reported

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        with self._reported():
            data = self._body.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        with self._reported():
            return self._body.read()

    def close(self) -> None:
        self._body.close()
        super().close()


def _headers(content_type: str) -> _Headers:
    return {
        # What a key holds never changes.
        "CacheControl": "public, max-age=31536000, immutable",
        "ContentDisposition": "inline",
        "ContentType": content_type,
    }


def _client(
    session: boto3.session.Session,
    endpoint_url: str | None,
    connect_seconds: float,
    read_seconds: float,
    *,
    attempts: int,
) -> "S3Client":
    config = Config(
        signature_version="s3v4",
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        # Few: what fails is a job's, and that is tried again.
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
        # Servers that are not Amazon's often don't know the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Amazon's addresses name their region: others redirect while a bucket is new, and the
        # signature, which is for one host, does not survive that.
        s3={
            "addressing_style": "path" if endpoint_url else "virtual",
            "us_east_1_regional_endpoint": "regional",
        },
    )
    # boto3 itself reads only AWS_DEFAULT_REGION, unlike Amazon's other kits.
    region = os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
    client = session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)
    if endpoint_url:
        client.meta.events.register("before-sign.s3.DeleteObjects", _add_md5)
    return client


def _add_md5(request: "AWSRequest", **_: Any) -> None:
    """Servers that are not Amazon's often insist on this header, which boto3 no longer sends."""
    body = cast(bytes, request.body)
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


def _reason(error: Exception) -> str:
    """In our words: the server's own may hold anything, and these are shown to people."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return f"{status} {error.response['Error']['Code']}"
    return type(error).__name__
