"""`GET /images/<token>`: an image's permanent address."""

import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from sqlalchemy import select
from werkzeug.test import TestResponse

from app.models import Input, Role, new_id
from app.signing import Picture
from tests.factories import make_task, png
from tests.web.servers import Server
from tests.web.sites import Site, add_image, error_of, fetch

ORIGINAL = png(64, 48)


@pytest.fixture
def stored(sqlite_site: Site) -> dict[str, Any]:
    """An image in storage, as the task shows it."""
    task = make_task(sqlite_site.parts)
    sqlite_site.finish(task, ORIGINAL)
    (image,) = sqlite_site.look_up(task)["images"]
    return dict(image)


@pytest.fixture
def get(sqlite_site: Site, stored: dict[str, Any]) -> Callable[..., TestResponse]:
    """Fetches the image with these headers."""
    return functools.partial(fetch, sqlite_site, stored["url"])


def test_an_image_is_served_as_what_it_is_and_for_ever(get: Callable[..., TestResponse]) -> None:
    response, head = get(), get("HEAD")

    assert (response.status_code, response.get_data()) == (200, ORIGINAL)
    assert (head.status_code, head.get_data()) == (200, b"")
    for name, value in {
        "Content-Type": "image/png",
        "Content-Length": str(len(ORIGINAL)),
        "Cache-Control": "public, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Accept-Ranges": "bytes",
    }.items():
        assert response.headers[name] == head.headers[name] == value
    assert "Set-Cookie" not in response.headers


def test_a_thumbnail_is_a_webp(sqlite_site: Site, stored: dict[str, Any]) -> None:
    response = fetch(sqlite_site, stored["thumbnail_url"])

    assert response.headers["Content-Type"] == "image/webp"
    with Pillow.open(io.BytesIO(response.get_data())) as thumbnail:
        assert thumbnail.format == "WEBP"


def test_the_extension_says_nothing(sqlite_site: Site, stored: dict[str, Any]) -> None:
    for extension in ("", ".png", ".jpeg", ".exe", ".tar.gz"):
        response = fetch(sqlite_site, stored["url"].removesuffix(".png") + extension)
        assert (response.status_code, response.headers["Content-Type"]) == (200, "image/png")


def test_what_the_browser_has_is_not_sent_again(get: Callable[..., TestResponse]) -> None:
    etag = get().headers["ETag"]
    for known in (etag, f'"another", {etag}', f"W/{etag}", "*"):
        response = get(If_None_Match=known)
        assert (response.status_code, response.get_data()) == (304, b"")
        assert response.headers["ETag"] == etag
    assert get(If_None_Match='"another"').status_code == 200


def test_no_two_images_share_an_etag(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    sqlite_site.finish(task, ORIGINAL, png(8, 8))
    images = sqlite_site.look_up(task)["images"]
    urls = [image[name] for image in images for name in ("url", "thumbnail_url")]

    assert len({fetch(sqlite_site, url).headers["ETag"] for url in urls}) == 4


def test_a_range_is_sent_alone(get: Callable[..., TestResponse]) -> None:
    size = len(ORIGINAL)
    for wanted, first, end in (
        ("0-0", 0, 1),
        ("10-19", 10, 20),
        ("-7", size - 7, size),
        ("5-", 5, size),
        ("0-999999", 0, size),
        ("-999999", 0, size),
    ):
        response = get(Range=f"bytes={wanted}")
        assert (response.status_code, response.get_data()) == (206, ORIGINAL[first:end])
        assert response.headers["Content-Range"] == f"bytes {first}-{end - 1}/{size}"
        assert response.headers["Content-Length"] == str(end - first)


def test_a_range_that_is_not_there_is_not_sent(get: Callable[..., TestResponse]) -> None:
    beyond = get(Range="bytes=999999-")
    error_of(beyond, 416)
    assert beyond.headers["Content-Range"] == f"bytes */{len(ORIGINAL)}"
    # What says nothing, or more than is given here, is passed over; and so is one of another version.
    for meaningless in ("lines=1-2", "bytes=9-1", "nonsense", "bytes=0-1,5-6"):
        response = get(Range=meaningless)
        assert (response.status_code, response.get_data()) == (200, ORIGINAL)
    assert get(Range="bytes=0-9", If_Range='"another"').status_code == 200
    assert get("HEAD", Range="bytes=0-9").headers["Content-Length"] == str(len(ORIGINAL))
    assert get(Range="bytes=0-9", If_None_Match=get().headers["ETag"]).status_code == 304


def test_an_image_under_way_is_too_early(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    image = add_image(sqlite_site.parts, task)
    response = fetch(sqlite_site, sqlite_site.parts.picture_url(Picture.OUTPUT, image))

    assert error_of(response, 425)["code"] == "too_early"
    assert int(response.headers["Retry-After"]) > 0
    assert response.headers["Cache-Control"] == "no-store"


def test_an_uploaded_input_is_served_but_not_one_at_the_callers_own_url(sqlite_site: Site) -> None:
    parts = sqlite_site.parts
    task = make_task(parts)
    parts.storage.put("inputs/1.png", io.BytesIO(ORIGINAL), "image/png")
    upload = Input(
        task_id=task.id, role=Role.MASK, index=0, key="inputs/1.png", content_type="image/png"
    )
    with parts.db.transaction() as session:
        session.add(upload)
        session.flush()
        inputs = session.scalars(select(Input).order_by(Input.role)).all()
    given, uploaded = (parts.picture_url(Picture.INPUT, each.id) for each in inputs)

    error_of(fetch(sqlite_site, given), 404)
    assert fetch(sqlite_site, uploaded).get_data() == ORIGINAL


def test_a_forged_address_or_that_of_something_else_is_not_found(
    sqlite_site: Site, stored: dict[str, Any]
) -> None:
    parts = sqlite_site.parts
    forged = "o.0123456789abcdef0123456789abcdef.signature"
    urls = [
        f"/images/{token}" for token in ("x", forged, "..", "%2e%2e%2fetc%2fpasswd", "o", "%00")
    ]
    # Another picture needs another signature.
    assert "/images/o." in stored["url"]
    urls += [stored["url"].replace("/images/o.", f"/images/{letter}.") for letter in "ti"]
    urls.append(f"/images/{parts.signing.callback_token('acedata', new_id())}")
    # Of a task that is gone, and of an image that failed.
    failed = add_image(parts, make_task(parts), status="failed")
    urls += [parts.picture_url(Picture.OUTPUT, id_) for id_ in (new_id(), failed)]

    for url in urls:
        assert error_of(fetch(sqlite_site, url), 404)["code"] == "not_found"


def test_a_file_that_is_gone_is_not_found(
    sqlite_site: Site, stored: dict[str, Any], tmp_path: Path
) -> None:
    for file in (tmp_path / "storage" / "images").rglob("*.png"):
        file.unlink()

    error = error_of(fetch(sqlite_site, stored["url"]), 404)
    assert str(tmp_path) not in str(error)


def test_a_real_server_sends_files_and_their_parts(sqlite_server: Server) -> None:
    parts = sqlite_server.parts
    large = os.urandom(500_000)
    parts.storage.put("images/large.png", io.BytesIO(large), "image/png")
    columns = {"status": "stored", "key": "images/large.png", "content_type": "image/png"}
    image = add_image(parts, make_task(parts), **columns, sha256="1" * 64)
    path = parts.picture_url(Picture.OUTPUT, image).removeprefix(parts.config.public_url)
    whole = sqlite_server.call("GET", path)
    part = sqlite_server.call("GET", path, Range="bytes=100000-299999")
    known = sqlite_server.call("GET", path, If_None_Match=whole.headers["ETag"])

    assert whole.body == large
    assert (part.status, part.body) == (206, large[100_000:300_000])
    assert (known.status, known.body) == (304, b"")
    assert sqlite_server.call("GET", path, Range="bytes=99999999-").status == 416
