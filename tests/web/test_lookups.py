"""Looking up: one task, pages of tasks and of callbacks, bodies."""

import json
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app.models import Scope, TaskStatus, Verification, new_id
from tests.factories import (
    PUBLIC_URL,
    failure,
    get_task,
    make_task,
    png,
    submission,
    success,
    with_id,
)
from tests.web.sites import Json, Site, accepted, add_image, error_of, json_of

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
FULL = {
    "task_id", "provider", "provider_task_id", "trace_id", "status", "model", "prompt", "request",
    "metadata", "images", "partial_images", "inputs", "usage", "error", "verification", "callbacks",
    "timeline", "created_at", "submitted_at", "received_at", "finished_at",
}  # fmt: skip
SHORT = FULL - {"request", "inputs", "callbacks", "timeline"}
PLAIN = {name for name in SHORT if not name.endswith("_at")} - {"images", "partial_images"}


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
    (given,) = seen["inputs"]
    assert given == {
        "index": 0,
        "role": "image",
        "url": "https://example.com/photo.png",
        "content_type": None,
        "bytes": None,
    }
    (callback,) = seen["callbacks"]
    assert set(callback) == {"id", "source", "verdict", "received_at", "bytes", "sha256"}
    names = ("created_at", "submitted_at", "received_at", "finished_at")
    times = [seen[name] for name in names]
    times += [entry["at"] for entry in [*seen["timeline"], {"at": callback["received_at"]}]]
    # In UTC, with milliseconds.
    assert all(TIME.fullmatch(at) for at in times)
    now = datetime.now(UTC)
    assert all(abs(datetime.fromisoformat(at) - now) < timedelta(seconds=30) for at in times)
    assert [entry["event"] for entry in seen["timeline"]] == [
        "created", "received", "image_stored", "succeeded",
    ]  # fmt: skip
    assert all(set(entry) == {"at", "event", "detail"} for entry in seen["timeline"])


def test_the_request_is_shown_as_submitted_and_the_result_as_verified(sqlite_site: Site) -> None:
    submitted: Json = {"n": 2, "size": "1024x1024", "unheard_of": {"deep": [1, None, "ä\u2028"]}}
    columns = {"verification": Verification.CONFIRMED}
    seen = sqlite_site.look_up(make_task(sqlite_site.parts, columns=columns, **submitted))

    assert {name: seen["request"][name] for name in submitted} == submitted
    assert seen["verification"] == "confirmed"


def test_a_task_is_found_by_its_own_id_in_any_spelling_and_by_the_providers(site: Site) -> None:
    task = make_task(site.parts, columns={"provider_task_id": "their id/with:all"})
    spellings = [str(task.id), str(task.id).upper(), task.id.hex, f"urn:uuid:{task.id}"]

    for id_ in spellings:
        assert json_of(site.get(f"/v1/tasks/{id_}"))["task_id"] == str(task.id)
    other = make_task(site.parts, columns={"provider_task_id": "their-id"})
    assert json_of(site.get("/v1/tasks/their-id"))["task_id"] == str(other.id)


def test_a_task_that_is_not_there_is_not_found(site: Site) -> None:
    for id_ in ("nothing", "%00", "ü", "x" * 3000, "' OR 1=1 --", new_id()):
        assert error_of(site.get(f"/v1/tasks/{id_}"), 404)["code"] == "not_found"


def test_an_image_under_way_and_one_that_failed(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    failed = {"error_code": "not_an_image", "error_message": "it is HTML"}
    add_image(sqlite_site.parts, task)
    add_image(sqlite_site.parts, task, index=1, status="failed", **failed)
    pending, broken = sqlite_site.look_up(task)["images"]

    assert (pending["status"], pending["thumbnail_url"]) == ("pending", None)
    assert "error" not in pending
    assert broken["status"] == "failed"
    assert broken["error"] == {"code": "not_an_image", "message": "it is HTML"}


@pytest.mark.parametrize("count", [0, 4, 5, 6])
def test_pages_of_short_forms_follow_each_other_without_gap_or_overlap(
    sqlite_site: Site, count: int
) -> None:
    tasks = [str(make_task(sqlite_site.parts).id) for _ in range(count)]
    page = json_of(sqlite_site.get("/v1/tasks?limit=2"))
    items = page["items"]
    while cursor := page["next_cursor"]:
        page = json_of(sqlite_site.get(f"/v1/tasks?limit=2&cursor={cursor}"))
        assert 0 < len(page["items"]) <= 2
        items += page["items"]

    assert [item["task_id"] for item in items] == tasks[::-1]
    assert all(set(item) == SHORT for item in items)


def test_tasks_are_filtered_by_each_field_and_by_all(sqlite_site: Site) -> None:
    site = sqlite_site
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
    # What a search finds is told elsewhere; NUL is in no text that is stored.
    assert listed(site, q="sepia") == [ids["two"], ids["one"]]
    assert listed(site, q=ids["one"].upper()) == [ids["one"]]
    assert listed(site, q="\x00") == []


def test_tasks_are_filtered_by_when_they_were_made(sqlite_site: Site) -> None:
    site = sqlite_site
    times = [datetime(2026, 1, day, 12, tzinfo=UTC) for day in (1, 2)]
    ids = [UUID(int=(int(at.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62)) for at in times]
    old, new = (str(with_id(site.parts, make_task(site.parts), id_).id) for id_ in ids)

    assert listed(site, created_after="2026-01-02T00:00:00Z") == [new]
    assert listed(site, created_before="2026-01-02T00:00:00Z") == [old]
    assert listed(site, created_after="2026-01-01T12:00:00.000Z") == [new, old]
    assert listed(site, created_before="2026-01-01T12:00:00.000Z") == []
    assert listed(site, created_after="2026-01-02T13:30:00+01:30") == [new]
    assert listed(site, created_after="2026-01-01T13:00", created_before="2026-01-03") == [new]


def test_a_wrong_parameter_is_named_with_its_rule(sqlite_site: Site) -> None:
    for path, param, value, rule in (
        ("tasks", "status", "done", "one of queued, "),
        ("tasks", "created_after", "yesterday", "a time such as 2026-11-20T08:31:26.577Z"),
        ("tasks", "created_before", "2026-13-01", "a time such as 2026-11-20T08:31:26.577Z"),
        ("tasks", "limit", "101", "a whole number from 1 to 100"),
        ("tasks", "cursor", "next", "a UUID"),
        ("callbacks", "verdict", "duplicate", "one of accepted, conflict, rejected"),
        ("callbacks", "created_after", "x", "a time such as 2026-11-20T08:31:26.577Z"),
        ("callbacks", "limit", "x", "a whole number from 1 to 100"),
        ("callbacks", "cursor", "x", "a UUID"),
    ):
        response = sqlite_site.get(f"/v1/{path}", query_string={param: value})
        error = error_of(response, 400)
        assert (error["code"], error["param"]) == ("bad_request", param)
        assert error["message"].startswith(f"{param}: expected {rule}")
        assert error["message"].endswith(f", not {value!r}")


def test_hostile_texts_come_back_as_they_went_in_or_replaced(site: Site) -> None:
    # PostgreSQL keeps either in JSON, and then looks into none of it.
    for bad in ("\x00", "\ud800", "\udfff\ud800"):
        texts = {
            "trace_id": f"{bad}<b>\u202e",
            "prompt": f"a{bad}b\U0001f600\u2028",
        }
        answer = json_of(
            site.call("POST", "/v1/images/edits", json=submission(**texts, x={bad: bad}))
        )
        task = get_task(site.parts, UUID(answer["task_id"]))
        result = failure(f"a{bad}b", f"{bad}</script>")
        assert json_of(site.post_back(task, result)) == accepted(task)
        seen: Json = json.loads(site.get(f"/v1/tasks/{task.id}").get_data())

        replaced = len(bad) * "\ufffd"
        assert seen["trace_id"] == f"{replaced}<b>\u202e"
        assert seen["prompt"] == f"a{replaced}b\U0001f600\u2028"
        assert seen["error"] == {"code": f"a{replaced}b", "message": f"{replaced}</script>"}


def test_who_waits_is_answered_when_the_task_has_ended_or_the_time_is_over(site: Site) -> None:
    site.parts.db.listen()
    site.key(Scope.ADMIN)
    task = make_task(site.parts, columns={"provider_task_id": "p-1"})
    answers: list[Json] = []
    waiting = threading.Thread(
        target=lambda: answers.append(json_of(site.get("/v1/tasks/p-1?wait=60")))
    )
    waiting.start()
    started = time.monotonic()
    assert json_of(site.get(f"/v1/tasks/{task.id}?wait=1"))["status"] == "queued"
    assert time.monotonic() - started > 1
    assert site.post_back(task, failure("forbidden")).status_code == 200
    waiting.join(30)

    assert [answer["status"] for answer in answers] == ["failed"]
    assert json_of(site.get(f"/v1/tasks/{task.id}?wait=60"))["status"] == "failed"
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("seconds", ["0", "61", "-1", "1.5", "1s", "x"])
def test_a_wait_that_is_none_is_refused(sqlite_site: Site, seconds: str) -> None:
    task = make_task(sqlite_site.parts)
    error = error_of(sqlite_site.get(f"/v1/tasks/{task.id}?wait={seconds}"), 400)
    assert error["param"] == "wait"
    assert error["message"] == f"wait: expected a whole number from 1 to 60, not {seconds!r}"


def test_who_has_seen_the_task_as_it_is_gets_no_second_copy(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    path = f"/v1/tasks/{task.id}"
    first = sqlite_site.get(path)
    tag = first.headers["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = sqlite_site.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.get_data(), again.headers["ETag"]) == (304, b"", tag)
    # What no event tells of changes it too.
    sqlite_site.finish(task)
    body = success("https://images.example.com/other.png")
    assert sqlite_site.post_back(task, body).status_code == 200
    ended = sqlite_site.get(f"{path}?wait=60", headers={"If-None-Match": tag})
    assert json_of(ended)["status"] == "succeeded"
    assert ended.headers["ETag"] != tag
