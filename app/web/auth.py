"""Who calls, and whether they may: API keys in the header, sessions in the browser.

Each view says who may call it: `@public`, `@requires(scope)` for API clients, `@signed_in(scope)` for
pages.  One that says nothing is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from flask import Response, current_app, g, redirect, request, session, url_for
from flask.typing import ResponseReturnValue

from app import keys
from app.models import ApiKey, Scope
from app.web.envelope import HttpError
from app.web.state import services

EXPECTED = "expected the header Authorization: Bearer pb_..."

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Access:
    """Who may call a view: anybody, a key with `scope`, or a browser that signed in with one.

    A browser that has not is sent to sign in, unless what it asks for is no `page`.
    """

    scope: Scope | None
    browser: bool = False
    page: bool = True


# What each view says.
ACCESS: dict[Callable[..., Any], Access] = {}


def public(view: View) -> View:
    """Anybody may call it."""
    return _marked(view, Access(None))


def requires(scope: Scope) -> Callable[[View], View]:
    """An API key with `scope` may call it."""
    return lambda view: _marked(view, Access(scope))


def signed_in(scope: Scope, *, page: bool = True) -> Callable[[View], View]:
    """A browser that has signed in with a key that has `scope` may call it."""
    return lambda view: _marked(view, Access(scope, browser=True, page=page))


def check() -> ResponseReturnValue | None:
    """Before each request: let the caller in, send it to sign in, or raise `HttpError`."""
    view = current_app.view_functions.get(request.endpoint or "")
    if view is None:
        return None
    # A view that says nothing is a mistake, and answers 500 to everybody.
    access = ACCESS[view]
    if access.scope is None:
        return None
    if access.browser:
        return _check_session(access.scope, page=access.page)
    _check_api_key(access.scope)
    return None


def sign_in(api_key: str) -> ApiKey | None:
    """Start a session for whoever holds `api_key`, if it may read; gives the key's row."""
    key = _recognised(api_key)
    if key is None or not keys.may(key, Scope.READ):
        return None
    session.clear()
    with services().db.transaction() as db:
        session["id"] = str(keys.begin_session(db, key))
    session.permanent = True
    return key


def sign_out() -> None:
    """End this browser's session, wherever its cookie is."""
    with services().db.transaction() as db:
        keys.end_session(db, UUID(session["id"]))
        keys.audit(db, g.key.name, "signed out", None, request.remote_addr)
    session.clear()


def _check_api_key(scope: Scope) -> None:
    header = request.headers.get("Authorization", "")
    if not header:
        raise HttpError("no_token", EXPECTED, headers={"WWW-Authenticate": "Bearer"})
    kind, _, api_key = header.partition(" ")
    if kind.lower() != "bearer":
        # Without what came instead, which may be a key all the same.
        raise _invalid(EXPECTED)
    key = _recognised(api_key.strip())
    if key is None:
        raise _invalid("the API key is unknown or revoked")
    if not keys.may(key, scope):
        has = ", ".join(key.scopes) or "none"
        raise HttpError(
            "insufficient_scope", f"expected an API key with the scope {scope}; this one has {has}"
        )
    g.key = key


def _invalid(message: str) -> HttpError:
    challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return HttpError("invalid_token", message, headers=challenge)


def _check_session(scope: Scope, *, page: bool) -> ResponseReturnValue | None:
    key = session_key()
    if key is None and not page:
        # What makes a browser's stream end without a word: any error would be one in its console.
        return Response(status=204)
    if key is None:
        # The session stays as it is: the answer to what a script asks for in the background could
        # else take away the token of the form of signing in, which the browser has got meanwhile.
        # Only a page can be returned to, not the sending of a form.
        back = request.full_path.rstrip("?") if request.method == "GET" else None
        return redirect(url_for("pages.login", next=back))
    if not keys.may(key, scope):
        raise HttpError("insufficient_scope", f"expected an API key with the scope {scope}")
    g.key = key
    return None


def session_key() -> ApiKey | None:
    """The key that this browser has signed in with, if it may still be used."""
    try:
        id_ = UUID(session.get("id", ""))
    except ValueError:
        return None
    with services().db.reading() as db:
        return keys.of_session(db, id_)


def _recognised(api_key: str) -> ApiKey | None:
    parts = services()
    with parts.db.reading() as db:
        key = keys.recognise(db, parts.signing, api_key)
    if key is not None and keys.use_is_news(key):
        with parts.db.transaction() as db:
            keys.note_use(db, key)
    return key


def _marked(view: View, access: Access) -> View:
    ACCESS[view] = access
    return view
