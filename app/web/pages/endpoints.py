"""`/endpoints`: who is told of what happens."""

from flask.typing import ResponseReturnValue

from app.models import Scope
from app.web.auth import signed_in
from app.web.pages.sheet import bp, page


@bp.get("/endpoints")
@signed_in(Scope.READ)
def endpoints() -> ResponseReturnValue:
    """The subscribers."""
    return page("endpoints.html", endpoints=[])
