"""`/login` and the end of a session."""

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from app import keys
from app.models import Scope
from app.web import auth
from app.web.auth import public, signed_in
from app.web.pages.sheet import bp, page, where_to
from app.web.state import services


@bp.get("/login")
@public
def login() -> ResponseReturnValue:
    """The form that takes an API key."""
    return page("login.html", following=request.args.get("next", ""))


@bp.post("/login")
@public
def sign_in() -> ResponseReturnValue:
    """Start a session."""
    key = auth.sign_in(request.form.get("api_key", "").strip())
    with services().db.transaction() as db:
        actor = key.name if key else "unknown"
        action = "signed in" if key else "sign-in refused"
        keys.audit(db, actor, action, None, request.remote_addr)
    following = request.form.get("next", "")
    if key is None:
        wrong = "This is no API key with the scope read or admin."
        return page("login.html", following=following, wrong=wrong), 401
    return redirect(where_to(following))


@bp.post("/logout")
@signed_in(Scope.READ)
def logout() -> ResponseReturnValue:
    """End the session."""
    auth.sign_out()
    return redirect(url_for("pages.login"))
