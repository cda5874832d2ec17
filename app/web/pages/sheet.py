"""What all pages share: their blueprint, how one is rendered, and what templates may ask for."""

import re
from collections.abc import Callable
from typing import Any

from flask import (
    Blueprint,
    Flask,
    current_app,
    flash,
    g,
    redirect,
    render_template,
    url_for,
)
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError

from app import keys
from app.columns import clean
from app.db import is_outage
from app.errors import ConflictError, InvalidFieldError, StorageError
from app.models import ApiKey, Scope
from app.web import auth
from app.web.pages import wording
from app.web.pages.assets import Assets
from app.web.state import services

bp = Blueprint("pages", __name__)

# A path of ours.  "//elsewhere" and "/\\elsewhere" lead to other hosts, and so do both with a tab
# inside, which browsers leave out.
_OWN_PATH = re.compile(r"/(?![/\\])[^\x00-\x1f\\\x7f]*")


def prepare(app: Flask) -> None:
    """Give the templates of `app` what they ask for."""
    assets = Assets(app.static_folder or "")
    app.extensions["assets"] = assets
    app.jinja_env.filters.update(own_path=own_path, **wording.FILTERS)
    app.jinja_env.globals.update(
        asset=assets.url, may_act=may_act, visitor=visitor, events_path=events_path
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True


def page(template: str, **values: Any) -> str:
    """A page; texts of strangers may have what none can hold: NUL, and halves of surrogate pairs."""
    return clean(render_template(template, **values))


def visitor() -> ApiKey | None:
    """Who has signed in, also on pages that anybody may see."""
    if "visitor" not in g:
        g.visitor = g.key if "key" in g else _signed_in()
    found: ApiKey | None = g.visitor
    return found


def may_act() -> bool:
    """Whether who has signed in may do more than look."""
    key = visitor()
    return key is not None and keys.may(key, Scope.ADMIN)


def events_path() -> str | None:
    """Where a browser hears of what happens; None where it has to ask."""
    paths = (rule.rule for rule in current_app.url_map.iter_rules())
    return next((path for path in paths if path == "/events"), None)


def attempted(act: Callable[[], object], said: str, path: str) -> ResponseReturnValue:
    """Act, then to a page that says so, or why not: that an act is refused is no error of the page."""
    try:
        act()
    except (ConflictError, InvalidFieldError, StorageError) as error:
        flash(str(error), "problem")
    else:
        if said:
            flash(said)
    return redirect(path, 303)


def where_to(path: str) -> str:
    """`path` if it is one of ours, else the first page."""
    return path if _OWN_PATH.fullmatch(path) else url_for("pages.overview")


def own_path(url: str) -> str:
    """The path of one of our own URLs: a page may be open under another name than PUBLIC_URL's."""
    return url.removeprefix(services().config.public_url)


def _signed_in() -> ApiKey | None:
    try:
        return auth.session_key()
    except SQLAlchemyError as error:
        if not is_outage(error):
            raise
        # The page may be the one that says so.
        return None
