"""Callbacks that come late, twice, nowhere, damaged or not at all."""

import base64
import gzip
import io
import json
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from PIL import Image

from app.sandbox import callbacks
from app.sandbox.misbehaviours import Word
from tests.sandbox.client import Client
from tests.sandbox.receiver import Received, Receiver, wait_for

Start = Callable[..., Client]
Calling = Callable[..., list[Received]]


@pytest.fixture
def calling(client: Client, receiver: Receiver) -> Calling:
    """Submits a prompt as trace id `mine`; gives the callbacks of it, when no more will come.

    The sandbox has one worker: what comes after is called back after.
    """

    def calling(prompt: str, **fields: Any) -> list[Received]:
        client.submit(prompt, trace_id="mine", callback_url=receiver.url, **fields)
        client.submit("fence", trace_id="fence", callback_url=receiver.url)
        count = 1
        while json_or_none(receiver.wait(count)[-1]).get("trace_id") != "fence":
            count += 1
        return receiver.wait(count)[:-1]

    return calling


def json_or_none(received: Received) -> dict[str, Any]:
    try:
        return dict(json.loads(received.body))
    except ValueError:
        return {}


@pytest.mark.parametrize(
    ("prompt", "successes"),
    [
        ("a cat", [True]),
        ("[success then failure]", [True, False]),
        ("[failure then success]", [False, True]),
        ("[forbidden] [two successes]", [False]),
        ("[wrong id] [success then failure] [duplicate 2]", [True, True, False, False]),
    ],
)
def test_callbacks_come_as_the_words_say(
    calling: Calling, client: Client, prompt: str, successes: list[bool]
) -> None:
    assert [json.loads(item.body)["success"] for item in calling(prompt)] == successes
    assert client.task()["response"]["success"] is ("forbidden" not in prompt)


def test_late_is_after_the_work_is_done(client: Client, receiver: Receiver) -> None:
    client.submit("[late 0.2]", trace_id="mine", callback_url=receiver.url)
    receiver.wait()

    arrived = time.time()
    assert arrived - client.task()["finished_at"] >= 0.2


def test_early_is_before_the_answer(start: Start, receiver: Receiver) -> None:
    client = start(delay=5)
    accepted = client.submit("[early]", callback_url=receiver.url).json

    assert receiver.count == 1
    assert json.loads(receiver.wait()[0].body)["task_id"] == accepted["task_id"]
    assert "data" not in accepted


def test_never_is_not_at_all_but_the_lookup_knows(calling: Calling, client: Client) -> None:
    assert calling("[never]") == []
    task = client.task()
    assert task["response"]["data"][0]["url"]
    assert "mine" not in client.state()["callbacks"]


def test_duplicates_follow_each_other(calling: Calling, client: Client, receiver: Receiver) -> None:
    received = calling("[duplicate 5]")

    assert (len(received), len({item.body for item in received})) == (5, 1)
    assert receiver.most_at_once == 1
    assert client.state()["callbacks"]["mine"] == {"sent": 5, "answers": [200] * 5}


def test_concurrent_duplicates_come_at_once(client: Client, receiver: Receiver) -> None:
    receiver.barrier = threading.Barrier(7)
    client.submit("[concurrent 7]", trace_id="mine", callback_url=receiver.url)

    # Nobody is answered before all are there; one after the other they would get a 500.
    assert len({item.body for item in receiver.wait(7)}) == 1
    receiver.barrier = None
    client.submit(callback_url=receiver.url)
    receiver.wait(8)
    assert client.state()["callbacks"]["mine"] == {"sent": 7, "answers": [200] * 7}


def test_two_successes_have_different_images(calling: Calling, client: Client) -> None:
    first, second = [json.loads(item.body) for item in calling("[two successes]", n=2)]

    assert first["task_id"] == second["task_id"]
    images = {client.call("GET", item["url"]).body for item in first["data"] + second["data"]}
    assert len(images) == 4
    assert client.task()["response"] == first


def test_a_forged_token_differs_in_one_letter_within_its_signature(calling: Calling) -> None:
    (received,) = calling("[forged]")
    path = "/callbacks/task.signature123456"

    different = [at for at, letter in enumerate(path) if received.path[at] != letter]
    assert len(received.path) == len(path)
    assert len(different) == 1
    assert path.index("signature") < different[0] < len(path) - 1


@pytest.mark.parametrize(
    ("url", "forged"),
    [
        ("http://host/hook?token=abcdefg", "http://host/hook?token=abcAefg"),
        ("http://host/hook?token=abcAefg", "http://host/hook?token=abcBefg"),
        ("http://long-host.example/", "http://long-host.example/forged"),
    ],
)
def test_a_token_is_found_in_the_query_and_never_in_the_host(url: str, forged: str) -> None:
    assert callbacks.plan("key", url, [], {Word.FORGED: 1}).url == forged


def test_a_wrong_id_is_another_one(calling: Calling, client: Client) -> None:
    (received,) = calling("[wrong id]")
    task = client.task()

    assert UUID(json.loads(received.body)["task_id"]) != UUID(task["id"])
    assert task["response"]["task_id"] == task["id"]


def test_truncated_json_is_the_first_half(calling: Calling, client: Client) -> None:
    (received,) = calling("[truncated json]")
    whole = json.dumps(client.task()["response"]).encode()

    assert received.body == whole[: len(whole) // 2]
    assert json_or_none(received) == {}


def test_empty_is_a_body_without_a_byte(calling: Calling) -> None:
    (received,) = calling("[empty]")

    assert (received.body, received.headers["Content-Length"]) == (b"", "0")


def test_base64_takes_the_place_of_the_links_and_gzip_packs_it(calling: Calling) -> None:
    (packed,) = calling("[gzip] [base64]", n=2)
    assert packed.headers["Content-Encoding"] == "gzip"
    for item in json.loads(gzip.decompress(packed.body))["data"]:
        assert set(item) == {"b64_json"}
        assert Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))).size == (451, 300)


def test_image_url_takes_the_place_of_data(calling: Calling, client: Client) -> None:
    (received,) = calling("[image_url]")
    body = json.loads(received.body)

    assert "data" not in body
    assert client.call("GET", body["image_url"]).image.size == (451, 300)


@pytest.mark.parametrize("megabytes", [0.001, 70])
def test_huge_has_that_many_bytes_and_a_valid_image(calling: Calling, megabytes: float) -> None:
    (received,) = calling(f"[huge {megabytes}]")
    (item,) = json.loads(received.body)["data"]
    image = base64.b64decode(item["b64_json"])

    assert len(received.body) == pytest.approx(megabytes * 1_000_000, abs=500)
    # No more than what a service takes for one image.
    assert len(image) >= min(megabytes * 745_000 - 3000, 44_000_000)
    assert len(image) <= 45_000_000
    Image.open(io.BytesIO(image)).verify()


def test_chunked_tells_no_length(calling: Calling, client: Client) -> None:
    (received,) = calling("[chunked] [huge 0.1]")

    assert received.headers["Transfer-Encoding"] == "chunked"
    assert received.headers["Content-Length"] is None
    assert len(received.body) == 100_000
    assert json.loads(received.body)["success"] is True
    assert client.state()["callbacks"]["mine"] == {"sent": 1, "answers": [200]}


def test_a_refused_callback_is_not_sent_again(
    calling: Calling, client: Client, receiver: Receiver
) -> None:
    receiver.statuses = [503]

    assert len(calling("a cat")) == 1
    assert client.state()["callbacks"]["mine"] == {"sent": 1, "answers": [503]}


def test_retries_end_with_the_first_success(start: Start, receiver: Receiver) -> None:
    client = start(callback_retries=5)
    receiver.statuses = [503]
    client.submit(trace_id="mine", callback_url=receiver.url)
    client.submit(trace_id="fence", callback_url=receiver.url)

    bodies = [item.body for item in receiver.wait(3)]
    assert bodies[0] == bodies[1] != bodies[2]
    assert client.state()["callbacks"]["mine"] == {"sent": 2, "answers": [503, 200]}


@pytest.mark.parametrize("prompt", ["a cat", "[chunked]"])
def test_who_does_not_answer_in_time_or_at_all_has_no_status(
    start: Start, receiver: Receiver, prompt: str
) -> None:
    client = start(callback_timeout=0.2)
    receiver.answering.clear()
    client.submit(prompt, trace_id="silent", callback_url=receiver.url)
    client.submit(prompt, trace_id="nobody", callback_url="http://127.0.0.1:1/callbacks")
    # Comes to its end by itself, after those two.
    client.submit(prompt, trace_id="fence", callback_url="http://127.0.0.1:1/callbacks")

    wait_for(lambda: "fence" in client.state()["callbacks"])
    assert client.state()["callbacks"]["silent"] == {"sent": 1, "answers": [None]}
    assert client.state()["callbacks"]["nobody"] == {"sent": 1, "answers": [None]}
