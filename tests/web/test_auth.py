"""Who may call what: each view says so, and nobody else gets in."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app import keys
from app.columns import db_now
from app.models import ApiKey, Scope
from app.web.auth import ACCESS, Access
from tests.factories import SECRET_KEY, make_config, make_task, running, submission
from tests.web.sites import Site, error_of, open_site

# Every view there is, and who may call it: a new one must be added here by a person who has thought.
PUBLIC = {
    "static", "health.healthz", "health.readyz", "metrics.metrics", "pictures.picture",
    "pages.login", "pages.sign_in",
}  # fmt: skip
API = {
    "submissions.submit": Scope.SUBMIT,
    "lookups.task": Scope.READ,
    "lookups.tasks": Scope.READ,
    "lookups.callbacks": Scope.READ,
    "lookups.callback_body": Scope.ADMIN,
}
PAGES = {"pages.overview": Scope.READ, "pages.task": Scope.READ, "pages.logout": Scope.READ}


def test_every_view_says_who_may_call_it(sqlite_site: Site) -> None:
    said = {endpoint: ACCESS[view] for endpoint, view in sqlite_site.flask.view_functions.items()}

    assert said == {
        **{endpoint: Access(None) for endpoint in PUBLIC},
        **{endpoint: Access(scope) for endpoint, scope in API.items()},
        **{endpoint: Access(scope, browser=True) for endpoint, scope in PAGES.items()},
    }


def test_a_view_that_says_nothing_is_refused_to_everybody(sqlite_site: Site) -> None:
    sqlite_site.flask.add_url_rule("/v1/forgotten", "forgotten", lambda: "secret")

    for response in (sqlite_site.client.get("/v1/forgotten"), sqlite_site.get("/v1/forgotten")):
        assert error_of(response, 500)["message"] == "unexpected error"
        assert b"secret" not in response.get_data()


def test_the_views_of_the_api_ask_for_a_key(sqlite_site: Site) -> None:
    for method, path in api_calls(sqlite_site):
        response = sqlite_site.client.open(path, method=method)
        error = error_of(response, 401)
        assert (error["code"], error["type"]) == ("no_token", "authentication_error")
        assert "Authorization: Bearer" in error["message"]
        assert response.headers["WWW-Authenticate"] == "Bearer"


def api_calls(site: Site) -> list[tuple[str, str]]:
    """Each way to call the API."""
    values = {"id_": "01a1f8e6-0aad-733b-9b40-05843736504a"}
    adapter = site.flask.url_map.bind("postback.test")
    return [
        (method, adapter.build(rule.endpoint, values if rule.arguments else {}, method=method))
        for rule in site.flask.url_map.iter_rules()
        if rule.endpoint in API
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    ]


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer pb_unknown",
        "bearer pb_unknown",
        "Basic dXNlcjpwYXNzd29yZA==",
        "pb_unknown",
        "Bearer pb_\xe9\xff",
        "Bearer " + "x" * 5000,
        "Bearer ' OR 1=1 --",
    ],
)
def test_an_unknown_key_is_invalid(sqlite_site: Site, header: str) -> None:
    response = sqlite_site.client.get("/v1/tasks", headers={"Authorization": header})
    error = error_of(response, 401)

    assert (error["code"], error["type"]) == ("invalid_token", "authentication_error")
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER"])
def test_the_word_bearer_may_be_written_as_one_likes(sqlite_site: Site, kind: str) -> None:
    header = f"{kind} {sqlite_site.key(Scope.READ)}"

    assert sqlite_site.client.get("/v1/tasks", headers={"Authorization": header}).status_code == 200


@pytest.mark.parametrize("scope", Scope)
def test_a_scope_allows_its_own_and_admin_allows_all(sqlite_site: Site, scope: Scope) -> None:
    site = sqlite_site
    make_task(site.parts)
    calls: dict[Scope, Callable[[], Any]] = {
        Scope.SUBMIT: lambda: site.call("POST", "/v1/images/edits", scope=scope, json=submission()),
        Scope.READ: lambda: site.get("/v1/tasks", scope=scope),
        Scope.ADMIN: lambda: site.get(
            "/v1/callbacks/01a1f8e6-0aad-733b-9b40-05843736504a/body", scope=scope
        ),
    }
    for needed, call in calls.items():
        response = call()
        if scope in {needed, Scope.ADMIN}:
            # There is no such callback, but the question was allowed.
            assert response.status_code in {200, 404}
        else:
            error = error_of(response, 403)
            assert (error["code"], error["type"]) == ("insufficient_scope", "permission_error")
            assert f"the scope {needed}; this one has {scope}" in error["message"]


def test_scopes_add_up(sqlite_site: Site) -> None:
    key = {"Authorization": f"Bearer {sqlite_site.key(Scope.READ, Scope.SUBMIT)}"}

    assert sqlite_site.client.get("/v1/tasks", headers=key).status_code == 200
    created = sqlite_site.client.post("/v1/images/edits", headers=key, json=submission())
    assert created.status_code == 200


def test_a_revoked_key_is_invalid_at_once(site: Site) -> None:
    assert site.get("/v1/tasks", scope=Scope.READ).status_code == 200
    with site.parts.db.transaction() as session:
        keys.revoke(session, "read")

    assert error_of(site.get("/v1/tasks", scope=Scope.READ), 401)["code"] == "invalid_token"


def test_a_key_outlives_the_secret_key_that_it_was_hashed_under(
    sqlite_url: str, tmp_path: Path
) -> None:
    with running(make_config(sqlite_url, tmp_path)) as parts, open_site(parts) as site:
        headers = {"Authorization": f"Bearer {site.key(Scope.READ)}"}
    new = "another secret key, which is newer"
    for fallbacks, status in ((f"unused-{SECRET_KEY}, {SECRET_KEY}", 200), ("", 401)):
        config = make_config(sqlite_url, tmp_path, secret_key=new, secret_key_fallbacks=fallbacks)
        with running(config) as parts, open_site(parts) as site:
            assert site.client.get("/v1/tasks", headers=headers).status_code == status


def test_a_key_is_stored_only_as_its_hash(sqlite_site: Site, tmp_path: Path) -> None:
    key = sqlite_site.key(Scope.ADMIN)
    sqlite_site.get("/v1/tasks")
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("postback.db*"))

    assert key.encode() not in stored
    assert key.removeprefix("pb_").encode() not in stored


def test_the_last_use_of_a_key_is_noted_but_not_at_every_call(site: Site) -> None:
    def last_used() -> datetime | None:
        with site.parts.db.reading() as session:
            return session.scalar(select(ApiKey.last_used_at))

    site.key(Scope.ADMIN)
    assert last_used() is None
    site.get("/v1/tasks")
    first = last_used()
    assert first is not None
    assert abs((datetime.now(UTC) - first).total_seconds()) < 30
    site.get("/v1/tasks")
    assert last_used() == first
    with site.parts.db.transaction() as session:
        session.execute(update(ApiKey).values(last_used_at=db_now(-90)))
    site.get("/v1/tasks")
    assert (last_used() or first) >= first


def test_what_is_open_to_anybody_does_not_ask(sqlite_site: Site) -> None:
    for path in ("/healthz", "/login", "/static/style.css"):
        assert sqlite_site.client.get(path, buffered=True).status_code == 200


def test_access_is_a_plain_value() -> None:
    assert dataclasses.asdict(Access(Scope.READ)) == {"scope": Scope.READ, "browser": False}
