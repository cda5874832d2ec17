"""Submissions that are refused, cut off or answered with an error on request."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3.exceptions

from tests.sandbox.client import Client
from tests.sandbox.receiver import Receiver


def hung_up(client: Client, prompt: str, **fields: str) -> bool:
    """Whether the submission ended without an answer."""
    try:
        client.submit(prompt, **fields)
    except urllib3.exceptions.ProtocolError:
        return True
    return False


def test_429_says_when_to_come_back_and_ends_after_k(client: Client) -> None:
    answers = [client.submit("[429 2]", trace_id="mine") for _ in range(3)]

    assert [answer.status for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "1"
    assert answers[0].json["error"]["code"] == "too_many_requests"
    assert answers[0].json["trace_id"] == "mine"
    assert client.state()["submissions"] == {"mine": 1}


def test_each_trace_id_has_a_count_of_its_own_and_else_each_prompt(client: Client) -> None:
    names = ("one", "two", "one", None, None)
    statuses = [client.submit("[429 1]", trace_id=name).status for name in names]

    assert statuses == [429, 429, 200, 429, 200]
    # Without a number it goes on.
    assert {client.submit("[500]", trace_id="mine").status for _ in range(5)} == {500}


def test_a_500_carries_the_providers_error_or_is_a_page(client: Client) -> None:
    first, second = (client.submit("[500 1]", trace_id="mine") for _ in range(2))
    bare = client.submit("[bare 500 1]")

    assert (first.status, second.status, bare.status) == (500, 200, 500)
    assert first.json["error"]["code"] == "api_error"
    assert client.state()["submissions"] == {"mine": 1}
    assert bare.headers["Content-Type"].startswith("text/html")
    assert b"error" not in bare.body


def test_504_is_answered_but_the_work_is_done(client: Client, receiver: Receiver) -> None:
    answer = client.submit("[504]", trace_id="mine", callback_url=receiver.url)
    receiver.wait()

    assert answer.status == 504
    assert answer.json["error"]["code"] == "timeout"
    assert client.state()["submissions"] == {"mine": 1}
    assert client.task()["response"]["success"] is True


def test_a_hang_up_before_means_that_nothing_was_accepted(client: Client) -> None:
    assert hung_up(client, "[hang up before 1]", trace_id="mine")
    assert client.state()["submissions"] == {}
    assert client.task() == {}
    assert not hung_up(client, "[hang up before 1]", trace_id="mine")


def test_a_hang_up_after_means_that_the_work_is_done(client: Client, receiver: Receiver) -> None:
    prompt = "[hang up after 1]"

    assert hung_up(client, prompt, trace_id="mine", callback_url=receiver.url)
    receiver.wait()
    assert client.state()["submissions"] == {"mine": 1}
    assert client.task()["response"]["success"] is True
    assert not hung_up(client, prompt, trace_id="mine", callback_url=receiver.url)
    assert client.state()["submissions"] == {"mine": 2}


def test_a_hang_up_cuts_off_one_who_waits_too_and_then_others_have_their_turn(
    client: Client,
) -> None:
    prompt = "[hang up after 1] [504 1]"

    assert hung_up(client, prompt, trace_id="mine")
    assert client.state()["submissions"] == {"mine": 1}
    assert [client.submit(prompt, trace_id="mine").status for _ in range(2)] == [504, 200]


def test_a_slow_answer_comes_after_the_callback(client: Client, receiver: Receiver) -> None:
    fields = {"trace_id": "mine", "callback_url": receiver.url}
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(client.submit, "[slow answer 0.5]", **fields)
        receiver.wait()

        assert client.state()["submissions"] == {"mine": 1}
        assert not answer.done()
        assert answer.result().status == 200


def test_the_state_tells_how_many_were_answered_at_once(client: Client) -> None:
    assert client.state()["most_submissions_at_once"] == 0
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(client.submit, ["[slow answer 1]"] * 3))
    client.submit()

    assert client.state()["most_submissions_at_once"] == 3
    client.call("DELETE", "/sandbox/state")
    assert client.state()["most_submissions_at_once"] == 0


def test_several_kinds_follow_each_other(client: Client) -> None:
    prompt = "[429 1] [500 1] [504 1]"
    answers = [client.submit(prompt, trace_id="mine").status for _ in range(4)]

    assert answers == [429, 500, 504, 200]


def test_moderation_is_a_403_for_one_who_waits(client: Client) -> None:
    answer = client.submit("[forbidden]")

    assert answer.status == 403
    assert answer.json["error"]["code"] == "forbidden"


@pytest.mark.parametrize(
    ("word", "n", "images"),
    [
        ("partial 1", 4, 1),
        ("partial 3", 4, 3),
        ("partial 9", 3, 2),
        ("partial", 3, 2),
        ("partial", 1, 1),
    ],
)
def test_partial_success_lacks_some_images_but_never_all(
    client: Client, word: str, n: int, images: int
) -> None:
    assert len(client.submit(f"[{word}]", n=n).json["data"]) == images
