"""What a person does to an endpoint and its deliveries: forms, each of which says what it does."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from flask import flash, redirect, request, url_for
from flask.typing import ResponseReturnValue

from app.errors import InvalidFieldError
from app.models import Scope
from app.push import endpoints, subscribers
from app.web.actions import actor
from app.web.auth import signed_in
from app.web.pages.endpoints import SINCE, one_endpoint
from app.web.pages.sheet import attempted, bp, where_to
from app.web.state import services


@bp.post("/endpoints/<uuid:id_>/test")
@signed_in(Scope.ADMIN)
def test_endpoint(id_: UUID) -> ResponseReturnValue:
    """Send an example of an event."""

    def act() -> None:
        with services().db.transaction() as db:
            found = subscribers.find_endpoint(db, str(id_))
            endpoints.test(services(), db, found, actor())

    return attempted(act, "An example is on its way: see the first delivery below.", _page_of(id_))


@bp.post("/endpoints/<uuid:id_>/rotate-secret")
@signed_in(Scope.ADMIN)
def rotate_endpoint(id_: UUID) -> ResponseReturnValue:
    """A new secret, shown on this one page and never again."""
    with services().db.transaction() as db:
        secret = endpoints.rotate_secret(db, subscribers.find_endpoint(db, str(id_)), actor())
    flash("There is a new secret. The old one signs too for 24 hours.")
    return one_endpoint(id_, secret=secret)


@bp.post("/endpoints/<uuid:id_>/enabled")
@signed_in(Scope.ADMIN)
def switch_endpoint(id_: UUID) -> ResponseReturnValue:
    """Enable or disable it."""
    enabled = request.form.get("enabled") == "true"

    def act() -> None:
        with services().db.transaction() as db:
            found = subscribers.find_endpoint(db, str(id_))
            endpoints.change(db, found, {"enabled": enabled}, actor())

    said = "It is told of what happens again." if enabled else "It is told nothing any more."
    return attempted(act, said, _page_of(id_))


@bp.post("/endpoints/<uuid:id_>/recover")
@signed_in(Scope.ADMIN)
def recover_endpoint(id_: UUID) -> ResponseReturnValue:
    """Send what was not delivered lately."""
    hours = request.form.get("hours", "")
    sent: list[int] = []

    def act() -> None:
        if hours not in SINCE:
            raise InvalidFieldError("hours", f"hours: expected one of {', '.join(SINCE)}")
        since = datetime.now(UTC) - timedelta(hours=int(hours))
        sent.append(endpoints.recover(services(), id_, since, actor()))
        flash(f"{sent[0]} deliveries are on their way." if sent[0] else "Nothing was missing.")

    return attempted(act, "", _page_of(id_))


@bp.post("/endpoints/<uuid:id_>/delete")
@signed_in(Scope.ADMIN)
def delete_endpoint(id_: UUID) -> ResponseReturnValue:
    """The endpoint goes, with what is known of its deliveries."""
    with services().db.transaction() as db:
        endpoints.delete(db, subscribers.find_endpoint(db, str(id_)), actor())
    flash("The endpoint is deleted.")
    return redirect(url_for("pages.all_endpoints"), 303)


@bp.post("/deliveries/<uuid:id_>/retry")
@signed_in(Scope.ADMIN)
def redeliver(id_: UUID) -> ResponseReturnValue:
    """Send it now, whatever came of it before."""

    def act() -> None:
        with services().db.transaction() as db:
            endpoints.retry(db, subscribers.find_delivery(db, str(id_)), actor())

    return attempted(act, "It is being delivered again.", where_to(request.form.get("back", "")))


def _page_of(id_: UUID) -> str:
    return url_for("pages.endpoint", id_=id_)
