"""Signing in and out, and what a session is good for."""

import re
from collections.abc import Callable
from html import unescape

import pytest
from sqlalchemy import select

from app import keys
from app.models import Audit, Scope
from tests.web.browsers import Browser
from tests.web.sites import ADDRESS, Site


@pytest.mark.parametrize(
    "path", ["/", "/tasks/nothing", "/?status=failed&q=a%20b", "/tasks/x?y=1", "/?q=%C3%A4"]
)
def test_who_has_not_signed_in_is_sent_there_and_back(
    sqlite_site: Site, browser: Browser, path: str
) -> None:
    response = browser.get(path)
    assert response.status_code == 302
    assert response.headers["Location"].startswith("/login?next=")

    form = browser.get(response.headers["Location"]).get_data(as_text=True)
    found = re.search(r'name="next" value="([^"]*)"', form)
    assert found
    following = unescape(found[1])
    signed_in = browser.sign_in(sqlite_site.key(Scope.READ), next=following)
    assert signed_in.status_code == 302
    assert signed_in.headers["Location"] == path


@pytest.mark.parametrize("key", ["", "pb_wrong", "' OR 1=1", "x" * 5000, "\x00"])
def test_a_wrong_key_does_not_sign_in(browser: Browser, key: str) -> None:
    response = browser.sign_in(key, next="/tasks/1")
    page = response.get_data(as_text=True)

    assert response.status_code == 401
    assert "This is no API key with the scope read or admin." in page
    assert 'name="next" value="/tasks/1"' in page
    assert not key or key not in page
    assert browser.get("/").status_code == 302


def test_a_key_that_may_only_submit_does_not_sign_in(sqlite_site: Site, browser: Browser) -> None:
    assert browser.sign_in(sqlite_site.key(Scope.SUBMIT)).status_code == 401
    assert browser.get("/").status_code == 302
    # One that does may be pasted with blanks around it.
    assert browser.sign_in(f" {sqlite_site.key(Scope.ADMIN)}\n").status_code == 302
    assert browser.get("/").status_code == 200


def test_signing_in_leads_to_no_other_host(sqlite_site: Site, browser: Browser) -> None:
    for following in (
        "https://evil.example/", "//evil.example", "///evil.example", "/\\evil.example",
        "/\t/evil.example", "/\n/evil.example", "/\r\n/evil.example", "\\\\evil.example", "",
        "javascript:alert(1)", "evil.example", " //evil.example", "/\x00", "/a\\b",
        "http:evil.example", "/\r\nSet-Cookie: a=b",
    ):  # fmt: skip
        response = browser.sign_in(sqlite_site.key(Scope.READ), next=following)
        assert (response.status_code, response.headers["Location"]) == (302, "/")


def test_signing_out_ends_the_session(viewer: Browser, browser: Browser) -> None:
    form = {"csrf_token": viewer.token("/")}
    # Who has no session is sent to sign in as well.
    for response in (viewer.client.post("/logout", data=form), browser.client.post("/logout")):
        assert (response.status_code, response.headers["Location"]) == (302, "/login")
    assert viewer.get("/").status_code == 302


def test_signing_out_ends_copies_of_the_cookie_and_no_other_browsers_session(
    sqlite_site: Site, viewer: Browser, browser: Browser
) -> None:
    api_key = sqlite_site.key(Scope.ADMIN)
    browser.sign_in(api_key)
    cookie = browser.client.get_cookie("postback")
    assert cookie
    copy = Browser(sqlite_site)
    copy.client.set_cookie("postback", cookie.value)
    assert copy.get("/").status_code == 200

    browser.client.post("/logout", data={"csrf_token": browser.token("/")})

    assert copy.get("/").status_code == 302
    assert viewer.get("/").status_code == 200


def test_a_session_ends_when_its_key_is_revoked(sqlite_site: Site, viewer: Browser) -> None:
    assert viewer.get("/").status_code == 200
    with sqlite_site.parts.db.transaction() as session:
        keys.revoke(session, "read")

    assert viewer.get("/").headers["Location"].startswith("/login")


def test_a_form_that_was_not_sent_from_here_is_refused(sqlite_site: Site, viewer: Browser) -> None:
    api_key = {"api_key": sqlite_site.key(Scope.READ)}
    another_browsers = Browser(sqlite_site).token()
    for token in (None, "", "wrong", another_browsers):
        form = api_key if token is None else {**api_key, "csrf_token": token}
        for path in ("/login", "/logout"):
            response = viewer.client.post(path, data=form)
            assert (response.status_code, response.mimetype) == (400, "text/html")
            assert "was not sent from here" in response.get_data(as_text=True)
    assert viewer.get("/").status_code == 200


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(
    sqlite_site: Site, browser: Browser
) -> None:
    cookie = browser.sign_in(sqlite_site.key(Scope.READ)).headers["Set-Cookie"]

    assert cookie.startswith("postback=")
    assert {"HttpOnly", "Path=/", "SameSite=Lax"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    # One that was changed is no session.
    browser.client.set_cookie("postback", "eyJrZXlfaWQiOiJ4In0.x.y")
    assert browser.get("/").status_code == 302


def test_behind_tls_the_cookie_is_sent_over_nothing_else(site_with: Callable[..., Site]) -> None:
    site = site_with(public_url="https://postback.test")
    response = Browser(site).sign_in(site.key(Scope.READ))

    assert "Secure" in response.headers["Set-Cookie"].split("; ")


def test_who_signs_in_and_out_or_tries_to_is_written_down(
    sqlite_site: Site, browser: Browser
) -> None:
    browser.sign_in("pb_wrong")
    browser.sign_in(sqlite_site.key(Scope.READ))
    browser.client.post("/logout", data={"csrf_token": browser.token("/")})
    with sqlite_site.parts.db.reading() as session:
        acts = session.scalars(select(Audit).order_by(Audit.id)).all()

    assert [(act.actor, act.action, act.address) for act in acts] == [
        ("unknown", "sign-in refused", ADDRESS),
        ("read", "signed in", ADDRESS),
        ("read", "signed out", ADDRESS),
    ]


def test_an_api_key_opens_no_page_and_a_session_nothing_of_the_api(
    sqlite_site: Site, viewer: Browser
) -> None:
    assert sqlite_site.get("/").status_code == 302
    assert viewer.get("/v1/tasks").status_code == 401


def test_a_stranger_may_not_send_much_to_the_form(sqlite_site: Site) -> None:
    form = {"api_key": 100_000 * "x"}
    assert sqlite_site.client.post("/login", data=form).status_code == 413
