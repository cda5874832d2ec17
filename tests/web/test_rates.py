"""`RATE_LIMITS`: how often one API key may call."""

from collections.abc import Callable

import pytest

from app.models import Scope
from tests.factories import make_task, submission, success
from tests.web.sites import Site, error_of, json_of


def test_who_calls_too_often_is_told_when_to_come_again(site_with: Callable[..., Site]) -> None:
    site = site_with(rate_limits="3 per minute")
    statuses = [site.get("/v1/tasks").status_code for _ in range(3)]
    response = site.get("/v1/tasks")
    error = error_of(response, 429)

    assert statuses == [200, 200, 200]
    assert (error["code"], error["type"]) == ("too_many_requests", "rate_limit_error")
    assert error["message"] == "this API key may call 3 per 1 minute"
    assert 0 < int(response.headers["Retry-After"]) <= 60


def test_all_that_a_key_calls_counts_together(site_with: Callable[..., Site]) -> None:
    site = site_with(rate_limits="3 per minute")
    task = make_task(site.parts)
    for path in ("/v1/tasks", f"/v1/tasks/{task.id}", "/v1/callbacks"):
        assert site.get(path).status_code == 200

    error_of(site.call("POST", "/v1/images/edits", json=submission()), 429)


def test_each_key_has_a_limit_of_its_own(site_with: Callable[..., Site]) -> None:
    site = site_with(rate_limits="1 per minute")

    assert site.get("/v1/tasks").status_code == 200
    error_of(site.get("/v1/tasks"), 429)
    assert site.get("/v1/tasks", scope=Scope.READ).status_code == 200


def test_several_limits_hold_together(site_with: Callable[..., Site]) -> None:
    site = site_with(rate_limits="100 per second; 2 per minute")

    assert [site.get("/v1/tasks").status_code for _ in range(3)] == [200, 200, 429]


def test_what_is_refused_has_stored_nothing(site_with: Callable[..., Site]) -> None:
    site = site_with(rate_limits="1 per minute")
    site.call("POST", "/v1/images/edits", json=submission())
    error_of(site.call("POST", "/v1/images/edits", json=submission()), 429)

    site.parts.db.engine.dispose()
    assert len(json_of(site.get("/v1/tasks", scope=Scope.READ))["items"]) == 1


def test_callbacks_have_no_limit(site_with: Callable[..., Site]) -> None:
    site = site_with(rate_limits="1 per minute")
    task = make_task(site.parts)

    assert [site.post_back(task, success()).status_code for _ in range(20)] == 20 * [200]


@pytest.mark.parametrize("path", ["/healthz", "/login", "/images/x", "/nothing"])
def test_what_is_open_to_anybody_has_no_limit(site_with: Callable[..., Site], path: str) -> None:
    site = site_with(rate_limits="1 per minute")

    assert 429 not in {site.client.get(path).status_code for _ in range(5)}


def test_a_wrong_key_is_wrong_however_often(site_with: Callable[..., Site]) -> None:
    site = site_with(rate_limits="1 per minute")
    headers = {"Authorization": "Bearer pb_wrong"}

    statuses = {site.client.get("/v1/tasks", headers=headers).status_code for _ in range(5)}
    assert statuses == {401}


def test_off_means_no_limit(site_with: Callable[..., Site]) -> None:
    site = site_with(rate_limits="off")

    assert {site.get("/v1/tasks").status_code for _ in range(120)} == {200}
