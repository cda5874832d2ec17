"""`/endpoints`: who is told of what happens, how they do, and what was sent to each."""

from typing import Any
from uuid import UUID

from flask import flash, request, url_for
from flask.typing import ResponseReturnValue

from app import circuits, dossiers
from app.errors import InvalidFieldError
from app.models import Scope
from app.push import deliveries, endpoints, rotations, subscribers
from app.push.messages import TYPES
from app.web import parameters
from app.web.actions import actor
from app.web.auth import signed_in
from app.web.pages.sheet import bp, page
from app.web.state import services

# From when on to recover, in words and hours.
SINCE = {"1": "the last hour", "24": "the last 24 hours", "168": "the last 7 days"}


@bp.get("/endpoints")
@signed_in(Scope.READ)
def all_endpoints() -> ResponseReturnValue:
    """The subscribers, and for admins the form that adds one."""
    return _endpoints()


@bp.post("/endpoints")
@signed_in(Scope.ADMIN)
def create_endpoint() -> ResponseReturnValue:
    """A new endpoint; its secret is shown on this one page and never again."""
    fields = {
        "url": request.form.get("url", "").strip(),
        "events": request.form.getlist("event") or None,
        "description": request.form.get("description", "").strip() or None,
    }
    try:
        endpoints.check(services(), fields)
    except InvalidFieldError as error:
        flash(str(error), "problem")
        return _endpoints(entered=fields), 400
    with services().db.transaction() as db:
        made = endpoints.create(db, fields, actor())
        id_, secret = made.id, made.secret
    flash("The endpoint is there.")
    return one_endpoint(id_, secret=secret)


@bp.get("/endpoints/<uuid:id_>")
@signed_in(Scope.READ)
def endpoint(id_: UUID) -> ResponseReturnValue:
    """One endpoint with its deliveries and their attempts."""
    return one_endpoint(id_)


def one_endpoint(id_: UUID, **values: Any) -> str:
    """The page of one endpoint."""
    with services().db.reading() as db:
        found = subscribers.find_endpoint(db, str(id_))
        items, following = subscribers.list_deliveries(
            db, found.id, limit=parameters.limit(), before=parameters.uuid("cursor")
        )
        health = subscribers.health(db, found.id)
        queue = deliveries.queue_of(found.id)
        rests = [each for each in circuits.open_ones(db) if each.queue == queue]
        audit = dossiers.acts_on(db, found.id)
    return page(
        "endpoint.html",
        endpoint=subscribers.endpoint_in_full(found),
        rotated_until=rotations.last_until(found),
        health=health,
        rests=rests,
        audit=audit,
        deliveries=items,
        paged="cursor" in request.args,
        older=following and url_for("pages.endpoint", id_=id_, cursor=following),
        since=SINCE,
        **values,
    )


def _endpoints(**values: Any) -> str:
    with services().db.reading() as db:
        items, following = subscribers.list_endpoints(
            db, limit=parameters.limit(), before=parameters.uuid("cursor")
        )
        health = {item["id"]: subscribers.health(db, UUID(item["id"])) for item in items}
    return page(
        "endpoints.html",
        endpoints=items,
        health=health,
        older=following and url_for("pages.all_endpoints", cursor=following),
        types=TYPES,
        **values,
    )
