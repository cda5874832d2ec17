"""Size, number, format, mask and background of what is made, asked for over HTTP."""

import io
from typing import Any

import pytest
from PIL import Image, ImageChops

from app.sandbox.hosting import PHOTOS
from tests.sandbox.client import Client


def png(image: Image.Image) -> bytes:
    return saved(image, "PNG")


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with Image.open(PHOTOS / "chelsea.png") as image:
        return image.convert("RGB")


def test_the_size_is_that_of_the_image_unless_another_is_asked_for(client: Client) -> None:
    assert client.result().size == (451, 300)
    assert client.result(size="auto").size == (451, 300)
    assert client.result(size="256x128").size == (256, 128)


def test_results_are_as_many_as_asked_for_and_differ_but_not_from_time_to_time(
    client: Client,
) -> None:
    one, other = (client.submit("a dragon", n=4) for _ in range(2))
    bodies = [client.fetch(one, index).body for index in range(4)]

    assert len(one.json["data"]) == len(set(bodies)) == 4
    assert one.json["data"] != other.json["data"]
    assert client.fetch(other).body == bodies[0]


def test_the_format_is_the_one_asked_for_and_every_one_is_read(
    client: Client, photo: Image.Image
) -> None:
    for name in ("png", "jpeg", "webp"):
        answer = client.upload([("image", saved(photo, name.upper()))], output_format=name)
        file = client.fetch(answer)

        assert answer.json["data"][0]["url"].endswith(f".{name}")
        assert file.headers["Content-Type"] == f"image/{name}"
        assert (file.image.format, file.image.size) == (name.upper(), photo.size)


def test_more_compression_makes_a_smaller_file(client: Client) -> None:
    sizes = [
        len(client.fetch(client.submit(output_format="jpeg", output_compression=level)).body)
        for level in (0, 50, 95)
    ]

    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(
    ("prompt", "clear"), [("invert", (100, 50, 200, 150)), ("rotate", (0, 0, 40, 40))]
)
def test_only_the_fully_transparent_part_of_the_mask_is_edited_even_if_the_image_turns(
    client: Client, photo: Image.Image, prompt: str, clear: tuple[int, int, int, int]
) -> None:
    mask = Image.new("RGBA", photo.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), clear)
    mask.paste((0, 0, 0, 1), (300, 50, 400, 150))

    answer = client.upload([("image", png(photo)), ("mask", png(mask))], prompt)
    changed = ImageChops.difference(client.fetch(answer).image.convert("RGB"), photo)

    assert changed.getbbox() == clear


def test_every_further_image_can_be_seen_in_the_result(client: Client, photo: Image.Image) -> None:
    red, lime = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "lime")
    files = [("image[]", png(image)) for image in (photo, red, lime)]

    image = client.fetch(client.upload(files, "mirror")).image.convert("RGB")

    assert image.getpixel((440, 10)) == (255, 0, 0)
    assert image.getpixel((410, 10)) == (0, 255, 0)


def test_a_transparent_background_has_clear_corners_and_an_opaque_one_none(
    client: Client, photo: Image.Image
) -> None:
    clear = photo.convert("RGBA")
    clear.putalpha(0)
    transparent = client.result(background="transparent")
    opaque = client.fetch(client.upload([("image", png(clear))], background="opaque")).image
    auto = client.fetch(client.upload([("image", png(clear))], background="auto")).image

    assert transparent.getchannel("A").getpixel((0, 0)) == 0
    assert transparent.getchannel("A").getpixel((225, 150)) == 255
    assert opaque.getchannel("A").getextrema() == (255, 255)
    assert opaque.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert auto.getchannel("A").getextrema() == (0, 0)


def test_an_image_of_too_many_pixels_is_not_decoded(client: Client) -> None:
    answer = client.upload([("image", png(Image.new("1", (8001, 8001))))])

    assert answer.status == 400
    assert "8001x8001" in answer.json["error"]["message"]


def test_a_photograph_is_turned_upright_by_its_exif(client: Client, photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6

    answer = client.upload([("image", saved(photo, "JPEG", exif=exif))], "mirror")

    assert client.fetch(answer).image.size == (photo.height, photo.width)
