"""The image host: what it gives out, and how badly on request."""

import base64
import io
import time
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import urljoin

import pytest
from PIL import Image

from app.sandbox import spoiling
from app.sandbox.hosting import PHOTOS
from tests.sandbox.client import Answer, Client

Start = Callable[..., Client]


def test_photographs_are_small_free_and_given_out(client: Client) -> None:
    note = (PHOTOS / "README.md").read_text()
    assert "CC0" in note
    for path in PHOTOS.glob("*.png"):
        answer = client.call("GET", f"/photos/{path.name}")

        assert path.name in note
        assert answer.body == path.read_bytes()
        assert answer.headers["Content-Type"] == "image/png"
        assert min(answer.image.size) >= 256
        assert len(answer.body) <= 250_000


def test_a_link_ends_in_the_right_name_and_nothing_else_is_given_out(client: Client) -> None:
    url = client.submit().json["data"][0]["url"]
    whole = client.call("GET", url)
    part = client.pool.request("GET", url, headers={"Range": "bytes=0-7"})
    same = client.pool.request("GET", url, headers={"If-None-Match": whole.headers["ETag"]})

    assert (part.status, part.data) == (206, whole.body[:8])
    assert same.status == 304
    others = ("/photos/none.png", "/photos/..%2f__init__.py", "/images/x.png", f"{url[:-3]}jpeg")
    assert {client.call("GET", path).status for path in others} == {404}


def test_links_expire(start: Start) -> None:
    client = start(image_ttl=0)

    assert client.fetch(client.submit()).status == 403


def bitten(client: Client, prompt: str) -> tuple[Answer, Answer]:
    """The answers to a good link and to one with that prompt, of the same edit."""
    return client.fetch(client.submit()), client.fetch(client.submit(f"grayscale {prompt}"))


def test_a_bomb_is_small_and_expands(client: Client) -> None:
    bomb = client.fetch(client.submit("[bomb]"))

    assert bomb.headers["Content-Type"] == "image/png"
    assert len(bomb.body) < 200_000
    (item,) = client.submit("[bomb] [base64]").json["data"]
    assert base64.b64decode(item["b64_json"]) == bomb.body
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(bomb.body))
    assert sum(map(len, _inflated(bomb.body))) == 30_000 * 3751


def test_a_big_image_is_valid_and_not_larger_than_said(client: Client) -> None:
    answer = client.fetch(client.submit("[big image 3]"))

    assert 2_990_000 < len(answer.body) <= 3_000_000
    assert answer.image.getextrema() == ((0, 255),) * 3


def test_the_usual_big_image_has_60_megabytes() -> None:
    assert 59_900_000 < len(spoiling.noise(60_000_000)) <= 60_000_000


def test_an_image_is_truncated_replaced_or_of_another_type(client: Client) -> None:
    good, half = bitten(client, "[truncated png]")
    page, text = bitten(client, "[not an image]")[1], bitten(client, "[wrong type]")[1]

    assert half.body == good.body[: len(good.body) // 2]
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(half.body)).load()
    assert page.headers["Content-Type"] == "image/png"
    assert page.body.startswith(b"<!doctype html>")
    assert text.headers["Content-Type"].startswith("text/plain")
    assert text.body == good.body


def test_a_slow_image_begins_at_once_and_drips_in(client: Client) -> None:
    good, url = client.fetch(client.submit()), client.submit("grayscale [slow image 0.6]")
    started = time.monotonic()
    answer = client.pool.request("GET", url.json["data"][0]["url"], preload_content=False)
    first = answer.read(1)
    begun = time.monotonic() - started
    body = first + answer.read()

    assert body == good.body
    assert answer.headers["Content-Length"] == str(len(body))
    assert time.monotonic() - started - begun >= 0.5


def test_a_private_redirect_leads_where_the_option_says(start: Start) -> None:
    client = start(private_url="http://10.1.2.3/secret")
    answer = client.fetch(client.submit("[private redirect]"))

    assert answer.status == 302
    assert answer.headers["Location"] == "http://10.1.2.3/secret"


def test_a_redirect_leads_to_the_image_after_n_steps(client: Client) -> None:
    good, answer = bitten(client, "[redirect 3]")
    url, steps = client.url, 0
    while answer.status == 302:
        url, steps = urljoin(url, answer.headers["Location"]), steps + 1
        answer = client.call("GET", url)

    assert steps == 3
    assert answer.body == good.body


def test_an_image_is_missing_or_fails_k_times(client: Client) -> None:
    url = client.submit("[image 503 2]").json["data"][0]["url"]

    assert [client.call("GET", url).status for _ in range(3)] == [503, 503, 200]
    assert bitten(client, "[image 404]")[1].status == 404


def _inflated(png: bytes) -> Iterator[bytes]:
    """The unpacked pixels, piece by piece: they are too many for one."""
    inflater, data = zlib.decompressobj(), png[png.index(b"IDAT") + 4 :]
    while not inflater.eof:
        yield inflater.decompress(data, 2**20)
        data = inflater.unconsumed_tail
