"""AGCloud's protocol: the result in the answer, whole or as a stream of events."""

import base64
import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import urllib3.exceptions
from PIL import Image

from tests.sandbox.client import Answer, Client

EDITS = "/v1/image/edits"
Event = tuple[str, Any]


def edit(client: Client, prompt: str = "grayscale", **fields: Any) -> Answer:
    """The answer to an edit of the photograph."""
    photo = client.call("GET", client.photo).body
    given = {"model": "gpt-image-2", **fields}
    return client.upload([("image", photo)], prompt, EDITS, **given)


def events(answer: Answer) -> list[Event]:
    """The events of a stream, by name and content."""
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    read: list[Event] = []
    for block in answer.body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        read.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return read


def names(answer: Answer) -> list[str]:
    return [name.removeprefix("image_edit.") for name, _ in events(answer)]


def test_the_answer_has_the_images_and_the_state_their_digests(client: Client) -> None:
    answer = edit(client, n="2", output_format="webp", request_id="mine", response_format="url")

    assert set(answer.json) == {"created", "data", "usage"}
    images = [base64.b64decode(item["b64_json"]) for item in answer.json["data"]]
    assert [Image.open(io.BytesIO(image)).format for image in images] == ["WEBP", "WEBP"]
    usage = answer.json["usage"]
    assert usage["input_tokens"] == sum(usage["input_tokens_details"].values())
    state = client.state()
    assert state["submissions"] == {"mine": 1}
    assert [image["sha256"] for image in state["images"]] == [
        hashlib.sha256(image).hexdigest() for image in images
    ]
    assert {image["submission"] for image in state["images"]} == {"mine"}


def test_links_may_be_given_instead(client: Client) -> None:
    assert client.fetch(edit(client, "[links]")).image.size == (451, 300)


def test_a_stream_has_partial_images_and_then_each_image(client: Client) -> None:
    answer = edit(client, n="2", stream="true", partial_images="2", quality="high")

    assert names(answer) == ["partial_image", "partial_image", "completed", "completed", ""]
    *images, (_, done) = events(answer)
    assert done == "[DONE]"
    for name, content in images:
        assert content["type"] == name
        assert (content["quality"], content["output_format"]) == ("high", "png")
        Image.open(io.BytesIO(base64.b64decode(content["b64_json"]))).verify()
    assert [content.get("partial_image_index") for _, content in images] == [0, 1, None, None]
    assert images[-1][1]["usage"]["output_tokens"] == 2200
    assert len({content["b64_json"] for _, content in images}) == 4
    assert len(client.state()["images_made"]) == 2


@pytest.mark.parametrize(
    ("prompt", "last"),
    [
        ("[cut stream]", ["partial_image"]),
        ("[stream error]", ["partial_image", "error"]),
        ("[bad partial]", ["partial_image", "completed", ""]),
        ("[no done]", ["partial_image", "completed"]),
        ("[not an image]", ["partial_image", "completed", ""]),
    ],
)
def test_a_stream_goes_wrong_as_wished(client: Client, prompt: str, last: list[str]) -> None:
    answer = edit(client, prompt, stream="true", partial_images="1", request_id="mine")

    assert names(answer) == last
    assert client.state()["submissions"] == {"mine": 1}
    # What nobody was sent counts as never made.
    assert len(client.state()["images_made"]) == ("completed" in last)
    if "error" in last:
        assert events(answer)[-1][1]["error"] == {
            "type": "server_error", "message": "the edit failed",
        }  # fmt: skip


@pytest.mark.parametrize("prompt", ["[broken stream]", "[hang up after]", "[hang up before]"])
def test_a_stream_is_cut_off_as_wished(client: Client, prompt: str) -> None:
    with pytest.raises(urllib3.exceptions.ProtocolError):
        edit(client, prompt, stream="true", partial_images="1", request_id="mine")

    assert client.state()["submissions"].get("mine", 0) == (prompt != "[hang up before]")
    assert client.state()["images_made"] == []


def test_submissions_are_refused_as_wished(client: Client) -> None:
    prompt = "[429 1] [500 1] [bare 500 1] [504 1]"
    answers = [edit(client, prompt, request_id="mine") for _ in range(5)]

    assert [answer.status for answer in answers] == [429, 500, 500, 504, 200]
    assert answers[0].headers["Retry-After"] == "1"
    assert answers[0].json["error"]["type"] == "too_many_requests"
    assert b"error" not in answers[2].body
    assert client.state()["submissions"] == {"mine": 2}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"partial_images": "1"}, "partial_images"),
        ({"partial_images": "4", "stream": "true"}, "partial_images"),
        ({"size": "100x100", "model": "git-image-2"}, "size"),
        ({"prompt": "[forbidden]", "stream": "true"}, "safety"),
    ],
)
def test_what_breaks_a_rule_is_refused(
    refusing: Client, fields: dict[str, Any], message: str
) -> None:
    answer = edit(refusing, **fields)

    assert answer.status in {400, 403}
    assert message in answer.json["error"]["message"]


def test_only_forms_with_files_and_keys_are_taken(
    refusing: Client, start: Callable[..., Client]
) -> None:
    assert refusing.submit(path=EDITS).status == 400
    assert refusing.upload([], path=EDITS, image=refusing.photo).status == 400
    assert edit(start(api_key="another")).json["error"]["type"] == "invalid_token"


def test_huge_is_as_large_and_its_image_is_counted_as_it_is(client: Client) -> None:
    answer = edit(client, "[huge 0.3]")

    assert len(answer.body) == pytest.approx(300_000, abs=500)
    digest = hashlib.sha256(base64.b64decode(answer.json["data"][0]["b64_json"])).hexdigest()
    assert client.state()["images"][0]["sha256"] == digest
