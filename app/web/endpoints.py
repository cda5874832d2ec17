"""Subscribers: endpoints, what was sent to them, and sending it again."""

from typing import Any

from flask import Blueprint, Response, jsonify, url_for
from flask.typing import ResponseReturnValue

from app.errors import InvalidFieldError
from app.models import Scope
from app.push import endpoints, subscribers
from app.web import parameters
from app.web.actions import actor
from app.web.auth import requires
from app.web.lookups import page
from app.web.state import services

bp = Blueprint("endpoints", __name__, url_prefix="/v1")

CREATED = ("url", "events", "description")
CHANGED = (*CREATED, "enabled")


@bp.post("/endpoints")
@requires(Scope.ADMIN)
def create() -> ResponseReturnValue:
    """A new endpoint, and its secret, which is shown this once."""
    fields = _fields(CREATED, needed="url")
    endpoints.check(services(), fields)
    with services().db.transaction() as session:
        made = endpoints.create(session, fields, actor())
    shown = jsonify({**subscribers.endpoint_in_full(made), "secret": made.secret})
    shown.headers["Location"] = url_for("endpoints.endpoint", id_=made.id)
    return shown, 201


@bp.get("/endpoints")
@requires(Scope.ADMIN)
def endpoint_list() -> ResponseReturnValue:
    """A page of endpoints, the newest first."""
    with services().db.reading() as session:
        return page(
            *subscribers.list_endpoints(
                session, limit=parameters.limit(), before=parameters.uuid("cursor")
            )
        )


@bp.get("/endpoints/<id_>")
@requires(Scope.ADMIN)
def endpoint(id_: str) -> ResponseReturnValue:
    """One endpoint."""
    with services().db.reading() as session:
        return jsonify(subscribers.endpoint_in_full(subscribers.find_endpoint(session, id_)))


@bp.patch("/endpoints/<id_>")
@requires(Scope.ADMIN)
def change(id_: str) -> ResponseReturnValue:
    """Change the fields that are given; `enabled: true` lets one that was disabled begin anew."""
    fields = _fields(CHANGED)
    endpoints.check(services(), fields)
    with services().db.transaction() as session:
        found = subscribers.find_endpoint(session, id_)
        endpoints.change(session, found, fields, actor())
        return jsonify(subscribers.endpoint_in_full(found))


@bp.delete("/endpoints/<id_>")
@requires(Scope.ADMIN)
def delete(id_: str) -> ResponseReturnValue:
    """The endpoint goes, with what is known of its deliveries."""
    with services().db.transaction() as session:
        endpoints.delete(session, subscribers.find_endpoint(session, id_), actor())
    return Response(status=204)


@bp.post("/endpoints/<id_>/rotate-secret")
@requires(Scope.ADMIN)
def rotate_secret(id_: str) -> ResponseReturnValue:
    """A new secret, which is shown this once; the old one signs too for a day."""
    with services().db.transaction() as session:
        found = subscribers.find_endpoint(session, id_)
        secret = endpoints.rotate_secret(session, found, actor())
        return jsonify({"id": str(found.id), "secret": secret})


@bp.post("/endpoints/<id_>/test")
@requires(Scope.ADMIN)
def test(id_: str) -> ResponseReturnValue:
    """Send an example of an event now; the delivery, which can be looked at again."""
    with services().db.transaction() as session:
        found = subscribers.find_endpoint(session, id_)
        delivery = endpoints.test(services(), session, found, actor())
        return jsonify(*subscribers.deliveries_in_full(session, [delivery]))


@bp.post("/endpoints/<id_>/recover")
@requires(Scope.ADMIN)
def recover(id_: str) -> ResponseReturnValue:
    """Send what was not delivered since then; how many that are."""
    since = parameters.as_time("since", _fields(("since",), needed="since")["since"])
    with services().db.reading() as session:
        found = subscribers.find_endpoint(session, id_)
    count = endpoints.recover(services(), found.id, since, actor())
    return jsonify({"count": count})


@bp.get("/endpoints/<id_>/deliveries")
@requires(Scope.ADMIN)
def delivery_list(id_: str) -> ResponseReturnValue:
    """A page of an endpoint's deliveries, the newest first, each with its attempts."""
    with services().db.reading() as session:
        return page(
            *subscribers.list_deliveries(
                session,
                subscribers.find_endpoint(session, id_).id,
                limit=parameters.limit(),
                before=parameters.uuid("cursor"),
            )
        )


@bp.post("/deliveries/<id_>/retry")
@requires(Scope.ADMIN)
def retry(id_: str) -> ResponseReturnValue:
    """Send it now, whatever came of it before."""
    with services().db.transaction() as session:
        found = subscribers.find_delivery(session, id_)
        endpoints.retry(session, found, actor())
        return jsonify(*subscribers.deliveries_in_full(session, [found]))


def _fields(known: tuple[str, ...], *, needed: str | None = None) -> dict[str, Any]:
    """The fields in the body, all of which must be known.  Raises `InvalidFieldError`."""
    fields = parameters.json_object()
    for name in fields:
        if name not in known:
            raise InvalidFieldError(name, f"{name}: unknown; expected {', '.join(known)}")
    if needed and needed not in fields:
        raise InvalidFieldError(needed, f"{needed}: missing")
    return fields
