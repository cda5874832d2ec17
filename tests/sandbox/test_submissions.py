"""What a submission needs, and how one is refused that breaks a rule of the provider."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from tests.sandbox.client import EDITS, Client

Start = Callable[..., Client]


def image(size: tuple[int, int] = (8, 8), mode: str = "RGB", form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, form)
    return file.getvalue()


def large_png(size: int) -> bytes:
    # What follows the end of a PNG is not looked at.
    return image() + bytes(size)


@pytest.mark.parametrize("path", [EDITS, "/v1/images/edits"])
def test_both_addresses_take_json_and_forms(client: Client, path: str) -> None:
    assert client.submit(path=path).status == 200
    assert client.upload([("image", image())], path=path).status == 200


@pytest.mark.parametrize("path", [EDITS, "/v1/images/edits", "/openai/tasks"])
def test_without_a_token_nothing_is_answered(client: Client, path: str) -> None:
    answer = Client(client.url, token=None).submit(path=path)

    assert answer.status == 401
    assert answer.json["error"]["code"] == "invalid_token"
    assert answer.json["trace_id"]
    assert client.state()["submissions"] == {}


def test_any_token_will_do_unless_one_is_asked_for(start: Start) -> None:
    choosy = start(api_key="the-key")

    assert choosy.submit().json["error"]["code"] == "invalid_token"
    assert Client(choosy.url, token="the-key").submit().status == 200


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"image": None}, "image"),
        ({"image": []}, "image"),
        ({"image": "no link"}, "image"),
        ({"image": ["http://127.0.0.1/", "file:///etc/passwd"]}, "image"),
        ({"image": ["http://127.0.0.1/x"] * 17}, "16"),
        ({"n": 0}, "n: expected"),
        ({"n": 11}, "n: expected"),
        ({"n": "two"}, "n: expected"),
        ({"n": True}, "n: expected"),
        ({"n": 1.5}, "n: expected"),
        ({"size": "big"}, "size"),
        ({"size": "0x0"}, "size"),
        ({"size": "3841x16"}, "size"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_format": "jpeg", "output_compression": 101}, "output_compression"),
        ({"output_compression": 50}, "output_compression"),
        ({"background": "pink"}, "background"),
        ({"background": "transparent", "output_format": "jpeg"}, "transparent"),
        ({"response_format": "xml"}, "response_format"),
        ({"response_format": "b64_json", "n": 2}, "b64_json"),
        ({"quality": "best"}, "quality"),
        ({"quality": "standard"}, "quality"),
        ({"input_fidelity": "medium"}, "input_fidelity"),
        ({"callback_url": "ftp://127.0.0.1/"}, "callback_url"),
        ({"callback_url": "http://[/"}, "callback_url"),
        ({"callback_url": "http://127.0.0.1:99999/"}, "callback_url"),
        ({"model": "dall-e-2", "prompt": "x" * 1001}, "prompt"),
        ({"model": "dall-e-2", "size": "512x256"}, "size"),
        ({"model": "dall-e-2", "quality": "high"}, "quality"),
        ({"model": "dall-e-2", "image": ["http://127.0.0.1/x"] * 2}, "image: expected"),
        ({"model": "dall-e-3", "n": 2}, "n: expected"),
        ({"model": "gpt-image-1", "size": "512x512"}, "size"),
        ({"model": "gpt-image-2", "size": "1000x1000"}, "multiples of 16"),
        ({"model": "gpt-image-2:official", "size": "512x512"}, "655,360"),
        ({"model": "gpt-image-2", "size": "3840x1264"}, "3:1"),
    ],
)
def test_a_broken_rule_is_named_and_nothing_is_paid(
    refusing: Client, fields: dict[str, Any], name: str
) -> None:
    answer = refusing.submit(**{"trace_id": "t-1", **fields})

    assert answer.status == 400
    assert answer.json["error"]["code"] == "bad_request"
    assert name in answer.json["error"]["message"]
    assert answer.json["trace_id"] == "t-1"
    assert refusing.state()["submissions"] == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "dall-e-2", "size": "512x512", "quality": "standard"},
        {"model": "dall-e-3", "size": "300x200"},
        {"model": "gpt-image-1", "size": "1536x1024", "quality": "high"},
        {"model": "gpt-image-2", "size": "1024x640", "input_fidelity": "high"},
        {"model": "nano-banana", "size": "300x200", "n": 2},
        {"model": "model-of-tomorrow", "size": "300x200", "unheard_of": {"x": 1}},
        {"size": "300x200", "n": 2, "stream": True, "user": "me"},
    ],
)
def test_what_a_model_takes_is_taken(client: Client, fields: dict[str, Any]) -> None:
    assert client.submit(**fields).status == 200


def test_a_body_that_is_no_object_or_without_end_is_refused(client: Client) -> None:
    for body in (b"", b"[]", b"{", b"\xff", b'"text"'):
        answer = client.call("POST", EDITS, body=body)
        assert (answer.status, answer.json["error"]["code"]) == (400, "bad_request")
    answer = client.submit(unheard_of="x" * 2**20)
    assert (answer.status, answer.json["error"]["code"]) == (413, "bad_request")


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ([], "image is missing"),
        ([("image", b"")], "expected png or webp or jpeg"),
        ([("image", b"<svg/>")], "expected png or webp or jpeg"),
        ([("image", image(form="GIF"))], "expected png or webp or jpeg"),
        ([("image", image())] * 17, "16"),
        ([("image", image()), ("mask", image())], "alpha"),
        ([("image", image()), ("mask", image((8, 9), "RGBA"))], "8x9"),
        ([("image", image()), ("mask", large_png(4 * 2**20))], "mask: expected"),
        ([("image", large_png(50 * 2**20))], "image: expected"),
    ],
)
def test_files_are_judged_before_they_are_paid_for(
    refusing: Client, files: list[tuple[str, bytes]], name: str
) -> None:
    answer = refusing.upload(files)

    assert answer.status == 400
    assert name in answer.json["error"]["message"]
    assert refusing.state()["submissions"] == {}


@pytest.mark.parametrize("file", [image((8, 9)), large_png(4 * 2**20)])
def test_dall_e_2_wants_a_small_square_png(client: Client, file: bytes) -> None:
    assert client.upload([("image", file)], model="dall-e-2").status == 400
    assert client.upload([("image", image())], model="dall-e-2").status == 200


def test_a_link_in_a_form_will_do_but_not_with_a_mask(client: Client) -> None:
    mask = image(mode="RGBA")

    assert client.upload([], image=client.photo).status == 200
    answer = client.upload([("mask", mask)], image=client.photo)
    assert answer.status == 400
    assert "mask" in answer.json["error"]["message"]


def test_sixteen_images_will_do(client: Client) -> None:
    assert client.submit(image=[client.photo] * 16).status == 200


def test_an_unknown_address_or_method_is_refused_in_json(client: Client) -> None:
    missing, wrong = client.call("GET", "/nowhere"), client.call("GET", EDITS)

    assert (missing.status, missing.json["error"]["code"]) == (404, "no_api")
    assert (wrong.status, wrong.json["error"]["code"]) == (405, "bad_request")
    # A doubled slash is no other spelling.
    assert client.submit(path="/openai//images/edits").status == 404
