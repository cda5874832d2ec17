"""The whole of what is served, as `web.application` puts it together from the settings."""

from collections.abc import Callable

import pytest
from werkzeug.test import Client

from app import web
from tests.factories import make_task
from tests.web.sites import Site, error_of


@pytest.mark.parametrize(
    ("proxies", "address"),
    [("0", "198.51.100.1"), ("1", "203.0.113.3"), ("2", "203.0.113.2"), ("9", "198.51.100.1")],
)
def test_a_proxy_is_believed_as_far_as_proxies_are_configured(
    site_with: Callable[..., Site], proxies: str, address: str
) -> None:
    site = site_with(trusted_proxies=proxies)
    Client(web.application(site.parts)).post(
        site.callback_path(make_task(site.parts)),
        data=b"nonsense",
        headers={"X-Forwarded-For": "203.0.113.1, 203.0.113.2, 203.0.113.3"},
        environ_overrides={"REMOTE_ADDR": "198.51.100.1"},
    )

    (entry,) = site.rejections()
    assert entry["address"] == address


@pytest.mark.parametrize(
    ("public_url", "header"),
    [("http://postback.test", None), ("https://postback.test", "max-age=31536000")],
)
def test_browsers_stay_with_tls_where_the_service_is_public_under_it(
    site_with: Callable[..., Site], public_url: str, header: str | None
) -> None:
    response = Client(web.application(site_with(public_url=public_url).parts)).get("/healthz")

    assert response.headers.get("Strict-Transport-Security") == header


def test_all_below_callbacks_is_the_receivers_and_the_rest_the_apis_and_the_pages(
    sqlite_site: Site,
) -> None:
    client = Client(web.application(sqlite_site.parts))

    for path in ("/callbacks", "/callbacks/", "/callbacks/x", "/callbacks/x/y"):
        assert error_of(client.get(path), 405)["message"] == "expected POST, not GET"
    error_of(client.get("/v1/tasks"), 401)
    for path, status in (("/login", 200), ("/callbacksx", 404)):
        response = client.get(path)
        assert (response.status_code, response.mimetype) == (status, "text/html")
