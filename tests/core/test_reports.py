"""Lookups: what is found, in which order, and how it is shown."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app import inbox, reports
from app.bodies import Body
from app.errors import NotFoundError
from app.inbox import Incoming
from app.jobs import Kind
from app.models import Input, Role, Source, Task, TaskStatus, Verdict, first_id, new_id
from app.reports import CallbackFilter, TaskFilter
from app.services import Services
from app.signing import Picture
from tests.core.sites import Site
from tests.factories import (
    PUBLIC_URL,
    callbacks_of,
    deliver,
    fail_next,
    failure,
    get_task,
    images_of,
    make_task,
    png,
    run_next,
    success,
    take,
    with_id,
)


def found(parts: Services, limit: int = 50, **wanted: Any) -> list[UUID]:
    with parts.db.reading() as session:
        rows, _ = reports.list_tasks(session, TaskFilter(**wanted), limit=limit, before=None)
    return [row.id for row in rows]


def shown(parts: Services, task: Task) -> dict[str, Any]:
    with parts.db.reading() as session:
        return reports.task_in_full(parts, session, session.get_one(Task, task.id))


# One task.


def test_a_task_is_found_by_our_id(parts: Services) -> None:
    task = make_task(parts)
    with parts.db.reading() as session:
        for spelled in (str(task.id), task.id.hex, str(task.id).upper()):
            assert reports.find_task(session, spelled).id == task.id


def test_a_task_is_found_by_the_providers_id(parts: Services) -> None:
    for provider_id in ("task_abc", str(new_id()), "\u00e9"):
        task = make_task(parts, columns={"provider_task_id": provider_id})
        with parts.db.reading() as session:
            assert reports.find_task(session, provider_id).id == task.id


def test_a_task_that_is_not_there_is_not_found(parts: Services) -> None:
    make_task(parts)
    for id_ in (str(new_id()), "nothing", "", "\x00", "\ud800", "x" * 10_000):
        with parts.db.reading() as session, pytest.raises(NotFoundError, match="there is no task"):
            reports.find_task(session, id_)


def test_a_new_task_is_shown_with_everything_still_open(parts: Services) -> None:
    task = make_task(parts, trace_id="mine", metadata={"a": "b"}, sparkle=11)

    report = shown(parts, task)

    assert report == {
        "task_id": str(task.id),
        "provider": "acedata",
        "provider_task_id": None,
        "trace_id": "mine",
        "status": "queued",
        "model": "gpt-image-2",
        "prompt": "make it sepia",
        "metadata": {"a": "b"},
        "request": task.request,
        "images": [],
        "inputs": [
            {
                "index": 0,
                "role": "image",
                "url": "https://example.com/photo.png",
                "content_type": None,
                "bytes": None,
            }
        ],
        "usage": None,
        "error": None,
        "verification": None,
        "callbacks": [],
        "timeline": [{"at": report["timeline"][0]["at"], "event": "created", "detail": {}}],
        "created_at": reports.rfc3339(task.created_at),
        "submitted_at": None,
        "received_at": None,
        "finished_at": None,
    }


def test_a_task_that_succeeded_is_shown_with_its_images(parts: Services, host: Site) -> None:
    task = make_task(parts)
    urls = [host.serve("/good", png(20, 10)), host.serve("/bad", b"<html>")]
    payload = success(*urls, task_id="theirs", usage={"input_tokens": 775})
    payload["data"][0]["revised_prompt"] = "better"
    deliver(parts, task, payload)
    run_next(parts, Kind.STORE_IMAGE)
    fail_next(parts, Kind.STORE_IMAGE)

    report = shown(parts, task)

    good, bad = images_of(parts, task)
    assert report["status"] == "succeeded"
    assert (report["usage"], report["verification"]) == ({"input_tokens": 775}, "token")
    assert report["images"][0] == {
        "index": 0,
        "url": parts.picture_url(Picture.OUTPUT, good.id, "png"),
        "thumbnail_url": parts.picture_url(Picture.THUMBNAIL, good.id, "webp"),
        "content_type": "image/png",
        "bytes": good.size,
        "width": 20,
        "height": 10,
        "sha256": good.sha256,
        "revised_prompt": "better",
        "status": "stored",
    }
    failed = report["images"][1]
    assert failed["url"] == parts.picture_url(Picture.OUTPUT, bad.id)
    assert failed["thumbnail_url"] is None
    assert (failed["status"], failed["error"]["code"]) == ("failed", "not_an_image")
    (callback,) = callbacks_of(parts, task)
    assert report["callbacks"] == [
        {
            "id": str(callback.id),
            "source": "callback",
            "verdict": "accepted",
            "received_at": reports.rfc3339(callback.received_at),
            "bytes": callback.size,
            "sha256": callback.sha256,
        }
    ]
    assert [entry["event"] for entry in report["timeline"]] == [
        "created",
        "received",
        "image_stored",
        "image_failed",
        "succeeded",
    ]


def test_a_task_that_failed_is_shown_with_its_error(parts: Services) -> None:
    task = make_task(parts)
    take(parts, task, failure("forbidden", "not nice"))
    report = shown(parts, task)
    assert report["status"] == "failed"
    assert report["error"] == {"code": "forbidden", "message": "not nice"}
    assert report["finished_at"] == reports.rfc3339(get_task(parts, task.id).finished_at)


def test_inputs_are_shown_in_their_order_and_uploaded_ones_at_our_address(parts: Services) -> None:
    task = make_task(parts)
    with parts.db.transaction() as session:
        mask = Input(task_id=task.id, role=Role.MASK, index=0, key="inputs/mask.png", size=5)
        upload = Input(task_id=task.id, role=Role.IMAGE, index=1, key="inputs/a.png")
        session.add_all([mask, upload])
    inputs = shown(parts, task)["inputs"]
    assert [(item["role"], item["index"], item["bytes"]) for item in inputs] == [
        ("image", 0, None),
        ("image", 1, None),
        ("mask", 0, 5),
    ]
    assert inputs[2]["url"].startswith(f"{PUBLIC_URL}/images/i.{mask.id.hex}.")


# Lists.


def test_tasks_are_listed_with_the_newest_first(parts: Services) -> None:
    ids = [make_task(parts).id for _ in range(3)]
    assert found(parts) == ids[::-1]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"columns": {"status": TaskStatus.FAILED}}, {"status": TaskStatus.FAILED}),
        ({"columns": {"provider": "agcloud"}}, {"provider": "agcloud"}),
        ({"model": "dall-e-2"}, {"model": "dall-e-2"}),
        ({"trace_id": "mine"}, {"trace_id": "mine"}),
        ({"prompt": "A Cat on 100% grass_"}, {"q": "cat"}),
        ({"prompt": "A Cat on 100% grass_"}, {"q": "grass_  CAT"}),
        ({"prompt": "A Cat on 100% grass_"}, {"q": "100%"}),
        ({"prompt": "deadbeef"}, {"q": "deadbeef"}),
        ({"columns": {"provider_task_id": "Task_a%b"}}, {"q": "Task_a%b"}),
        # The provider's id was looked for only where it could have been one of ours.
        ({"columns": {"provider_task_id": "Task_a%b"}}, {"q": "Task_a"}),
        ({"columns": {"provider_task_id": "0123abcd-1"}}, {"q": " 0123abcd "}),
        ({"model": "dall-e-2", "trace_id": "mine"}, {"model": "dall-e-2", "trace_id": "mine"}),
    ],
)
def test_a_filter_finds_one_among_others(
    parts: Services, fields: dict[str, Any], wanted: dict[str, Any]
) -> None:
    make_task(parts, model="dall-e-3")
    task = make_task(parts, **fields)
    make_task(parts, trace_id="yours")
    assert found(parts, **wanted) == [task.id]


def test_a_task_is_found_by_the_beginning_of_its_id(parts: Services) -> None:
    task = make_task(parts)
    with_id(parts, make_task(parts), UUID("ffffffff-ffff-7fff-8fff-ffffffffffff"))
    for length in (1, 8, 9, 13, 24, 32, 36):
        assert found(parts, q=str(task.id)[:length]) == [task.id]
        assert found(parts, q=str(task.id)[:length].upper()) == [task.id]


def test_what_is_nowhere_is_not_found(parts: Services) -> None:
    make_task(parts, prompt="a cat")
    for q in ("dog", "cat dog", "%", "cat_", "\\", "\x00", "\ud800", "-", "f" * 40, "0" * 32):
        assert found(parts, q=q) == []


def test_looking_for_nothing_finds_everything(parts: Services) -> None:
    # With blanks this was a condition without any, which SQLAlchemy is about to refuse.
    task = make_task(parts)
    for q in ("", " ", "\t \n"):
        assert found(parts, q=q) == [task.id]


def test_tasks_are_found_by_when_they_were_created(parts: Services) -> None:
    now = datetime.now(UTC)
    ids = [UUID(int=first_id(now - timedelta(hours=hours)).int + 1) for hours in (3, 2, 1)]
    for id_ in ids:
        with_id(parts, make_task(parts), id_)
    assert found(parts, created_after=now - timedelta(hours=2)) == [ids[2], ids[1]]
    assert found(parts, created_before=now - timedelta(hours=2)) == [ids[0]]
    after, before = now - timedelta(hours=2.5), now - timedelta(hours=1.5)
    assert found(parts, created_after=after, created_before=before) == [ids[1]]


def test_pages_stay_the_same_while_new_tasks_come(parts: Services) -> None:
    ids = [make_task(parts).id for _ in range(7)][::-1]
    seen: list[UUID] = []
    before = None
    pages = 0
    while True:
        with parts.db.reading() as session:
            rows, before = reports.list_tasks(session, TaskFilter(), limit=3, before=before)
        seen += [row.id for row in rows]
        pages += 1
        if before is None:
            break
        make_task(parts)

    assert seen == ids
    assert pages == 3


def test_a_last_page_that_is_full_has_no_next_one(parts: Services) -> None:
    for _ in range(2):
        make_task(parts)
    with parts.db.reading() as session:
        rows, before = reports.list_tasks(session, TaskFilter(), limit=2, before=None)
    assert (len(rows), before) == (2, None)


def test_short_forms_have_each_their_own_images(parts: Services) -> None:
    tasks = [make_task(parts) for _ in range(3)]
    deliver(parts, tasks[0], success("https://a.test/1", "https://a.test/2"))
    deliver(parts, tasks[2], success("https://a.test/3"))
    with parts.db.reading() as session:
        rows = [session.get_one(Task, task.id) for task in tasks]
        short = reports.tasks_in_short(parts, session, rows)
    assert [len(item["images"]) for item in short] == [2, 0, 1]
    assert not {"request", "inputs", "callbacks", "timeline"} & set(short[0])


# The log of callbacks.


def refuse(parts: Services, task: Task | None, reason: str, **body: Any) -> None:
    incoming = Incoming(
        Source.CALLBACK,
        Body(**body),
        task.id if task else None,
        reason=reason,
        address="192.0.2.7",
    )
    with parts.db.transaction() as session:
        inbox.take_in(session, [incoming])


def logged(parts: Services, limit: int = 50, **wanted: Any) -> list[dict[str, Any]]:
    with parts.db.reading() as session:
        items, _ = reports.list_callbacks(
            session, CallbackFilter(**wanted), limit=limit, before=None
        )
    return items


def test_the_log_has_every_callback_with_the_newest_first(parts: Services) -> None:
    one, two = make_task(parts), make_task(parts)
    take(parts, one, success())
    take(parts, one, success())
    take(parts, one, failure())
    refuse(parts, two, "not JSON")
    refuse(parts, None, "token: forged", size=512)

    log = logged(parts)

    assert [(item["verdict"], item["reason"]) for item in log] == [
        ("rejected", "token: forged"),
        ("rejected", "not JSON"),
        ("conflict", None),
        ("accepted", None),
    ]
    assert [item["task_id"] for item in log] == [None, str(two.id), str(one.id), str(one.id)]
    assert set(log[0]) == {
        "id",
        "task_id",
        "verdict",
        "reason",
        "source",
        "address",
        "bytes",
        "sha256",
        "duplicates",
        "received_at",
    }
    assert (log[0]["address"], log[0]["bytes"], log[3]["duplicates"]) == ("192.0.2.7", 512, 1)
    assert [item["id"] for item in logged(parts, verdict=Verdict.CONFLICT)] == [log[2]["id"]]
    assert logged(parts, task_id=one.id) == log[2:]
    assert logged(parts, created_after=datetime.now(UTC) + timedelta(hours=1)) == []
    assert logged(parts, created_after=datetime.now(UTC) - timedelta(hours=1)) == log


def test_the_log_has_pages(parts: Services) -> None:
    for number in range(5):
        refuse(parts, None, str(number))
    seen: list[str] = []
    before = None
    for _ in range(3):
        with parts.db.reading() as session:
            items, before = reports.list_callbacks(
                session, CallbackFilter(), limit=2, before=before
            )
        seen += [item["reason"] for item in items]
        refuse(parts, None, "new")
    assert (seen, before) == (["4", "3", "2", "1", "0"], None)


# Pictures and times.


def test_a_picture_is_found_by_what_its_address_says(parts: Services, host: Site) -> None:
    task = make_task(parts)
    deliver(parts, task, success(host.serve("/a", png()), "https://a.test/later"))
    run_next(parts, Kind.STORE_IMAGE)
    done, pending = images_of(parts, task)
    with parts.db.reading() as session:
        for picture, image_id, key in (
            (Picture.OUTPUT, done.id, done.key),
            (Picture.THUMBNAIL, done.id, done.thumbnail_key),
            (Picture.OUTPUT, pending.id, None),
            (Picture.THUMBNAIL, pending.id, None),
        ):
            row, found_key = reports.find_picture(session, picture, image_id)
            assert (row.id, found_key) == (image_id, key)
        for picture in Picture:
            with pytest.raises(NotFoundError):
                reports.find_picture(session, picture, new_id())
        with pytest.raises(NotFoundError):
            reports.find_picture(session, Picture.INPUT, done.id)


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (datetime(2026, 11, 20, 8, 31, 26, 577999, UTC), "2026-11-20T08:31:26.577Z"),
        (datetime(2026, 11, 20, tzinfo=UTC), "2026-11-20T00:00:00.000Z"),
        (datetime.fromisoformat("2026-11-20T09:31:26+01:00"), "2026-11-20T08:31:26.000Z"),
        (None, None),
    ],
)
def test_a_time_is_written_in_utc_with_milliseconds(at: datetime | None, text: str | None) -> None:
    assert reports.rfc3339(at) == text
