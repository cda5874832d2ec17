"""`GET /images/<token>`: an image's permanent address."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from sqlalchemy import select

from app.models import Image, Input, Role, new_id
from app.signing import Picture
from tests.factories import SECRET_KEY, make_config, make_task, png, running
from tests.web.servers import web_server
from tests.web.sites import Site, add_image, error_of, fetch, open_site

ORIGINAL = png(64, 48)


@pytest.fixture
def stored(sqlite_site: Site) -> dict[str, Any]:
    """An image in storage, as the task shows it."""
    task = make_task(sqlite_site.parts)
    sqlite_site.finish(task, ORIGINAL)
    (image,) = sqlite_site.look_up(task)["images"]
    return dict(image)


def test_an_image_is_served_as_what_it_is_and_for_ever(
    sqlite_site: Site, stored: dict[str, Any]
) -> None:
    response = fetch(sqlite_site, stored["url"])

    assert response.status_code == 200
    assert response.get_data() == ORIGINAL
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Content-Length"] == str(len(ORIGINAL))
    assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert response.headers["Accept-Ranges"] == "bytes"
    assert "Set-Cookie" not in response.headers


def test_a_thumbnail_is_a_webp(sqlite_site: Site, stored: dict[str, Any]) -> None:
    response = fetch(sqlite_site, stored["thumbnail_url"])

    assert response.headers["Content-Type"] == "image/webp"
    with Pillow.open(io.BytesIO(response.get_data())) as thumbnail:
        assert thumbnail.format == "WEBP"


@pytest.mark.parametrize("extension", ["", ".png", ".jpeg", ".exe", ".tar.gz"])
def test_the_extension_says_nothing(
    sqlite_site: Site, stored: dict[str, Any], extension: str
) -> None:
    response = fetch(sqlite_site, stored["url"].removesuffix(".png") + extension)

    assert (response.status_code, response.headers["Content-Type"]) == (200, "image/png")


def test_what_the_browser_has_is_not_sent_again(sqlite_site: Site, stored: dict[str, Any]) -> None:
    etag = fetch(sqlite_site, stored["url"]).headers["ETag"]
    for known in (etag, f'"another", {etag}', f"W/{etag}", "*"):
        response = fetch(sqlite_site, stored["url"], If_None_Match=known)
        assert (response.status_code, response.get_data()) == (304, b"")
        assert response.headers["ETag"] == etag
    assert fetch(sqlite_site, stored["url"], If_None_Match='"another"').status_code == 200


def test_no_two_images_share_an_etag(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    sqlite_site.finish(task, ORIGINAL, png(8, 8))
    images = sqlite_site.look_up(task)["images"]
    urls = [image[name] for image in images for name in ("url", "thumbnail_url")]

    assert len({fetch(sqlite_site, url).headers["ETag"] for url in urls}) == 4


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [("0-0", 0, 1), ("10-19", 10, 20), ("-7", -7, None), ("5-", 5, None), ("0-999999", 0, None)],
)
def test_a_range_is_sent_alone(
    sqlite_site: Site, stored: dict[str, Any], wanted: str, start: int, end: int | None
) -> None:
    response = fetch(sqlite_site, stored["url"], Range=f"bytes={wanted}")
    expected = ORIGINAL[start:end]
    first = ORIGINAL.index(expected) if start < 0 else start

    assert response.status_code == 206
    assert response.get_data() == expected
    last = first + len(expected) - 1
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/{len(ORIGINAL)}"
    assert response.headers["Content-Length"] == str(len(expected))


def test_a_range_beyond_the_end_is_refused(sqlite_site: Site, stored: dict[str, Any]) -> None:
    response = fetch(sqlite_site, stored["url"], Range="bytes=999999-")

    error_of(response, 416)
    assert response.headers["Content-Range"] == f"bytes */{len(ORIGINAL)}"


@pytest.mark.parametrize("wanted", ["lines=1-2", "bytes=9-1", "nonsense"])
def test_a_range_that_means_nothing_is_ignored(
    sqlite_site: Site, stored: dict[str, Any], wanted: str
) -> None:
    assert fetch(sqlite_site, stored["url"], Range=wanted).status_code in {200, 416}


def test_a_range_of_another_version_is_the_whole(sqlite_site: Site, stored: dict[str, Any]) -> None:
    response = fetch(sqlite_site, stored["url"], Range="bytes=0-9", If_Range='"another"')

    assert (response.status_code, response.get_data()) == (200, ORIGINAL)


def test_its_head_can_be_asked_for_alone(sqlite_site: Site, stored: dict[str, Any]) -> None:
    response = fetch(sqlite_site, stored["url"], "HEAD")

    assert (response.status_code, response.get_data()) == (200, b"")
    assert response.headers["Content-Length"] == str(len(ORIGINAL))


def test_an_image_under_way_is_too_early(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    image = add_image(sqlite_site.parts, task)
    response = fetch(sqlite_site, sqlite_site.parts.picture_url(Picture.OUTPUT, image))

    assert error_of(response, 425)["code"] == "too_early"
    assert int(response.headers["Retry-After"]) > 0
    assert response.headers["Cache-Control"] == "no-store"


def test_an_image_that_failed_is_not_there(sqlite_site: Site) -> None:
    image = add_image(sqlite_site.parts, make_task(sqlite_site.parts), status="failed")

    error_of(fetch(sqlite_site, sqlite_site.parts.picture_url(Picture.OUTPUT, image)), 404)


def test_an_uploaded_input_is_served(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    sqlite_site.parts.storage.put("inputs/1.png", io.BytesIO(ORIGINAL), "image/png")
    upload = Input(
        task_id=task.id, role=Role.MASK, index=0, key="inputs/1.png", content_type="image/png"
    )
    with sqlite_site.parts.db.transaction() as session:
        session.add(upload)
        session.flush()
        url = sqlite_site.parts.picture_url(Picture.INPUT, upload.id)

    assert fetch(sqlite_site, url).get_data() == ORIGINAL


def test_an_input_at_the_callers_own_url_is_not_served_here(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    with sqlite_site.parts.db.reading() as session:
        given = session.scalars(select(Input.id).filter_by(task_id=task.id)).one()

    error_of(fetch(sqlite_site, sqlite_site.parts.picture_url(Picture.INPUT, given)), 404)


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "o.0123456789abcdef0123456789abcdef.signature",
        "..",
        "%2e%2e%2fetc%2fpasswd",
        "o",
        "%00",
    ],
)
def test_a_forged_address_is_not_found(sqlite_site: Site, token: str) -> None:
    error = error_of(fetch(sqlite_site, f"/images/{token}"), 404)

    assert error["code"] == "not_found"


def test_another_picture_needs_another_signature(sqlite_site: Site, stored: dict[str, Any]) -> None:
    assert "/images/o." in stored["url"]
    for letter in "ti":
        url = stored["url"].replace("/images/o.", f"/images/{letter}.")
        error_of(fetch(sqlite_site, url), 404)
    token = sqlite_site.parts.signing.callback_token("acedata", new_id())
    error_of(fetch(sqlite_site, f"/images/{token}"), 404)


def test_the_address_of_a_task_that_is_gone_is_not_found(sqlite_site: Site) -> None:
    url = sqlite_site.parts.picture_url(Picture.OUTPUT, new_id())

    error_of(fetch(sqlite_site, url), 404)


def test_a_file_that_is_gone_is_not_found(
    sqlite_site: Site, stored: dict[str, Any], tmp_path: Path
) -> None:
    for file in (tmp_path / "storage" / "images").rglob("*.png"):
        file.unlink()

    error = error_of(fetch(sqlite_site, stored["url"]), 404)
    assert str(tmp_path) not in str(error)


def test_addresses_outlive_the_secret_key_that_signed_them(sqlite_url: str, tmp_path: Path) -> None:
    with running(make_config(sqlite_url, tmp_path)) as parts, open_site(parts) as site:
        task = make_task(parts)
        site.finish(task, ORIGINAL)
        url = site.look_up(task)["images"][0]["url"]
    new = {"secret_key": "another secret key, which is newer"}
    for fallbacks, status in ((SECRET_KEY, 200), ("", 404)):
        config = make_config(sqlite_url, tmp_path, **new, secret_key_fallbacks=fallbacks)
        with running(config) as parts, open_site(parts) as site:
            assert fetch(site, url).status_code == status


def test_a_real_server_sends_files_and_their_parts(sqlite_url: str, tmp_path: Path) -> None:
    with web_server(sqlite_url, tmp_path) as server, open_site(server.parts) as site:
        task = make_task(server.parts)
        site.finish(task, ORIGINAL)
        large = os.urandom(500_000)
        with server.parts.db.reading() as session:
            key = session.scalars(select(Image.key)).one()
        server.parts.storage.put(str(key), io.BytesIO(large), "image/png")
        path = site.look_up(task)["images"][0]["url"].removeprefix(server.parts.config.public_url)
        whole = server.call("GET", path)
        part = server.call("GET", path, Range="bytes=100000-299999")
        known = server.call("GET", path, If_None_Match=whole.headers["ETag"])
        beyond = server.call("GET", path, Range="bytes=99999999-")

    assert whole.body == large
    assert (part.status, part.body) == (206, large[100_000:300_000])
    assert (known.status, known.body) == (304, b"")
    assert beyond.status == 416
