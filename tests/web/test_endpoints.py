"""`/v1/endpoints` and `/v1/deliveries`: who is pushed to, what was sent, and sending it again."""

from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import delete, select, update

from app.columns import db_now
from app.events import Happened
from app.jobs import Kind
from app.models import Audit, Circuit, Delivery, DeliveryStatus, Endpoint, Event, Message, Scope
from app.models import Job as JobRow
from app.push import endpoints, subscribers
from app.services import Services
from tests.core.sites import running_site
from tests.factories import make_task, run_next
from tests.subscribers import ACTOR, deliveries, happen, make_endpoint, relay_all, shown
from tests.web.sites import Site, error_of, json_of

URL = "http://127.0.0.1:9/hook"
FIELDS = {"id", "url", "events", "description", "enabled", "disabled_at", "disabled_reason"}


def call(site: Site, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    response = site.call(method, path, json=body)
    assert response.status_code == status, response.get_data()
    return json_of(response) if status != 204 else None


def audits(parts: Services) -> list[tuple[str, str | None, str | None]]:
    with parts.db.reading() as session:
        rows = session.scalars(select(Audit).order_by(Audit.id))
        return [(row.action, row.subject, row.address) for row in rows]


def test_an_endpoint_from_its_making_to_its_end(site: Site) -> None:
    body = {"url": URL, "events": ["task.succeeded", "task.failed"], "description": "mine"}
    made = call(site, "POST", "/v1/endpoints", body, 201)
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert set(made) == FIELDS | {"created_at"}
    assert (made["enabled"], made["disabled_at"], made["disabled_reason"]) == (True, None, None)
    path = f"/v1/endpoints/{made['id']}"
    assert call(site, "GET", path) == made

    other = call(site, "POST", "/v1/endpoints", {"url": URL, "events": None}, 201)
    first = call(site, "GET", "/v1/endpoints?limit=1")
    assert [each["id"] for each in first["items"]] == [other["id"]]
    second = call(site, "GET", f"/v1/endpoints?limit=1&cursor={first['next_cursor']}")
    assert second == {"items": [made], "next_cursor": None}

    off = call(site, "PATCH", path, {"enabled": False, "events": None})
    assert (off["enabled"], off["events"], off["disabled_reason"]) == (False, None, None)
    on = call(site, "PATCH", path, {"enabled": True, "url": f"{URL}/2", "description": None})
    assert on == {**made, "url": f"{URL}/2", "events": None, "description": None}

    rotated = call(site, "POST", f"{path}/rotate-secret")
    assert rotated["id"] == made["id"]
    assert rotated["secret"] != secret
    with site.parts.db.reading() as session:
        row = session.scalars(select(Endpoint).filter_by(secret=rotated["secret"])).one()
    assert [before for before, _ in row.previous_secrets] == [secret]

    call(site, "DELETE", path, status=204)
    assert error_of(site.get(path), 404)["code"] == "not_found"
    mine = [action for action, subject, _ in audits(site.parts) if subject == made["id"]]
    assert mine == [
        "create endpoint",
        "change enabled, events of endpoint",
        "change enabled, url, description of endpoint",
        "rotate secret of endpoint",
        "delete endpoint",
    ]
    assert {address for *_, address in audits(site.parts)} == {"192.0.2.9"}


@pytest.mark.parametrize(
    ("method", "body", "param", "rule"),
    [
        ("POST", {}, "url", "url: missing"),
        ("POST", {"url": None}, "url", "expected text of 1 to 2000 characters, not None"),
        ("POST", {"url": "ftp://example.com/"}, "url", "neither http nor https"),
        ("POST", {"url": "http://10.0.0.1/"}, "url", "public; expected a public http or"),
        ("PATCH", {"url": "http://169.254.169.254/"}, "url", "169.254.169.254 is refused"),
        ("POST", {"url": URL, "events": []}, "events", "expected null for all, or a list of task."),
        ("POST", {"url": URL, "events": ["task.eaten"]}, "events", "not ['task.eaten']"),
        ("PATCH", {"events": "task.failed"}, "events", "not 'task.failed'"),
        ("PATCH", {"events": [["task.failed"]]}, "events", "not [['task.failed']]"),
        ("POST", {"url": URL, "description": 3}, "description", "expected null or text of at most"),
        ("PATCH", {"enabled": "yes"}, "enabled", "expected true or false, not 'yes'"),
        ("POST", {"url": URL, "enabled": False}, "enabled", "unknown; expected url, events"),
        ("PATCH", {"secret": "mine"}, "secret", "unknown; expected url, events, description"),
        ("recover", {}, "since", "since: missing"),
        ("recover", {"since": 3}, "since", "expected a time such as 2026-"),
        ("recover", {"since": "yesterday"}, "since", "not 'yesterday'"),
    ],
)
def test_what_is_wrong_with_a_field_is_said(
    sqlite_site: Site, method: str, body: Any, param: str, rule: str
) -> None:
    path = f"/v1/endpoints/{make_endpoint(sqlite_site.parts).id}"
    if method == "recover":
        answer = sqlite_site.call("POST", f"{path}/recover", json=body)
    else:
        answer = sqlite_site.call(method, "/v1/endpoints" if method == "POST" else path, json=body)
    error = error_of(answer, 400)
    assert error["param"] == param
    assert rule in error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/endpoints"),
        ("POST", "/v1/endpoints"),
        ("GET", "/v1/endpoints/x"),
        ("PATCH", "/v1/endpoints/x"),
        ("DELETE", "/v1/endpoints/x"),
        ("POST", "/v1/endpoints/x/rotate-secret"),
        ("POST", "/v1/endpoints/x/test"),
        ("POST", "/v1/endpoints/x/recover"),
        ("GET", "/v1/endpoints/x/deliveries"),
        ("POST", "/v1/deliveries/x/retry"),
    ],
)
def test_all_of_it_is_for_admins_and_names_nobody_that_is_not_there(
    sqlite_site: Site, method: str, path: str
) -> None:
    refused = sqlite_site.call(method, path, scope=Scope.READ, json={"url": URL})
    assert error_of(refused, 403)["code"] == "insufficient_scope"
    if "/x" in path:
        for id_ in ("nonsense", str(uuid4())):
            body = {"since": "2026-01-01"} if "recover" in path else {}
            answer = sqlite_site.call(method, path.replace("/x", f"/{id_}"), json=body)
            assert error_of(answer, 404)["message"].endswith(f"{id_!r}")


@pytest.mark.parametrize(
    ("wanted", "word", "images", "error"),
    [(["task.failed"], "failed", 0, "example"), (None, "succeeded", 1, None)],
)
def test_a_test_goes_to_that_endpoint_also_when_it_is_disabled(
    site: Site, wanted: list[str] | None, word: str, images: int, error: str | None
) -> None:
    with running_site() as host:
        parts = site.parts
        url = host.serve("/hook", b"thanks")
        endpoint = make_endpoint(parts, url, events=wanted, enabled=False)
        path = f"/v1/endpoints/{endpoint.id}"
        delivery = call(site, "POST", f"{path}/test")
        assert (delivery["status"], delivery["type"], delivery["task_id"]) == (
            "pending",
            f"task.{word}",
            None,
        )
        run_next(parts, Kind.DELIVER)

        (request,) = host.asked("/hook")
    assert request.headers["webhook-id"] == delivery["event_id"]
    data = request.json["data"]
    assert (data["status"], len(data["images"])) == (word, images)
    assert (data["error"] or {}).get("code") == error
    (kept,) = call(site, "GET", f"{path}/deliveries")["items"]
    assert kept["status"] == "delivered"
    (attempt,) = kept["attempts"]
    assert {name: attempt[name] for name in ("status", "response")} == {
        "status": 200,
        "response": "thanks",
    }


def test_deliveries_are_paged_and_the_health_of_an_endpoint_is_known(site: Site) -> None:
    parts = site.parts
    endpoint = make_endpoint(parts, "http://127.0.0.1:1/hook")
    for _ in range(3):
        happen(parts, make_task(parts), Happened.SUBMITTED)
    relay_all(parts)
    run_next(parts, Kind.DELIVER)
    path = f"/v1/endpoints/{endpoint.id}/deliveries"
    newest = call(site, "GET", f"{path}?limit=2")
    rest = call(site, "GET", f"{path}?limit=2&cursor={newest['next_cursor']}")
    assert (len(newest["items"]), len(rest["items"]), rest["next_cursor"]) == (2, 1, None)

    with parts.db.reading() as session:
        health = subscribers.health(session, endpoint.id)
        (mine,) = subscribers.deliveries_of_task(session, deliveries(parts)[0].task_id or uuid4())
    assert [attempt["status"] for attempt in health.attempts] == [None]
    assert health.deliveries == {"pending": 3, "delivered": 0, "failed": 0}
    assert mine == rest["items"][0]


def test_a_delivery_is_sent_again_at_once_whatever_came_of_it(site: Site) -> None:
    parts = site.parts
    with running_site() as host:
        make_endpoint(parts, host.serve("/hook", b"", status=500))
        happen(parts, make_task(parts), Happened.SUBMITTED)
        relay_all(parts)
        run_next(parts, Kind.DELIVER)
        (waiting,) = shown(parts)
        with parts.db.transaction() as session:
            # As after some failures in a row.
            session.execute(update(Circuit).values(open_until=db_now(60), probe_at=db_now(60)))
        again = call(site, "POST", f"/v1/deliveries/{waiting['id']}/retry")
        assert again["next_attempt_at"] < waiting["next_attempt_at"]
        with parts.db.reading() as session:
            assert session.scalar(select(Circuit.open_until)) is None
        host.serve("/hook", b"")
        run_next(parts, Kind.DELIVER)
        # Once more, although it has arrived.
        assert call(site, "POST", f"/v1/deliveries/{waiting['id']}/retry")["status"] == "pending"
        run_next(parts, Kind.DELIVER)

        assert len({each.headers["webhook-id"] for each in host.asked("/hook")}) == 1
    (delivery,) = shown(parts)
    assert [attempt["status"] for attempt in delivery["attempts"]] == [500, 200, 200]
    with parts.db.reading() as session:
        assert session.scalars(select(JobRow.id).filter_by(kind=Kind.DELIVER)).all() == []
    assert audits(parts)[-1][:2] == ("retry delivery", waiting["id"])


@pytest.mark.parametrize("why", ["the endpoint is disabled", "its body is too old"])
def test_what_cannot_be_sent_again_is_a_conflict(sqlite_site: Site, why: str) -> None:
    parts = sqlite_site.parts
    endpoint = make_endpoint(parts)
    happen(parts, make_task(parts), Happened.SUBMITTED)
    relay_all(parts)
    with parts.db.transaction() as session:
        if "disabled" in why:
            session.execute(update(Endpoint).values(enabled=False, disabled_reason="gone"))
        else:
            session.execute(update(Message).values(body=None))
    (delivery,) = shown(parts)
    answer = sqlite_site.call("POST", f"/v1/deliveries/{delivery['id']}/retry")
    assert why in error_of(answer, 409)["message"]
    for each in (endpoint, make_endpoint(parts, enabled="disabled" not in why)):
        recovered = sqlite_site.call(
            "POST", f"/v1/endpoints/{each.id}/recover", json={"since": "2026-01-01"}
        )
        if "disabled" in why:
            assert "the endpoint is disabled" in error_of(recovered, 409)["message"]
        else:
            assert json_of(recovered) == {"count": 0}


def test_what_was_not_delivered_is_recovered_under_the_same_ids(site: Site) -> None:
    parts = site.parts
    make_endpoint(parts, events=["task.submitted"])
    endpoint = make_endpoint(parts, events=["task.submitted", "task.failed"])
    path = f"/v1/endpoints/{endpoint.id}"
    long_ago, task = make_task(parts), make_task(parts)
    happen(parts, long_ago, Happened.SUBMITTED)
    relay_all(parts)
    since = datetime.now(UTC)
    happen(parts, task, Happened.SUBMITTED)
    relay_all(parts)
    with parts.db.transaction() as session:
        session.execute(update(Delivery).values(status=DeliveryStatus.FAILED))
        session.execute(delete(JobRow))
    call(site, "PATCH", path, {"enabled": False})
    # The other one has the first of these, the last nobody.
    happen(parts, task, Happened.SUBMITTED)
    happen(parts, task, Happened.RECEIVED)
    happen(parts, task, Happened.FAILED, code="forbidden", message="moderation")
    relay_all(parts)
    call(site, "PATCH", path, {"enabled": True})
    # The relay will send this one.
    happen(parts, task, Happened.SUBMITTED)

    body = {"since": since.isoformat()}
    assert call(site, "POST", f"{path}/recover", body) == {"count": 3}
    assert call(site, "POST", f"{path}/recover", body) == {"count": 0}
    relay_all(parts)

    with parts.db.reading() as session:
        events = session.scalars(select(Event).filter_by(task_id=task.id).order_by(Event.id)).all()
        told = {each.message_id for each in events if each.event in ("submitted", "failed")}
        mine = session.scalars(select(Delivery).filter_by(endpoint_id=endpoint.id)).all()
    pending = [each for each in mine if each.status is DeliveryStatus.PENDING]
    assert {each.message_id for each in pending} == told
    assert len(pending) == len(told) == 4
    assert {each.task_id for each in mine} == {task.id, long_ago.id}


def test_many_are_recovered_in_batches(sqlite_parts: Services) -> None:
    for _ in range(5):
        happen(sqlite_parts, make_task(sqlite_parts), Happened.SUBMITTED)
    relay_all(sqlite_parts)
    endpoint = make_endpoint(sqlite_parts)
    recover = partial(
        endpoints.recover,
        sqlite_parts,
        endpoint.id,
        datetime(2026, 1, 1, tzinfo=UTC),
        ACTOR,
        batch=2,
    )
    assert recover() == 5
    with sqlite_parts.db.transaction() as session:
        session.execute(update(Delivery).values(status=DeliveryStatus.FAILED))
    assert recover() == 5
