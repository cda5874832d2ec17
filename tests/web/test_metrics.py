"""`/metrics`: the figures are true, and not for everybody."""

from collections.abc import Callable, Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert

from app import circuits
from app.models import Worker
from tests.factories import make_task, success
from tests.web.sites import Site, json_of

LOCAL = {"REMOTE_ADDR": "127.0.0.1"}


def figures(text: str) -> dict[str, float]:
    """Each figure by its name and labels."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_figures_are_those_of_the_database(site: Site) -> None:
    waiting, received = (make_task(site.parts) for _ in range(2))
    assert site.post_back(received, success()).status_code == 200
    for _ in range(2):
        assert site.post_back(waiting, b"not JSON").status_code == 422
    with site.parts.db.transaction() as session:
        session.execute(insert(Worker).values(name="one"))
        circuits.rest(session, "submit:acedata", "too many", 30)

    response = site.client.get("/metrics", environ_overrides=LOCAL)

    assert response.content_type.startswith("text/plain; version=")
    assert figures(response.text) == {
        "postback_tasks_open acedata queued": 1,
        "postback_tasks_open acedata received": 1,
        "postback_tasks_last_hour acedata queued": 1,
        "postback_tasks_last_hour acedata received": 1,
        "postback_callbacks_last_hour callback accepted": 1,
        "postback_callbacks_last_hour callback rejected": 2,
        "postback_jobs submit:acedata due": 2,
        "postback_jobs work due": 1,
        "postback_circuit_open submit:acedata": 1,
        "postback_workers": 1,
    }


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("::1", {}, 200),
        ("192.0.2.9", {"Authorization": "bearer the token"}, 200),
        ("192.0.2.9", {}, 401),
        ("192.0.2.9", {"Authorization": "Bearer another"}, 401),
        # What comes from a proxy on this machine comes from anywhere.
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.9"}, 401),
    ],
)
def test_they_are_for_this_machine_and_for_who_bears_the_token(
    site_with: Callable[..., Site], address: str, headers: Mapping[str, str], status: int
) -> None:
    site = site_with(metrics_token="the token")
    response = site.client.get(
        "/metrics", headers=headers, environ_overrides={"REMOTE_ADDR": address}
    )

    assert response.status_code == status
    if status == 401:
        assert json_of(response)["error"]["code"] in {"no_token", "invalid_token"}


def test_without_a_token_in_the_settings_nothing_bears_it(sqlite_site: Site) -> None:
    headers = {"Authorization": "Bearer None"}
    assert sqlite_site.client.get("/metrics", headers=headers).status_code == 401
