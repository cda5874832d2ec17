"""`POST /openai/tasks`, read by hand and by the provider's own client."""

import gzip
import io
import json
from contextlib import closing
from typing import Any

import pytest
from acedatacloud import AceDataCloud
from acedatacloud._runtime.tasks import task_status
from werkzeug.test import TestResponse

from app.columns import db_now
from app.models import ImageStatus, Scope, Task, TaskStatus
from app.services import Services
from tests.factories import failure, make_task, png
from tests.web.servers import Server
from tests.web.sites import Json, Site, add_image, error_of, json_of


def look_up(site: Site, **given: Any) -> Json:
    response = site.call("POST", "/openai/tasks", scope=Scope.READ, json=given)
    assert response.status_code == 200
    return json_of(response)


def ids_of(answer: Json) -> list[str]:
    return [item["id"] for item in answer["items"]]


def test_a_task_that_succeeded_is_shown_as_the_provider_shows_it(site: Site) -> None:
    task = make_task(site.parts, trace_id="mine", callback_url="https://example.com/cb", n=1)
    site.finish(task, png(), task_id="theirs", usage={"input_tokens": 7})
    seen = site.look_up(task)
    shown = look_up(site, action="retrieve", id="theirs")
    created, finished = shown["created_at"], shown["finished_at"]

    assert shown == look_up(site, id=str(task.id)) == look_up(site, trace_id="mine")
    assert shown == look_up(site, trace_id=str(task.id))
    assert shown == {
        "_id": task.id.hex[:24],
        "id": str(task.id),
        "trace_id": "mine",
        "type": "images_edits",
        "created_at": created,
        "started_at": shown["started_at"],
        "finished_at": finished,
        "elapsed": shown["elapsed"],
        "request": {
            "image": "https://example.com/photo.png",
            "prompt": "make it sepia",
            "model": "gpt-image-2",
            "n": 1,
        },
        "response": {
            "success": True,
            "task_id": str(task.id),
            "trace_id": "mine",
            "created": int(finished),
            "model": "gpt-image-2",
            "data": [{"url": seen["images"][0]["url"]}],
            "usage": {"input_tokens": 7},
        },
    }
    assert created <= shown["started_at"] <= finished
    assert task_status(shown) == "succeeded"


def test_until_it_has_ended_a_task_has_no_response(sqlite_site: Site) -> None:
    """And nothing else in which the provider's client would take it for done."""
    fields: dict[str, Any] = {
        "callback_url": "https://example.com/cb",
        "metadata": {"status": "done"},
    }
    task = make_task(sqlite_site.parts, **fields)
    shown = look_up(sqlite_site, id=str(task.id))
    assert set(shown) == {"_id", "id", "trace_id", "type", "created_at", "request"}
    assert task_status(shown) == ""
    assert look_up(sqlite_site, id="nobody's") == look_up(sqlite_site, trace_id="no") == {}


def test_what_ended_without_an_image_says_why(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    sqlite_site.post_back(task, failure("forbidden", "no"))
    canceled = make_task(sqlite_site.parts)
    sqlite_site.call("POST", f"/v1/tasks/{canceled.id}/cancel")
    shown = [look_up(sqlite_site, id=str(each.id)) for each in (task, canceled)]

    assert [each["response"]["error"]["code"] for each in shown] == ["forbidden", "canceled"]
    assert [task_status(each) for each in shown] == ["failed", "failed"]
    assert shown[0]["response"]["success"] is False


def test_several_tasks_come_in_pages(site: Site) -> None:
    tasks = [
        make_task(site.parts, trace_id=f"t{number}", columns={"provider_task_id": f"p{number}"})
        for number in range(14)
    ]
    ours = [str(task.id) for task in reversed(tasks)]

    def batch(**given: Any) -> Json:
        return look_up(site, action="retrieve_batch", **given)

    everything = batch(user_id="anybody")
    assert (ids_of(everything), everything["count"]) == (ours[:12], 14)
    assert ids_of(batch(application_id="a", offset=12, limit=50)) == ours[12:]
    assert ids_of(batch(ids=[ours[0], "p0", "nobody's"])) == [ours[0], ours[-1]]
    assert ids_of(batch(trace_ids=["t0", "t1", ours[0]])) == [ours[0], *ours[-2:]]
    assert batch(ids=[]) == {"items": [], "count": 0}
    assert batch(ids=ours, type="images_generations")["count"] == 0
    assert batch(ids=ours, type="images", limit=0)["count"] == 14
    times = [task.created_at.timestamp() for task in tasks]
    between = batch(ids=ours, created_at_min=times[3], created_at_max=times[5])
    assert set(ours[8:11]) <= set(ids_of(between))
    assert batch(ids=ours, created_at_max=times[0] - 1)["count"] == 0
    assert batch(ids=ours, created_at_min=10**400)["count"] == 0


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"action": "delete"}, "action"),
        ({}, "id"),
        ({"id": 7}, "id"),
        ({"action": "retrieve_batch", "ids": [7]}, "ids"),
        ({"action": "retrieve_batch", "ids": ["a"] * 1001}, "ids"),
        ({"action": "retrieve_batch", "limit": -1}, "limit"),
        ({"action": "retrieve_batch", "offset": True}, "offset"),
        ({"action": "retrieve_batch", "created_at_min": "now"}, "created_at_min"),
    ],
)
def test_what_cannot_be_looked_up_is_named(sqlite_site: Site, given: Json, param: str) -> None:
    response = sqlite_site.call("POST", "/openai/tasks", json=given)
    assert error_of(response, 400)["param"] == param


def test_a_body_may_be_large_and_compressed_up_to_a_limit_that_is_named(sqlite_site: Site) -> None:
    def ask(ids: list[str], **environ: str) -> TestResponse:
        body = json.dumps({"action": "retrieve_batch", "trace_ids": ids}).encode()
        data = gzip.compress(body) if environ else body
        key = f"Bearer {sqlite_site.key(Scope.READ)}"
        given = {"CONTENT_TYPE": "application/json", "HTTP_AUTHORIZATION": key, **environ}
        return sqlite_site.send("POST", "/openai/tasks", io.BytesIO(data), given)

    for packed in ({}, {"HTTP_CONTENT_ENCODING": "gzip"}):
        assert json_of(ask(1000 * [128 * "x"], **packed)) == {"items": [], "count": 0}
        error = error_of(ask([4 * 2**20 * "x"], **packed), 413)
        assert error["message"] == "the body is larger than 4,194,304 bytes"


def finished(parts: Services) -> Task:
    task = make_task(
        parts,
        columns={"status": TaskStatus.SUCCEEDED, "finished_at": db_now(), "submitted_at": db_now()},
    )
    add_image(parts, task, status=ImageStatus.STORED, key=f"images/{task.id}.png")
    return task


def test_the_providers_own_client_waits_for_our_tasks(sqlite_server: Server) -> None:
    parts = sqlite_server.parts
    url = f"http://127.0.0.1:{sqlite_server.port}"
    with closing(AceDataCloud(sqlite_server.api_key, base_url=url)) as client:
        done = client.tasks.wait(str(finished(parts).id), service="openai", poll_interval=0.05)
        assert done["response"]["data"][0]["url"].startswith(f"{url}/images/o.")

        refused = make_task(parts)
        sqlite_server.post_back(refused, failure("forbidden", "not this"))
        failed = client.tasks.wait(str(refused.id), service="openai", poll_interval=0.05)
        assert failed["response"]["error"] == {"code": "forbidden", "message": "not this"}
        both = client.openai.tasks.retrieve_batch(ids=[str(refused.id)], limit=5)
        assert [item["response"]["success"] for item in both["items"]] == [False]
