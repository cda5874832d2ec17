"""Results are read: images get rows and jobs, and the bulk of a body is dropped once they are stored."""

import base64
import json
import random
from typing import Any

import pytest
from sqlalchemy import select, update

from app import bodies, jobs
from app.bodies import CHUNK_BYTES
from app.errors import InvalidResultError
from app.jobs import Kind
from app.models import Chunk, Image, ImageStatus, Placement, Task, TaskStatus, Verdict
from app.services import Services
from app.signing import Picture
from tests.core.conftest import count
from tests.factories import (
    callbacks_of,
    deliver,
    due_kinds,
    fail_next,
    failure,
    get_task,
    images_of,
    make_task,
    noisy_png,
    png,
    run_next,
    success,
    take,
    take_large,
    timeline,
)


def in_base64(*images: bytes) -> list[dict[str, Any]]:
    return [{"b64_json": base64.b64encode(image).decode()} for image in images]


def body_of_callback(parts: Services, task: Task) -> dict[str, Any]:
    (callback,) = callbacks_of(parts, task)
    with parts.db.reading() as session:
        return bodies.read_json(b"".join(bodies.read_body(session, callback.id)))


def store_all(parts: Services, task: Task) -> None:
    for _ in images_of(parts, task):
        run_next(parts, Kind.STORE_IMAGE)


def test_each_image_of_a_result_has_a_row_and_a_job(parts: Services) -> None:
    task = make_task(parts)
    payload = success("https://a.test/1", "https://a.test/2")
    payload["data"][1]["revised_prompt"] = "better"

    images = deliver(parts, task, payload)

    assert [(image.index, image.source, image.revised_prompt) for image in images] == [
        (0, "https://a.test/1", None),
        (1, "https://a.test/2", "better"),
    ]
    assert {image.status for image in images} == {ImageStatus.PENDING}
    assert {image.callback_id for image in images} == {get_task(parts, task.id).result_id}
    assert due_kinds(parts) == ["submit", "store_image", "store_image"]


def test_a_small_image_in_the_body_is_kept_in_its_row(sqlite_parts: Services) -> None:
    image = png()
    task = make_task(sqlite_parts)
    (row,) = deliver(sqlite_parts, task, {"data": in_base64(image)})
    assert row.source == f"data:;base64,{base64.b64encode(image).decode()}"

    store_all(sqlite_parts, task)

    assert get_task(sqlite_parts, task.id).status is TaskStatus.SUCCEEDED
    (row,) = images_of(sqlite_parts, task)
    assert (row.size, row.source) == (len(image), "data:")
    # Nothing of the body is worth replacing.
    assert due_kinds(sqlite_parts) == ["submit"]


@pytest.mark.parametrize(
    ("large", "slash"),
    [(True, "\\/"), (False, "/")],
    ids=["in chunks, with slashes as PHP writes them", "in its row"],
)
def test_large_images_in_a_body_are_stored_and_replaced_by_their_addresses(
    parts: Services, large: bool, slash: str
) -> None:
    side = 600 if large else 100
    files = [noisy_png(side, seed=1), noisy_png(side, seed=2)]
    payload: dict[str, Any] = {"data": in_base64(*files), "usage": {"output_tokens": 7}}
    payload["data"][0]["revised_prompt"] = "better"
    # It looks like an image, and is none of those that are stored.
    signature = base64.b64encode(noisy_png(600 if large else 30)).decode()
    payload["data"][0]["signature"] = signature
    body = json.dumps(payload).replace("/", slash).encode()
    task = make_task(parts)
    if large:
        assert len(body) > 2 * CHUNK_BYTES
        take_large(parts, task, body)
        run_next(parts, Kind.INGEST)
        assert get_task(parts, task.id).usage == {"output_tokens": 7}
        run_next(parts, Kind.INGEST)
    else:
        deliver(parts, task, json.loads(body))
    assert [image.source[:5] for image in images_of(parts, task)] == ["body:", "body:"]

    store_all(parts, task)
    assert get_task(parts, task.id).status is TaskStatus.SUCCEEDED
    for image, file in zip(images_of(parts, task), files, strict=True):
        with parts.storage.open(str(image.key)) as stored:
            assert stored.read() == file
    (before,) = callbacks_of(parts, task)
    run_next(parts, Kind.COMPACT)

    (after,) = callbacks_of(parts, task)
    # These describe what came in.
    assert (after.size, after.sha256) == (before.size, before.sha256)
    urls = [parts.picture_url(Picture.OUTPUT, image.id) for image in images_of(parts, task)]
    compacted = body_of_callback(parts, task)
    assert [item["b64_json"] for item in compacted["data"]] == urls
    assert compacted["data"][0]["revised_prompt"] == "better"
    assert compacted["data"][0]["signature"] == signature
    assert compacted["usage"] == {"output_tokens": 7}
    # More than fits in the row is in chunks, still.
    assert count(parts.db, Chunk) == (2 if large else 0)
    assert due_kinds(parts) == ["submit"]
    with parts.db.transaction() as session:
        again = jobs.New(Kind.COMPACT, task.id, get_task(parts, task.id).result_id)
        jobs.enqueue(session, again)
    run_next(parts, Kind.COMPACT)
    assert body_of_callback(parts, task) == compacted


def test_a_large_image_given_as_a_data_url_failed_its_task(sqlite_parts: Services) -> None:
    url = f"data:image/png;base64,{base64.b64encode(noisy_png(100)).decode()}"
    task = make_task(sqlite_parts)

    deliver(sqlite_parts, task, success(url))
    store_all(sqlite_parts, task)

    assert get_task(sqlite_parts, task.id).status is TaskStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"data": [' + b" " * 70_000, "not JSON: "),
        (b"[" + b" " * 70_000 + b"]", "expected a JSON object, not an array"),
        (b'{"a": "\xff' + b" " * 70_000 + b'"}', "not UTF-8: "),
        (b'{"a": ' * 70 + b" " * 70_000 + b"1" + b"}" * 70, "nested deeper than 64 levels"),
        (b'{"a": "' + b"long text " * 110_000 + b'"}', "more than 1048576 bytes that are no image"),
        (
            b'{"padding": "' + b"word " * 20_000 + b'"}',
            "neither a result (data with url or b64_json) nor an error",
        ),
    ],
)
def test_a_large_body_that_is_no_result_is_rejected_and_the_task_goes_on(
    sqlite_parts: Services, body: bytes, reason: str
) -> None:
    task = make_task(sqlite_parts, columns={"status": TaskStatus.SUBMITTED})
    take_large(sqlite_parts, task, body)
    run_next(sqlite_parts, Kind.INGEST)

    assert get_task(sqlite_parts, task.id).status is TaskStatus.SUBMITTED
    (callback,) = callbacks_of(sqlite_parts, task)
    assert callback.verdict is Verdict.REJECTED
    assert str(callback.reason).startswith(reason)
    with sqlite_parts.db.reading() as session:
        assert b"".join(bodies.read_body(session, callback.id)) == body
    assert due_kinds(sqlite_parts) == ["submit"]


def test_a_large_failure_ends_the_task(sqlite_parts: Services) -> None:
    task = make_task(sqlite_parts)
    take_large(sqlite_parts, task, failure("forbidden", padding="word " * 20_000))
    run_next(sqlite_parts, Kind.INGEST)
    task = get_task(sqlite_parts, task.id)
    assert (task.status, task.error_code) == (TaskStatus.FAILED, "forbidden")
    assert due_kinds(sqlite_parts) == ["submit"]


def test_a_result_that_was_superseded_or_is_gone_makes_no_images(parts: Services) -> None:
    superseded, gone = make_task(parts), make_task(parts)
    for task in (superseded, gone):
        take(parts, task, success("https://a.test/1"))
    (callback,) = callbacks_of(parts, gone)
    with parts.db.transaction() as session:
        session.get_one(Task, superseded.id).result_id = None
        session.delete(session.merge(callback))

    for task in (superseded, gone):
        run_next(parts, Kind.INGEST)
        assert images_of(parts, task) == []


def test_a_late_success_replaces_the_images_that_failed(parts: Services) -> None:
    task = make_task(parts)
    deliver(parts, task, {"data": in_base64(b"no image", b"none either")})
    for _ in range(2):
        fail_next(parts, Kind.STORE_IMAGE)
    assert get_task(parts, task.id).status is TaskStatus.FAILED
    # The worker before had put one there, and never came to write that down.
    with parts.db.transaction() as session:
        session.execute(update(Image).filter_by(index=1).values(key="images/left.png"))

    images = deliver(parts, task, {"data": in_base64(png())})
    store_all(parts, task)

    assert len(images) == 1
    assert get_task(parts, task.id).status is TaskStatus.SUCCEEDED
    assert timeline(parts, task)[-2:] == ["image_stored", "succeeded"]
    with parts.db.reading() as session:
        assert session.scalars(select(Placement.key)).all() == ["images/left.png"]


def test_a_result_that_cannot_be_read_any_more_ends_its_task(sqlite_parts: Services) -> None:
    task = make_task(sqlite_parts)
    take(sqlite_parts, task, success())
    (callback,) = callbacks_of(sqlite_parts, task)
    with sqlite_parts.db.transaction() as session:
        session.merge(callback).body = b"{}"

    assert isinstance(fail_next(sqlite_parts, Kind.INGEST), InvalidResultError)

    task = get_task(sqlite_parts, task.id)
    assert (task.status, task.error_code) == (TaskStatus.FAILED, "api_error")
    assert str(task.error_message).startswith("the result could not be read: neither a result")


def test_many_images_of_any_size_come_out_of_one_body(sqlite_parts: Services) -> None:
    parts = sqlite_parts
    files = [noisy_png(side, seed=side) for side in (3, 30, 60, 200, 400)]
    random.Random(1).shuffle(files)
    task = make_task(parts)
    take_large(parts, task, {"data": in_base64(*files)})
    run_next(parts, Kind.INGEST)
    run_next(parts, Kind.INGEST)
    store_all(parts, task)

    for image, file in zip(images_of(parts, task), files, strict=True):
        with parts.storage.open(str(image.key)) as stored:
            assert stored.read() == file
