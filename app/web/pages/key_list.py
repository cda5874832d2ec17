"""`/keys`: API keys, made and revoked."""

from flask import flash, g, redirect, request, url_for
from flask.typing import ResponseReturnValue

from app import keys
from app.errors import ConflictError, InvalidFieldError
from app.models import Scope
from app.web.auth import signed_in
from app.web.pages.sheet import bp, page
from app.web.state import services

LONGEST_NAME = 100


@bp.get("/keys")
@signed_in(Scope.READ)
def all_keys() -> ResponseReturnValue:
    """The keys, and for admins the form that makes one."""
    return _keys()


@bp.post("/keys")
@signed_in(Scope.ADMIN)
def create_key() -> ResponseReturnValue:
    """A new key, shown on this one page and never again."""
    name = request.form.get("name", "").strip()
    scopes = [scope for scope in Scope if scope in request.form.getlist("scope")]
    try:
        made = _create(name, scopes)
    except (InvalidFieldError, ConflictError) as error:
        flash(str(error), "problem")
        return _keys(name=name, scopes=scopes), 409 if isinstance(error, ConflictError) else 400
    return _keys(made=made, made_name=name)


@bp.post("/keys/revoke")
@signed_in(Scope.ADMIN)
def revoke_key() -> ResponseReturnValue:
    """End a key for good."""
    name = request.form.get("name", "")
    with services().db.transaction() as db:
        keys.revoke(db, name)
        keys.audit(db, g.key.name, "revoked key", name, request.remote_addr)
    flash(f"The key {name} is revoked: nobody can use it any more.")
    return redirect(url_for("pages.all_keys"), 303)


def _create(name: str, scopes: list[Scope]) -> str:
    if len(name) > LONGEST_NAME:
        raise InvalidFieldError("name", f"name: expected at most {LONGEST_NAME} characters")
    if not scopes:
        raise InvalidFieldError("scope", "scope: expected at least one of submit, read, admin")
    with services().db.transaction() as db:
        made = keys.create(db, services().signing, name, scopes)
        keys.audit(db, g.key.name, "created key", name, request.remote_addr)
    return made


def _keys(**values: object) -> str:
    with services().db.reading() as db:
        known = keys.all_keys(db)
    return page("keys.html", keys=known, all_scopes=list(Scope), **values)
