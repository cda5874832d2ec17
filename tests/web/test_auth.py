"""Who may call what: each view says so, and nobody else gets in."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from app import keys
from app.models import ApiKey, Scope, new_id
from app.web.auth import ACCESS, Access
from tests.factories import submission
from tests.web.sites import Site, error_of

# Every view there is, and who may call it: a new one must be added here by a person who has thought.
PUBLIC = {
    "static", "health.healthz", "health.readyz", "metrics.metrics", "openapi.docs", "openapi.openapi",
    "pages.login", "pages.public_status", "pages.sign_in", "pictures.picture",
}  # fmt: skip
API = {
    "submissions.submit": Scope.SUBMIT,
    "lookups.task": Scope.READ,
    "lookups.tasks": Scope.READ,
    "lookups.callbacks": Scope.READ,
    "lookups.callback_body": Scope.ADMIN,
    "compatible.tasks": Scope.READ,
    "actions.cancel": Scope.SUBMIT,
    "actions.retry": Scope.SUBMIT,
    "actions.reconcile": Scope.SUBMIT,
    "actions.resubmit": Scope.SUBMIT,
    "actions.delete": Scope.ADMIN,
    "endpoints.change": Scope.ADMIN,
    "endpoints.create": Scope.ADMIN,
    "endpoints.delete": Scope.ADMIN,
    "endpoints.delivery_list": Scope.ADMIN,
    "endpoints.endpoint": Scope.ADMIN,
    "endpoints.endpoint_list": Scope.ADMIN,
    "endpoints.recover": Scope.ADMIN,
    "endpoints.retry": Scope.ADMIN,
    "endpoints.rotate_secret": Scope.ADMIN,
    "endpoints.test": Scope.ADMIN,
    "stats.stats": Scope.READ,
    "streams.all_events": Scope.READ,
    "streams.task_events": Scope.READ,
}
PAGES = {
    **dict.fromkeys(
        (
            "pages.all_endpoints", "pages.all_keys", "pages.endpoint", "pages.logout",
            "pages.original", "pages.overview", "pages.rejections", "pages.task",
        ),
        Scope.READ,
    ),
    **dict.fromkeys(
        (
            "pages.body", "pages.body_file", "pages.cancel_task", "pages.create_endpoint",
            "pages.create_key", "pages.delete_endpoint", "pages.delete_task",
            "pages.reconcile_task", "pages.recover_endpoint", "pages.redeliver",
            "pages.resubmit_task", "pages.retry_task", "pages.revoke_key", "pages.rotate_endpoint",
            "pages.switch_endpoint", "pages.test_endpoint",
        ),
        Scope.ADMIN,
    ),
}  # fmt: skip


def test_every_view_says_who_may_call_it(sqlite_site: Site) -> None:
    said = {endpoint: ACCESS[view] for endpoint, view in sqlite_site.flask.view_functions.items()}

    assert said == {
        **{endpoint: Access(None) for endpoint in PUBLIC},
        **{endpoint: Access(scope) for endpoint, scope in API.items()},
        **{endpoint: Access(scope, browser=True) for endpoint, scope in PAGES.items()},
        "streams.page_events": Access(Scope.READ, browser=True, page=False),
    }


def test_a_view_that_says_nothing_is_refused_to_everybody(sqlite_site: Site) -> None:
    sqlite_site.flask.add_url_rule("/v1/forgotten", "forgotten", lambda: "secret")

    for response in (sqlite_site.client.get("/v1/forgotten"), sqlite_site.get("/v1/forgotten")):
        assert error_of(response, 500)["message"] == "unexpected error"
        assert b"secret" not in response.get_data()


def test_the_views_of_the_api_ask_for_a_key(sqlite_site: Site) -> None:
    adapter = sqlite_site.flask.url_map.bind("postback.test")
    rules = [rule for rule in sqlite_site.flask.url_map.iter_rules() if rule.endpoint in API]
    assert {rule.endpoint for rule in rules} == set(API)
    for rule in rules:
        path = adapter.build(rule.endpoint, {"id_": str(new_id())} if rule.arguments else {})
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            response = sqlite_site.client.open(path, method=method)
            error = error_of(response, 401)
            assert (error["code"], error["type"]) == ("no_token", "authentication_error")
            assert "Authorization: Bearer" in error["message"]
            assert response.headers["WWW-Authenticate"] == "Bearer"


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


@pytest.mark.parametrize("scheme", ["", "Token ", "Basic ", "Bearer:"])
def test_a_key_that_is_given_in_another_way_is_not_called_unknown(
    sqlite_site: Site, scheme: str
) -> None:
    header = f"{scheme}{sqlite_site.key(Scope.READ)}"
    response = sqlite_site.client.get("/v1/tasks", headers={"Authorization": header})

    error = error_of(response, 401)
    assert error["code"] == "invalid_token"
    # And is not repeated.
    assert error["message"] == "expected the header Authorization: Bearer pb_..."


@pytest.mark.parametrize("scope", Scope)
def test_a_scope_allows_its_own_and_admin_allows_all(sqlite_site: Site, scope: Scope) -> None:
    site = sqlite_site
    calls: dict[Scope, Callable[[], Any]] = {
        Scope.SUBMIT: lambda: site.call("POST", "/v1/images/edits", scope=scope, json=submission()),
        Scope.READ: lambda: site.get("/v1/tasks", scope=scope),
        Scope.ADMIN: lambda: site.get(f"/v1/callbacks/{new_id()}/body", scope=scope),
    }
    for needed, call in calls.items():
        response = call()
        if scope in {needed, Scope.ADMIN}:
            # There is no such callback, but the question was allowed.
            assert response.status_code == (404 if needed is Scope.ADMIN else 200)
        else:
            error = error_of(response, 403)
            assert (error["code"], error["type"]) == ("insufficient_scope", "permission_error")
            assert f"the scope {needed}; this one has {scope}" in error["message"]


def test_scopes_add_up_and_the_word_bearer_may_be_written_as_one_likes(sqlite_site: Site) -> None:
    api_key = sqlite_site.key(Scope.READ, Scope.SUBMIT)
    for word in ("Bearer", "bearer", "BEARER"):
        key = {"Authorization": f"{word} {api_key}"}
        assert sqlite_site.client.get("/v1/tasks", headers=key).status_code == 200
        created = sqlite_site.client.post("/v1/images/edits", headers=key, json=submission())
        assert created.status_code == 200


def test_a_revoked_key_is_invalid_at_once(sqlite_site: Site) -> None:
    assert sqlite_site.get("/v1/tasks", scope=Scope.READ).status_code == 200
    with sqlite_site.parts.db.transaction() as session:
        keys.revoke(session, "read")

    error = error_of(sqlite_site.get("/v1/tasks", scope=Scope.READ), 401)
    assert error["code"] == "invalid_token"


def test_the_last_use_of_a_key_is_noted_but_not_at_every_call(sqlite_site: Site) -> None:
    def last_used() -> datetime | None:
        with sqlite_site.parts.db.reading() as session:
            return session.scalar(select(ApiKey.last_used_at))

    sqlite_site.key(Scope.ADMIN)
    assert last_used() is None
    sqlite_site.get("/v1/tasks")
    first = last_used()
    assert first is not None
    assert abs((datetime.now(UTC) - first).total_seconds()) < 30
    sqlite_site.get("/v1/tasks")
    assert last_used() == first
