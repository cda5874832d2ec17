"""Submissions that are waited for, called back and looked up."""

import base64
import io
import json
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from PIL import Image

from tests.sandbox.client import Answer, Client
from tests.sandbox.receiver import Receiver, wait_for

Start = Callable[..., Client]


def finished(client: Client, task_id: str) -> Any:
    """The task, once it is done."""
    wait_for(lambda: "finished_at" in client.look_up(action="retrieve", id=task_id))
    return client.look_up(action="retrieve", id=task_id)


def test_without_callback_the_answer_is_the_result(client: Client) -> None:
    before = int(time.time())
    result = client.submit(model="gpt-image-2", trace_id="mine").json

    assert result["success"] is True
    assert UUID(result["task_id"]).version == 4
    assert result["trace_id"] == "mine"
    assert before <= result["created"] <= time.time()
    assert result["model"] == "gpt-image-2"
    assert [set(item) for item in result["data"]] == [{"url"}]
    usage = result["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


def test_base64_and_a_revised_prompt_come_where_they_are_asked_for(client: Client) -> None:
    (item,) = client.submit(response_format="b64_json").json["data"]
    revised = client.submit("a dragon", model="dall-e-3").json

    assert set(item) == {"b64_json"}
    assert Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))).size == (451, 300)
    assert "a dragon" in revised["data"][0]["revised_prompt"]
    assert "usage" not in revised


def test_with_callback_the_answer_comes_first_and_the_result_is_posted(
    client: Client, receiver: Receiver
) -> None:
    receiver.answering.clear()
    accepted = client.submit(callback_url=receiver.url, trace_id="mine").json
    called_back = client.state()["callbacks"]
    receiver.answering.set()
    (callback,) = receiver.wait()

    # Nobody had answered a callback yet when the submission was answered.
    assert called_back == {}
    assert accepted == {"success": True, "task_id": accepted["task_id"], "trace_id": "mine"}
    assert callback.path == "/callbacks/task.signature123456"
    assert callback.headers["Content-Type"] == "application/json"
    body = json.loads(callback.body)
    assert {name: body[name] for name in accepted} == accepted
    assert client.call("GET", body["data"][0]["url"]).image.size == (451, 300)


def test_async_needs_no_callback(client: Client) -> None:
    accepted = client.submit(async_=True).json
    task = finished(client, accepted["task_id"])

    assert "data" not in accepted
    assert task["response"]["data"][0]["url"].startswith(client.url)


def test_a_form_is_called_back_too(client: Client, receiver: Receiver) -> None:
    file = client.call("GET", client.photo).body
    answer = client.upload([("image", file)], callback_url=receiver.url, trace_id="form")
    (callback,) = receiver.wait()

    assert json.loads(callback.body)["task_id"] == answer.json["task_id"]
    assert client.look_up(action="retrieve", trace_id="form")["request"] == {
        "prompt": "grayscale", "callback_url": receiver.url, "trace_id": "form",
    }  # fmt: skip


def test_an_image_that_cannot_be_fetched_is_a_failure(client: Client, receiver: Receiver) -> None:
    missing = f"{client.url}/photos/nobody.png"
    waited = client.submit(image=missing)
    called = client.submit(image=missing, callback_url=receiver.url).json
    (callback,) = receiver.wait()

    assert waited.status == 400
    assert "success" not in waited.json
    assert "404" in waited.json["error"]["message"]
    failure = json.loads(callback.body)
    assert (failure["success"], failure["task_id"]) == (False, called["task_id"])
    assert failure["error"]["code"] == "bad_request"
    assert client.state()["images_made"] == []


def test_redirects_to_the_image_are_followed(client: Client) -> None:
    assert client.submit(image=client.link("mirror [redirect 3]")).status == 200


def test_a_bad_image_to_edit_is_a_bad_request(client: Client) -> None:
    words = ("redirect 4", "image 404", "bomb", "truncated png")
    answers = [client.submit(image=client.link(f"[{word}]")) for word in words]
    answers.append(client.submit(image=f"{client.url}/sandbox/state"))

    assert {(answer.status, answer.json["error"]["code"]) for answer in answers} == {
        (400, "bad_request")
    }
    assert "no PNG" in answers[-1].json["error"]["message"]


def test_many_tasks_are_each_called_back_once(start: Start, receiver: Receiver) -> None:
    client = start(workers=8, delay=0.05)
    dot = client.submit(size="16x16").json["data"][0]["url"]
    ids = {client.submit(image=dot, callback_url=receiver.url).json["task_id"] for _ in range(60)}

    assert len(ids) == 60
    assert {json.loads(item.body)["task_id"] for item in receiver.wait(60)} == ids
    # A callback is counted when its answer is back, which is later than its arrival.
    wait_for(lambda: len(client.state()["callbacks"]) == 60)
    assert {item["sent"] for item in client.state()["callbacks"].values()} == {1}
    assert receiver.count == 60


def test_a_lookup_tells_of_a_task_that_is_not_done(start: Start) -> None:
    client = start(delay=60)
    accepted = client.submit("a dragon", async_=True, trace_id="mine").json
    task = client.look_up(action="retrieve", id=accepted["task_id"])

    assert {"response", "started_at", "finished_at", "elapsed", "status"}.isdisjoint(task)
    assert (task["id"], task["trace_id"]) == (accepted["task_id"], "mine")
    assert task["type"] == "images_edits"
    assert task["request"]["prompt"] == "a dragon"


def test_a_lookup_tells_of_a_task_that_is_done(start: Start) -> None:
    before = time.time()
    client = start(delay=0.2)
    begun = time.monotonic()
    client.submit()
    assert time.monotonic() - begun >= 0.2
    task = finished(client, client.submit(async_=True, trace_id="mine").json["task_id"])

    assert before <= task["created_at"] <= task["started_at"] - 0.2
    assert task["started_at"] <= task["finished_at"] <= time.time()
    assert task["elapsed"] == pytest.approx(task["finished_at"] - task["started_at"])
    assert task["response"]["success"] is True
    assert "status" not in task
    assert task == client.task()


def test_a_lookup_knows_no_task_that_was_waited_for(client: Client) -> None:
    answer = client.submit(trace_id="mine").json

    for names in ({"id": answer["task_id"]}, {"trace_id": "mine"}, {"id": "of nobody"}):
        assert client.look_up(action="retrieve", **names) == {}


def test_a_lookup_of_a_failed_task_has_the_failure(client: Client) -> None:
    task = finished(client, client.submit("[forbidden]", async_=True).json["task_id"])

    assert task["response"]["success"] is False
    assert task["response"]["error"]["code"] == "forbidden"


def test_many_tasks_are_looked_up_at_once(client: Client) -> None:
    ids = [_submitted(client, f"t-{number}").json["task_id"] for number in range(14)]

    def batch(**fields: Any) -> Any:
        return client.look_up(action="retrieve_batch", **fields)

    assert [task["id"] for task in batch(ids=ids[:2])["items"]] == [ids[1], ids[0]]
    assert batch(trace_ids=["t-5", "unknown"])["items"][0]["id"] == ids[5]
    assert batch(ids=["unknown"]) == {"items": [], "count": 0}
    first, second = batch(ids=ids), batch(ids=ids, offset=12)
    assert (len(first["items"]), len(second["items"])) == (12, 2)
    assert first["count"] == second["count"] == 14
    assert len(batch(ids=ids, limit=3)["items"]) == 3
    assert batch(user_id="sandbox")["count"] == batch(application_id="sandbox")["count"] == 14
    assert batch(user_id="somebody")["count"] == 0
    assert batch(ids=ids, type="images_edits")["count"] == 14
    assert batch(ids=ids, type="videos")["count"] == 0
    early, late = (item["created_at"] for item in reversed(batch(ids=ids[:2])["items"]))
    assert batch(ids=ids[:2], created_at_min=late)["count"] == 1
    assert batch(ids=ids[:2], created_at_max=early)["count"] == 1
    assert batch(ids=ids[:2], created_at_min=early, created_at_max=late)["count"] == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "delete"},
        {"action": "retrieve"},
        {"action": "retrieve", "id": 7},
        {"action": "retrieve_batch"},
        {"action": "retrieve_batch", "ids": "text"},
        {"action": "retrieve_batch", "ids": ["x"], "limit": -1},
        {"action": "retrieve_batch", "ids": ["x"], "created_at_min": "yesterday"},
    ],
)
def test_a_lookup_of_nothing_is_refused(refusing: Client, fields: dict[str, Any]) -> None:
    assert refusing.call("POST", "/openai/tasks", json=fields).status == 400


def test_the_state_tells_what_happened_and_can_be_reset(client: Client, receiver: Receiver) -> None:
    _submitted(client, "one", callback_url=receiver.url)
    _submitted(client, "one", callback_url=receiver.url)
    unnamed = client.submit().json
    client.look_up(action="retrieve", id="x")
    receiver.wait(2)
    picture = unnamed["data"][0]["url"]
    client.submit(callback_url=receiver.url, trace_id="fence")
    receiver.wait(3)

    state = client.state()
    assert state["submissions"] == {"one": 2, unnamed["task_id"]: 1, "fence": 1}
    assert state["callbacks"]["one"] == {"sent": 2, "answers": [200, 200]}
    assert picture.removesuffix(".png").rpartition("/")[2] in state["images_made"]
    assert len(state["images_made"]) == 4
    assert state["lookups"]["count"] == len(state["lookups"]["at"]) == 1
    assert client.call("DELETE", "/sandbox/state").status == 204
    assert client.state()["submissions"] == {}
    assert client.look_up(action="retrieve", trace_id="one") == {}
    assert client.call("GET", picture).status == 404


def _submitted(client: Client, trace_id: str, **fields: Any) -> Answer:
    return client.submit(trace_id=trace_id, **({"async_": True} | fields))
