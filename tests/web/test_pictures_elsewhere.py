"""`GET /images/<token>` where storage is another host."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import pytest

from app.errors import StorageError
from app.services import Services
from app.signing import Picture
from tests.factories import make_task
from tests.web.sites import Site, add_image, error_of, fetch, open_site


class Elsewhere:
    """A storage whose objects are read from another host."""

    def put(self, key: str, file: BinaryIO, content_type: str) -> None:
        raise NotImplementedError

    def open(self, key: str) -> BinaryIO:
        raise NotImplementedError

    def delete(self, keys: Iterable[str]) -> None:
        raise NotImplementedError

    def address(self, key: str, method: str = "GET") -> str | None:
        return f"https://bucket.example.com/{key}?X-Amz-Expires=3600&X-Amz-Signature={method}"

    def check(self) -> None:
        raise NotImplementedError


class Failing(Elsewhere):
    """One that cannot sign."""

    def address(self, key: str, method: str = "GET") -> str | None:
        del method
        raise StorageError(f"S3 bucket 'b' could not sign an address of {key!r}: no credentials")


@pytest.fixture
def site(sqlite_parts: Services) -> Iterator[Site]:
    """The application on such a storage."""
    with open_site(dataclasses.replace(sqlite_parts, storage=Elsewhere())) as site:
        yield site


@pytest.fixture
def url(site: Site) -> str:
    """The address of an image that is stored there."""
    image = add_image(site.parts, make_task(site.parts), status="stored", key="images/1/0.png")
    return site.parts.picture_url(Picture.OUTPUT, image, "png")


def test_an_image_elsewhere_is_redirected_to_for_less_than_its_address_lives(
    site: Site, url: str
) -> None:
    for method in ("GET", "HEAD"):
        response = fetch(site, url, method)

        assert response.status_code == 302
        assert response.headers["Location"] == (
            f"https://bucket.example.com/images/1/0.png?X-Amz-Expires=3600&X-Amz-Signature={method}"
        )
        assert response.headers["Cache-Control"] == "public, max-age=300"


def test_pages_may_show_images_from_where_they_are(site: Site, sqlite_site: Site) -> None:
    policies = [
        each.client.get("/login").headers["Content-Security-Policy"] for each in (site, sqlite_site)
    ]

    assert "img-src 'self' https://bucket.example.com;" in policies[0]
    assert "img-src 'self';" in policies[1]


def test_storage_that_fails_is_unavailable(site: Site, url: str) -> None:
    site.flask.extensions["services"] = dataclasses.replace(site.parts, storage=Failing())
    response = fetch(site, url)

    assert error_of(response, 503)["code"] == "unavailable"
    assert int(response.headers["Retry-After"]) > 0
