"""The image host: what it gives out, and how badly on request."""

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


@pytest.mark.parametrize("name", ["chelsea.png", "coffee.png"])
def test_photographs_are_small_and_given_out(client: Client, name: str) -> None:
    answer = client.call("GET", f"/photos/{name}")

    assert answer.body == (PHOTOS / name).read_bytes()
    assert answer.headers["Content-Type"] == "image/png"
    assert min(answer.image.size) >= 256
    assert len(answer.body) <= 250_000


def test_photographs_name_their_licence() -> None:
    note = (PHOTOS / "README.md").read_text()

    assert "CC0" in note
    assert {path.name for path in PHOTOS.glob("*.png")} == {
        word for word in note.replace("`", " ").split() if word.endswith(".png")
    }


@pytest.mark.parametrize("path", ["/photos/none.png", "/photos/..%2f__init__.py", "/images/x.png"])
def test_nothing_else_is_given_out(client: Client, path: str) -> None:
    assert client.call("GET", path).status == 404


def test_a_link_ends_in_the_right_name_only(client: Client) -> None:
    url = client.submit().json["data"][0]["url"]

    assert client.call("GET", url).status == 200
    assert client.call("GET", url.removesuffix("png") + "jpeg").status == 404


def test_a_part_and_an_unchanged_image_can_be_asked_for(client: Client) -> None:
    url = client.submit().json["data"][0]["url"]
    whole = client.call("GET", url)
    part = client.pool.request("GET", url, headers={"Range": "bytes=0-7"})
    same = client.pool.request("GET", url, headers={"If-None-Match": whole.headers["ETag"]})

    assert (part.status, part.data) == (206, whole.body[:8])
    assert same.status == 304


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
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(bomb.body))
    assert sum(map(len, _inflated(bomb.body))) == 30_000 * 3751


def test_a_big_image_is_valid_and_not_larger_than_said(client: Client) -> None:
    answer = client.fetch(client.submit("[big image 3]"))

    assert 2_990_000 < len(answer.body) <= 3_000_000
    assert answer.image.getextrema() == ((0, 255),) * 3


def test_the_usual_big_image_has_60_megabytes() -> None:
    assert 59_900_000 < len(spoiling.noise(60_000_000)) <= 60_000_000


def test_a_truncated_image_is_the_first_half(client: Client) -> None:
    good, bad = bitten(client, "[truncated png]")

    assert bad.body == good.body[: len(good.body) // 2]
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(bad.body)).load()


def test_what_is_not_an_image_says_that_it_is(client: Client) -> None:
    _, bad = bitten(client, "[not an image]")

    assert bad.headers["Content-Type"] == "image/png"
    assert bad.body.startswith(b"<!doctype html>")


def test_a_wrong_type_has_the_right_bytes(client: Client) -> None:
    good, bad = bitten(client, "[wrong type]")

    assert bad.headers["Content-Type"].startswith("text/plain")
    assert bad.body == good.body


def test_spoilt_images_can_come_in_base64(client: Client) -> None:
    (item,) = client.submit("[bomb] [base64]").json["data"]

    assert len(item["b64_json"]) < 200_000


def test_a_slow_image_begins_at_once_and_drips_in(client: Client) -> None:
    good, url = client.fetch(client.submit()), client.submit("grayscale [slow image 0.6]")
    started = time.monotonic()
    answer = client.pool.request(
        "GET", url.json["data"][0]["url"], preload_content=False, redirect=False
    )
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


def test_image_404_leads_nowhere(client: Client) -> None:
    assert bitten(client, "[image 404]")[1].status == 404


def test_image_503_ends_after_k_requests(client: Client) -> None:
    url = client.submit("[image 503 2]").json["data"][0]["url"]

    assert [client.call("GET", url).status for _ in range(3)] == [503, 503, 200]


def _inflated(png: bytes) -> Iterator[bytes]:
    """The unpacked pixels, piece by piece: they are too many for one."""
    inflater, data = zlib.decompressobj(), png[png.index(b"IDAT") + 4 :]
    while not inflater.eof:
        yield inflater.decompress(data, 2**20)
        data = inflater.unconsumed_tail
