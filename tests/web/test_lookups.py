"""Looking up: one task, pages of tasks and of callbacks, bodies."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from app.models import Image, Task, TaskStatus, Verification, new_id
from app.services import Services
from tests.factories import PUBLIC_URL, failure, make_task, png
from tests.web.sites import Json, Site, error_of, json_of

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
FULL = {
    "task_id", "provider", "provider_task_id", "trace_id", "status", "model", "prompt", "request",
    "metadata", "images", "inputs", "usage", "error", "verification", "callbacks", "timeline",
    "created_at", "submitted_at", "received_at", "finished_at",
}  # fmt: skip
SHORT = FULL - {"request", "inputs", "callbacks", "timeline"}
PLAIN = {name for name in SHORT if not name.endswith("_at")} - {"images"}


def listed(site: Site, path: str = "/v1/tasks", **query: str) -> list[str]:
    """The ids on one page."""
    page = json_of(site.get(path, query_string=query))
    return [item.get("task_id") for item in page["items"]]


def test_a_task_that_succeeded_shows_all_there_is(site: Site) -> None:
    task = make_task(
        site.parts, trace_id="order 7", metadata={"shop": "3"}, columns={"provider_task_id": "p-1"}
    )
    picture = png(64, 48)
    usage = {"input_tokens": 775}
    site.finish(task, picture, usage=usage, task_id="p-1")
    seen = site.look_up(task)

    assert set(seen) == FULL
    assert {name: seen[name] for name in PLAIN} == {
        "task_id": str(task.id),
        "provider": "acedata",
        "provider_task_id": "p-1",
        "trace_id": "order 7",
        "status": "succeeded",
        "model": "gpt-image-2",
        "prompt": "make it sepia",
        "metadata": {"shop": "3"},
        "usage": usage,
        "error": None,
        "verification": "token",
    }
    (image,) = seen["images"]
    assert image.pop("url").startswith(f"{PUBLIC_URL}/images/o.")
    assert image.pop("thumbnail_url").startswith(f"{PUBLIC_URL}/images/t.")
    assert re.fullmatch(r"[0-9a-f]{64}", image.pop("sha256"))
    assert image == {
        "index": 0,
        "content_type": "image/png",
        "bytes": len(picture),
        "width": 64,
        "height": 48,
        "revised_prompt": None,
        "status": "stored",
    }
    assert seen["inputs"] == [
        {
            "index": 0,
            "role": "image",
            "url": "https://example.com/photo.png",
            "content_type": None,
            "bytes": None,
        }
    ]
    (callback,) = seen["callbacks"]
    assert set(callback) == {"id", "source", "verdict", "received_at", "bytes", "sha256"}
    assert [entry["event"] for entry in seen["timeline"]] == [
        "created", "received", "image_stored", "succeeded",
    ]  # fmt: skip
    assert all(set(entry) == {"at", "event", "detail"} for entry in seen["timeline"])


def test_the_request_is_shown_as_submitted(sqlite_site: Site) -> None:
    submitted: Json = {"n": 2, "size": "1024x1024", "unheard_of": {"deep": [1, None, "ä\u2028"]}}
    task = make_task(sqlite_site.parts, **submitted)

    request = sqlite_site.look_up(task)["request"]
    assert {name: request[name] for name in submitted} == submitted


def test_times_are_utc_with_milliseconds(site: Site) -> None:
    task = make_task(site.parts)
    site.post_back(task, failure())
    seen = site.look_up(task)
    assert json_of(site.get(f"/v1/tasks/{make_task(site.parts).id}"))["submitted_at"] is None
    names = ("created_at", "submitted_at", "received_at", "finished_at")
    times = [seen[name] for name in names]
    times += [entry["at"] for entry in seen["timeline"]]
    times += [callback["received_at"] for callback in seen["callbacks"]]

    assert all(TIME.fullmatch(at) for at in times)
    now = datetime.now(UTC)
    assert all(abs(datetime.fromisoformat(at) - now) < timedelta(seconds=30) for at in times)


def test_a_task_is_found_by_its_own_id_in_any_spelling_and_by_the_providers(site: Site) -> None:
    task = make_task(site.parts, columns={"provider_task_id": "their id/with:all"})
    spellings = [str(task.id), str(task.id).upper(), task.id.hex, f"urn:uuid:{task.id}"]

    for id_ in spellings:
        assert json_of(site.get(f"/v1/tasks/{id_}"))["task_id"] == str(task.id)
    other = make_task(site.parts, columns={"provider_task_id": "their-id"})
    assert json_of(site.get("/v1/tasks/their-id"))["task_id"] == str(other.id)


@pytest.mark.parametrize("id_", ["nothing", "%00", "ü", "x" * 3000, "' OR 1=1 --", str(new_id())])
def test_a_task_that_is_not_there_is_not_found(site: Site, id_: str) -> None:
    assert error_of(site.get(f"/v1/tasks/{id_}"), 404)["code"] == "not_found"


def test_an_image_under_way_and_one_that_failed(site: Site) -> None:
    task = make_task(site.parts)
    failed = {"error_code": "not_an_image", "error_message": "it is HTML"}
    with site.parts.db.transaction() as session:
        for index, columns in enumerate(({}, {"status": "failed", **failed})):
            session.add(
                Image(
                    task_id=task.id,
                    callback_id=new_id(),
                    index=index,
                    source="https://x",
                    **columns,
                )
            )
    pending, broken = site.look_up(task)["images"]

    assert (pending["status"], pending["thumbnail_url"]) == ("pending", None)
    assert "error" not in pending
    assert broken["status"] == "failed"
    assert broken["error"] == {"code": "not_an_image", "message": "it is HTML"}


def test_a_list_has_short_forms_newest_first(site: Site) -> None:
    tasks = [make_task(site.parts) for _ in range(3)]
    page = json_of(site.get("/v1/tasks"))

    assert [item["task_id"] for item in page["items"]] == [str(task.id) for task in tasks[::-1]]
    assert page["next_cursor"] is None
    assert all(set(item) == SHORT for item in page["items"])


@pytest.mark.parametrize("count", [4, 5, 6])
def test_pages_follow_each_other_without_gap_or_overlap(site: Site, count: int) -> None:
    tasks = [str(make_task(site.parts).id) for _ in range(count)]
    seen: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    for _ in range(5):
        page = json_of(site.get("/v1/tasks", query_string=query))
        seen += [item["task_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]

    assert seen == tasks[::-1]


def test_tasks_are_filtered_by_each_field_and_by_all(site: Site) -> None:
    one = make_task(site.parts, trace_id="a", model="gpt-image-1")
    two = make_task(site.parts, trace_id="b", columns={"status": TaskStatus.FAILED})
    ids = {"one": str(one.id), "two": str(two.id)}

    assert listed(site, trace_id="a") == [ids["one"]]
    assert listed(site, model="gpt-image-2") == [ids["two"]]
    assert listed(site, status="failed") == [ids["two"]]
    assert listed(site, provider="acedata") == [ids["two"], ids["one"]]
    assert listed(site, provider="nobody") == []
    assert listed(site, status="failed", trace_id="a") == []
    assert listed(site, status="", trace_id="") == [ids["two"], ids["one"]]


def test_tasks_are_filtered_by_when_they_were_made(sqlite_site: Site) -> None:
    parts = sqlite_site.parts
    old = _made_at(parts, datetime(2026, 1, 1, 12, tzinfo=UTC))
    new = _made_at(parts, datetime(2026, 1, 2, 12, tzinfo=UTC))

    assert listed(sqlite_site, created_after="2026-01-02T00:00:00Z") == [new]
    assert listed(sqlite_site, created_before="2026-01-02T00:00:00Z") == [old]
    assert listed(sqlite_site, created_after="2026-01-01T12:00:00.000Z") == [new, old]
    assert listed(sqlite_site, created_before="2026-01-01T12:00:00.000Z") == []
    assert listed(sqlite_site, created_after="2026-01-02T13:30:00+01:30") == [new]
    assert listed(sqlite_site, created_after="2026-01-01T13:00", created_before="2026-01-03") == [
        new
    ]


def _made_at(parts: Services, at: datetime) -> str:
    """A task whose id was made then."""
    id_ = UUID(int=(int(at.timestamp() * 1000) << 80) | (new_id().int & (2**80 - 1)))
    task = make_task(parts)
    with parts.db.transaction() as session:
        session.connection().exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        session.execute(update(Task).where(Task.id == task.id).values(id=id_))
        for table in ("events", "inputs", "jobs"):
            session.connection().exec_driver_sql(
                f"UPDATE {table} SET task_id = ? WHERE task_id = ?",  # noqa: S608 - names above
                (id_.hex, task.id.hex),
            )
    return str(id_)


def test_a_search_matches_the_beginning_of_an_id_or_all_words_of_the_prompt(site: Site) -> None:
    cat = make_task(site.parts, prompt="Paint the CAT in 100% blue_grey")
    dog = make_task(site.parts, prompt="paint the dog", columns={"provider_task_id": "abc123"})
    cat_id, dog_id = str(cat.id), str(dog.id)

    assert listed(site, q="cat") == [cat_id]
    assert listed(site, q="the paint") == [dog_id, cat_id]
    assert listed(site, q="paint bird") == []
    assert listed(site, q="100%") == [cat_id]
    assert listed(site, q="%") == [cat_id]
    assert listed(site, q="blue_") == [cat_id]
    assert listed(site, q="d_g") == []
    assert listed(site, q=cat_id) == [cat_id]
    assert listed(site, q=cat_id.upper()[:35]) == [cat_id]
    assert listed(site, q=cat.id.hex[:8]) == [dog_id, cat_id]
    assert listed(site, q="abc123") == [dog_id]
    assert listed(site, q="\x00") == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"status": "done"}, "status"),
        ({"created_after": "yesterday"}, "created_after"),
        ({"created_before": "2026-13-01"}, "created_before"),
        ({"created_after": "1969-01-01T00:00:00Z"}, "created_after"),
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"cursor": "next"}, "cursor"),
    ],
)
def test_a_wrong_parameter_is_named(sqlite_site: Site, query: dict[str, str], param: str) -> None:
    error = error_of(sqlite_site.get("/v1/tasks", query_string=query), 400)

    assert (error["code"], error["param"]) == ("bad_request", param)
    assert error["message"].startswith(f"{param}: expected ")
    assert repr(query[param]) in error["message"] or "before 1971" in error["message"]


def test_hostile_texts_come_back_as_they_went_in_or_replaced(site: Site) -> None:
    texts: dict[str, Any] = {"trace_id": "\x00\ud800<b>\u202e", "prompt": "a\x00b\udfff\u2028"}
    task = make_task(site.parts, **texts)
    site.post_back(task, failure("a\x00b", "\ud800</script>\x00"))
    seen: Json = json.loads(site.get(f"/v1/tasks/{task.id}").get_data())

    assert seen["trace_id"] == "\ufffd\ufffd<b>\u202e"
    assert seen["prompt"] == "a\ufffdb\ufffd\u2028"
    assert seen["error"] == {"code": "a\ufffdb", "message": "\ufffd</script>\ufffd"}


def test_how_a_result_is_verified_is_shown(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts, columns={"verification": Verification.CONFIRMED})

    assert sqlite_site.look_up(task)["verification"] == "confirmed"
