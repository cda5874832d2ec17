"""The whole of what is served, as `web.application` puts it together from the settings."""

from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import Client

from app import web
from tests.factories import make_task
from tests.web.sites import Site, error_of, json_of


def client_of(site: Site) -> Client:
    return Client(web.application(site.parts))


@pytest.mark.parametrize(
    ("proxies", "address"),
    [("0", "198.51.100.1"), ("1", "203.0.113.3"), ("2", "203.0.113.2"), ("9", "198.51.100.1")],
)
def test_a_proxy_is_believed_as_far_as_proxies_are_configured(
    site_with: Callable[..., Site], proxies: str, address: str
) -> None:
    site = site_with(trusted_proxies=proxies)
    task = make_task(site.parts)
    client_of(site).post(
        site.callback_path(task),
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
    response = client_of(site_with(public_url=public_url)).get("/healthz")

    assert response.headers.get("Strict-Transport-Security") == header


@pytest.mark.parametrize("path", ["/callbacks", "/callbacks/", "/callbacks/x", "/callbacks/x/y"])
def test_all_below_callbacks_is_the_receivers(sqlite_site: Site, path: str) -> None:
    assert error_of(client_of(sqlite_site).get(path), 405)["message"] == "expected POST, not GET"


def test_the_rest_is_the_apis_and_the_pages(sqlite_site: Site) -> None:
    client = client_of(sqlite_site)
    kinds: dict[str, Any] = {
        path: client.get(path).mimetype for path in ("/v1/tasks", "/login", "/callbacksx")
    }

    assert kinds == {
        "/v1/tasks": "application/json", "/login": "text/html", "/callbacksx": "text/html",
    }  # fmt: skip
    assert json_of(client.get("/healthz")) == {"status": "ok"}
