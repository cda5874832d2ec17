"""Lookups: what is found, in which order, and how it is shown."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app import reports
from app.errors import NotFoundError
from app.jobs import Kind
from app.models import Image, Input, Role, Task, Verdict, new_id
from app.reports import CallbackFilter, TaskFilter
from app.services import Services
from app.signing import Picture
from tests.core.sites import Site
from tests.factories import (
    PUBLIC_URL,
    deliver,
    fail_next,
    failure,
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


HOUR_AGO = datetime.now(UTC) - timedelta(hours=1)
IN_AN_HOUR = datetime.now(UTC) + timedelta(hours=1)

# One task.


def test_a_task_is_found_by_the_providers_id_whatever_it_looks_like(
    sqlite_parts: Services,
) -> None:
    for provider_id in ("task_abc", str(new_id()), "\u00e9"):
        task = make_task(sqlite_parts, columns={"provider_task_id": provider_id})
        with sqlite_parts.db.reading() as session:
            assert reports.find_task(session, provider_id).id == task.id
            with pytest.raises(NotFoundError, match="there is no task"):
                reports.find_task(session, f"{provider_id}\ud800")


def test_a_task_is_shown_with_the_images_that_are_stored_and_that_failed(
    sqlite_parts: Services, host: Site
) -> None:
    parts = sqlite_parts
    task = make_task(parts)
    payload = success(host.serve("/good", png(20, 10)), host.serve("/bad", b"<html>"))
    payload["data"][0]["revised_prompt"] = "better"
    deliver(parts, task, payload)
    run_next(parts, Kind.STORE_IMAGE)
    fail_next(parts, Kind.STORE_IMAGE)

    stored, failed = shown(parts, task)["images"]

    good, bad = images_of(parts, task)
    assert stored["url"] == parts.picture_url(Picture.OUTPUT, good.id, "png")
    assert stored["thumbnail_url"] == parts.picture_url(Picture.THUMBNAIL, good.id, "webp")
    assert (stored["sha256"], stored["revised_prompt"]) == (good.sha256, "better")
    assert failed["url"] == parts.picture_url(Picture.OUTPUT, bad.id)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "not_an_image")


def test_inputs_are_shown_in_their_order_and_uploaded_ones_at_our_address(
    sqlite_parts: Services,
) -> None:
    task = make_task(sqlite_parts)
    with sqlite_parts.db.transaction() as session:
        mask = Input(task_id=task.id, role=Role.MASK, index=0, key="inputs/mask.png", size=5)
        upload = Input(task_id=task.id, role=Role.IMAGE, index=1, key="inputs/a.png")
        session.add_all([mask, upload])
    inputs = shown(sqlite_parts, task)["inputs"]
    assert [(item["role"], item["index"], item["bytes"]) for item in inputs] == [
        ("image", 0, None),
        ("image", 1, None),
        ("mask", 0, 5),
    ]
    assert inputs[2]["url"].startswith(f"{PUBLIC_URL}/images/i.{mask.id.hex}.")


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"columns": {"provider": "agcloud"}}, {"provider": "agcloud"}),
        ({"prompt": "A Cat on 100% grass_"}, {"q": "grass_  CAT"}),
        ({"prompt": "deadbeef"}, {"q": "deadbeef"}),
        ({"columns": {"provider_task_id": "Task_a%b"}}, {"q": "Task_a%b"}),
        # The provider's id was looked for only where it could have been one of ours.
        ({"columns": {"provider_task_id": "Task_a%b"}}, {"q": "Task_a"}),
        ({"columns": {"provider_task_id": "0123abcd-1"}}, {"q": " 0123abcd "}),
        ({"model": "dall-e-2", "trace_id": "mine"}, {"model": "dall-e-2", "trace_id": "mine"}),
        ({"trace_id": "mine"}, {"created_after": HOUR_AGO, "trace_id": "mine"}),
        ({"trace_id": "mine"}, {"created_before": IN_AN_HOUR, "trace_id": "mine"}),
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


def test_what_is_nowhere_is_not_found_and_looking_for_nothing_finds_everything(
    parts: Services,
) -> None:
    task = make_task(parts, prompt="a cat")
    for q in ("dog", "cat dog", "%", "cat_", "\\", "\x00", "\ud800", "-", "f" * 40, "0" * 32):
        assert found(parts, q=q) == []
    # With blanks this was a condition without any, which SQLAlchemy is about to refuse.
    for q in ("", " ", "\t \n"):
        assert found(parts, q=q) == [task.id]


def test_pages_stay_the_same_while_new_tasks_come(sqlite_parts: Services) -> None:
    ids = [make_task(sqlite_parts).id for _ in range(7)][::-1]
    pages: list[list[UUID]] = []
    before = None
    while not pages or before:
        with sqlite_parts.db.reading() as session:
            rows, before = reports.list_tasks(session, TaskFilter(), limit=3, before=before)
        pages.append([row.id for row in rows])
        make_task(sqlite_parts)

    assert pages == [ids[:3], ids[3:6], ids[6:]]


def test_short_forms_have_each_their_own_images(sqlite_parts: Services) -> None:
    tasks = [make_task(sqlite_parts) for _ in range(3)]
    deliver(sqlite_parts, tasks[0], success("https://a.test/1", "https://a.test/2"))
    deliver(sqlite_parts, tasks[2], success("https://a.test/3"))
    with sqlite_parts.db.reading() as session:
        rows = [session.get_one(Task, task.id) for task in tasks]
        short = reports.tasks_in_short(sqlite_parts, session, rows)
    assert [len(item["images"]) for item in short] == [2, 0, 1]


def test_the_log_has_every_callback_with_the_newest_first(sqlite_parts: Services) -> None:
    def logged(**wanted: Any) -> list[dict[str, Any]]:
        with sqlite_parts.db.reading() as session:
            filtered = CallbackFilter(**wanted)
            first, before = reports.list_callbacks(session, filtered, limit=1, before=None)
            rest, _ = reports.list_callbacks(session, filtered, limit=50, before=before)
            return first + rest if before else first

    one, two = make_task(sqlite_parts), make_task(sqlite_parts)
    for task, payload in ((one, success()), (two, success()), (one, failure())):
        take(sqlite_parts, task, payload)

    log = logged()

    verdicts = [(item["verdict"], item["task_id"]) for item in log]
    assert verdicts == [
        ("conflict", str(one.id)),
        ("accepted", str(two.id)),
        ("accepted", str(one.id)),
    ]
    assert logged(verdict=Verdict.CONFLICT) == log[:1]
    assert logged(task_id=one.id) == [log[0], log[2]]
    assert logged(created_after=IN_AN_HOUR) == []
    assert logged(created_after=HOUR_AGO) == log


def test_a_picture_is_found_by_what_its_address_says(sqlite_parts: Services, host: Site) -> None:
    task = make_task(sqlite_parts)
    deliver(sqlite_parts, task, success(host.serve("/a", png()), "https://a.test/later"))
    run_next(sqlite_parts, Kind.STORE_IMAGE)
    done, pending = images_of(sqlite_parts, task)
    with sqlite_parts.db.reading() as session:

        def key(picture: Picture, image: Image) -> str | None:
            return reports.find_picture(session, picture, image.id)[1]

        assert key(Picture.OUTPUT, done) == done.key
        assert key(Picture.THUMBNAIL, done) == done.thumbnail_key
        assert key(Picture.OUTPUT, pending) is key(Picture.THUMBNAIL, pending) is None
        with pytest.raises(NotFoundError):
            key(Picture.INPUT, done)


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
