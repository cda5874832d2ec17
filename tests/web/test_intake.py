"""Reading a body: inflated, counted, within limits of bytes and of time."""

import gzip
import io
import json
import socket
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.bodies import INLINE_BYTES
from app.errors import UnavailableError
from app.jobs import Kind
from app.models import Task
from app.web.intake import READ_SECONDS, Budget
from tests.factories import make_task, run_next, success
from tests.web.sites import DUPLICATE, Site, accepted, error_of, json_of

MIB = 2**20
BODY = json.dumps(success()).encode()


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


PACKED = [
    ("gzip", gzip.compress(BODY)),
    ("x-gzip", gzip.compress(BODY)),
    (" GZip ", gzip.compress(BODY)),
    ("gzip", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])),
    ("deflate", zlib.compress(BODY)),
    ("deflate", raw_deflate(BODY)),
    ("deflate", zlib.compress(BODY, 0)),
    ("identity", BODY),
]


class Pieces(io.RawIOBase):
    """A body that arrives in these pieces, as one without a declared length does."""

    def __init__(self, pieces: Iterable[bytes], error: Exception | None = None) -> None:
        self.pieces = iter(pieces)
        self.error = error
        self.given = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = next(self.pieces, b"")
        assert size < 0 or len(piece) <= size
        if not piece and self.error:
            raise self.error
        self.given += len(piece)
        return piece


def send(site: Site, task: Task, body: object, **environ: Any) -> TestResponse:
    return site.send("POST", site.callback_path(task), body, environ)


def test_a_packed_body_is_inflated_kept_so_and_the_same_in_every_packing(
    sqlite_site: Site,
) -> None:
    first = make_task(sqlite_site.parts)
    sqlite_site.post_back(first, BODY)
    for encoding, packed in PACKED:
        task = make_task(sqlite_site.parts)
        response = sqlite_site.post_back(task, packed, Content_Encoding=encoding)
        assert json_of(response) == accepted(task)
        (callback,) = sqlite_site.callbacks(task_id=str(task.id))
        assert callback["bytes"] == len(BODY)
        assert sqlite_site.get(f"/v1/callbacks/{callback['id']}/body").get_data() == BODY
        again = sqlite_site.post_back(first, packed, Content_Encoding=encoding)
        assert json_of(again) == DUPLICATE


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda _: b"no archive at all", "the compressed body is broken"),
        (lambda packed: packed[:-6], "it ends too early"),
        (lambda packed: packed[:10] + b"\xff\xff" + packed[12:], "the compressed body is broken"),
        (lambda packed: packed + b"and more", "something follows its end"),
        (lambda packed: packed + 1000 * gzip.compress(b""), "something follows its end"),
        (lambda _: b"", "it ends too early"),
    ],
)
def test_a_broken_archive_is_kept_as_far_as_it_goes(
    sqlite_site: Site, encoding: str, spoil: Callable[[bytes], bytes], reason: str
) -> None:
    task = make_task(sqlite_site.parts)
    packed = gzip.compress(BODY) if encoding == "gzip" else zlib.compress(BODY)
    error = error_of(sqlite_site.post_back(task, spoil(packed), Content_Encoding=encoding), 422)

    assert error["code"] == "invalid_callback"
    assert error["message"].startswith("the compressed body is broken: ")
    assert reason in error["message"]
    (entry,) = sqlite_site.rejections()
    kept = sqlite_site.get(f"/v1/callbacks/{entry['id']}/body").get_data()
    assert BODY.startswith(kept)
    assert sqlite_site.look_up(task)["status"] == "queued"


def test_what_a_large_broken_archive_held_can_be_read_again(sqlite_site: Site) -> None:
    site = sqlite_site
    task = make_task(site.parts)
    body = json.dumps(success(padding=3 * INLINE_BYTES * "x")).encode()
    packed = gzip.compress(body)[:-8]
    messages = [
        error_of(site.post_back(task, packed, Content_Encoding="gzip"), 422)["message"]
        for _ in range(2)
    ]

    assert messages == 2 * ["the compressed body is broken: it ends too early"]
    (entry,) = site.rejections()
    assert (entry["bytes"], entry["duplicates"]) == (len(body), 1)
    assert site.get(f"/v1/callbacks/{entry['id']}/body").get_data() == body


def test_an_unknown_encoding_is_refused(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    for encoding in ("br", "zstd", "compress", "gzip, gzip", "nonsense"):
        error = error_of(sqlite_site.post_back(task, BODY, Content_Encoding=encoding), 415)
        assert error["code"] == "unsupported_media_type"
        assert repr(encoding) in error["message"]
        entry = sqlite_site.rejections()[0]
        assert (entry["reason"], entry["task_id"]) == (error["message"], str(task.id))
    assert sqlite_site.look_up(task)["status"] == "queued"


@pytest.fixture
def strict(site_with: Callable[..., Site]) -> Site:
    """An application that takes no more than a mebibyte."""
    return site_with(max_callback_bytes="1MiB")


def test_a_body_of_exactly_the_limit_is_taken(site_with: Callable[..., Site]) -> None:
    site = site_with(max_callback_bytes="100KiB")
    task = make_task(site.parts)
    padding = 100 * 1024 - len(json.dumps(success(padding="")))
    body = json.dumps(success(padding=padding * "x")).encode()

    assert site.post_back(task, body).status_code == 200
    assert error_of(site.post_back(task, body + b" "), 413)["code"] == "too_large"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused_before_it_goes_off(strict: Site, encoding: str) -> None:
    zeros = bytes(100 * MIB)
    bomb = gzip.compress(zeros, 9) if encoding == "gzip" else zlib.compress(zeros, 9)
    assert len(bomb) < MIB

    packed = {"CONTENT_LENGTH": str(len(bomb)), "HTTP_CONTENT_ENCODING": encoding}
    _refuses_as_too_large(strict, io.BytesIO(bomb), declared=len(bomb), **packed)


def test_what_follows_an_archive_is_not_read_for_ever(strict: Site) -> None:
    task = make_task(strict.parts)
    body = Pieces([gzip.compress(BODY), *(64 * 1024 * b"x" for _ in range(100))])
    error = error_of(send(strict, task, body, HTTP_CONTENT_ENCODING="gzip"), 422)

    assert "something follows its end" in error["message"]
    assert body.given <= 2 * 64 * 1024


def test_packed_bytes_count_too(strict: Site) -> None:
    # Empty blocks: an archive without end of which nothing comes out.
    body = Pieces([b"\x78\x9c", *(b"\x00\x00\x00\xff\xff" * 1000 for _ in range(10_000))])

    _refuses_as_too_large(strict, body, HTTP_CONTENT_ENCODING="deflate")


def _refuses_as_too_large(
    site: Site, body: object, *, declared: int | None = None, **environ: str
) -> None:
    task = make_task(site.parts)
    error = error_of(send(site, task, body, **environ), 413)
    assert error["code"] == "too_large"
    (entry,) = site.rejections()
    assert entry["reason"] == error["message"]
    assert (entry["task_id"], entry["bytes"]) == (str(task.id), declared)
    assert site.look_up(task)["status"] == "queued"


def test_of_a_body_that_ends_too_early_nothing_is_kept(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    for declared in (len(BODY) + 1, 1_000_000):
        response = send(sqlite_site, task, io.BytesIO(BODY), CONTENT_LENGTH=str(declared))
        error = error_of(response, 400)
        assert error["code"] == "bad_request"
        assert error["message"] == f"the body was cut short after {len(BODY)} bytes"
    for end in (ConnectionResetError("reset"), TimeoutError("timed out")):
        error = error_of(send(sqlite_site, task, Pieces([BODY], end)), 400)
        assert error["code"] == "bad_request"
    assert sqlite_site.callbacks() == []


def test_a_silent_client_is_not_waited_for_for_ever(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        waits: list[float | None] = []

        class Watched(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                waits.append(ours.gettimeout())
                return super().read(size)

        environ = {"gunicorn.socket": ours, "CONTENT_LENGTH": str(len(BODY))}
        assert send(sqlite_site, task, Watched(BODY), **environ).status_code == 200
        # And whatever the server does with the connection next is as patient as before.
        assert ours.gettimeout() is None
    assert set(waits) == {READ_SECONDS}


def test_a_budget_is_given_back_to_be_taken_again() -> None:
    budget = Budget(100)
    budget.take(60)
    with pytest.raises(UnavailableError):
        budget.take(41)
    budget.take(40)
    budget.give_back(60)
    budget.take(60)


def test_a_refused_body_gives_its_budget_back(site_with: Callable[..., Site]) -> None:
    # There is room for four bodies of the largest size at once: one that kept its share would soon
    # make the fifth wait for ever.
    site = site_with(max_callback_bytes="100KiB")
    task = make_task(site.parts)
    for _ in range(6):
        error_of(send(site, task, Pieces(200 * [1024 * b"x"])), 413)
        error_of(send(site, task, Pieces(90 * [1024 * b"x"]), CONTENT_LENGTH="95000"), 400)

    body = json.dumps(success(padding=90 * 1024 * "x")).encode()
    assert site.post_back(task, body).status_code == 200


@pytest.mark.parametrize("padding", ["", 70_000 * "x"], ids=["small", "large"])
def test_a_transfer_that_broke_off_does_not_count_against_the_same_body_whole(
    site: Site, padding: str
) -> None:
    task = make_task(site.parts)
    body = json.dumps(success(padding=padding)).encode()
    packed = gzip.compress(body)
    # All of the body is there, and only the checksum after it is missing.
    for _ in range(2):
        assert site.post_back(task, packed[:-4], Content_Encoding="gzip").status_code == 422
    assert site.look_up(task)["status"] == "queued"

    answers = [json_of(site.post_back(task, body))["status"] for _ in range(2)]

    assert answers == ["accepted", "duplicate"]
    if padding:
        run_next(site.parts, Kind.INGEST)
    assert site.look_up(task)["status"] == "received"
    (callback,) = site.callbacks()
    assert (callback["verdict"], callback["reason"], callback["duplicates"]) == (
        "accepted",
        None,
        2,
    )
    assert site.get(f"/v1/callbacks/{callback['id']}/body").data == body
