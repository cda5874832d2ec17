"""`RATE_LIMITS`: how often one API key may call."""

from collections.abc import Callable

from app.models import Scope
from tests.factories import make_task, submission, success
from tests.web.sites import Site, error_of, tasks_of


def test_who_calls_too_often_is_told_when_to_come_again(site_with: Callable[..., Site]) -> None:
    site = site_with(rate_limits="3 per minute")
    task = make_task(site.parts)
    # All that a key calls counts together.
    for path in ("/v1/tasks", f"/v1/tasks/{task.id}", "/v1/callbacks"):
        assert site.get(path).status_code == 200
    response = site.call("POST", "/v1/images/edits", json=submission())
    error = error_of(response, 429)

    assert (error["code"], error["type"]) == ("too_many_requests", "rate_limit_error")
    assert error["message"] == "this API key may call 3 per 1 minute"
    # It is the rest of a minute that began with the first call.
    assert 0 < int(response.headers["Retry-After"]) <= 61
    assert tasks_of(site.parts) == [task.id]
    # Each key has a limit of its own.
    assert site.get("/v1/tasks", scope=Scope.READ).status_code == 200


def test_several_limits_hold_together(site_with: Callable[..., Site]) -> None:
    site = site_with(rate_limits="100 per second; 2 per minute")

    assert [site.get("/v1/tasks").status_code for _ in range(3)] == [200, 200, 429]


def test_callbacks_and_what_needs_no_key_have_no_limit(site_with: Callable[..., Site]) -> None:
    site = site_with(rate_limits="1 per minute")
    task = make_task(site.parts)

    assert [site.post_back(task, success()).status_code for _ in range(20)] == 20 * [200]
    for path, status in (("/healthz", 200), ("/login", 200), ("/images/x", 404), ("/nothing", 404)):
        assert {site.client.get(path).status_code for _ in range(5)} == {status}
    # A wrong key is wrong however often.
    wrong = {"Authorization": "Bearer pb_wrong"}
    assert {site.client.get("/v1/tasks", headers=wrong).status_code for _ in range(5)} == {401}


def test_off_means_no_limit(site_with: Callable[..., Site]) -> None:
    site = site_with(rate_limits="off")

    assert {site.get("/v1/tasks").status_code for _ in range(120)} == {200}
