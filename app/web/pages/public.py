"""`/status`: for anybody; counts and health, no prompt, no image, no id."""

from flask import current_app
from flask.typing import ResponseReturnValue

from app.web.auth import public
from app.web.pages.sheet import bp, page

_PARTS = {"database": "Database", "storage": "Image storage", "worker": "Worker"}


@bp.get("/status")
@public
def public_status() -> ResponseReturnValue:
    """Whether each part works."""
    problems = current_app.extensions["checks"].run()
    parts = {name: problems.get(key) is None for key, name in _PARTS.items()}
    return page("status.html", parts=parts, well=all(parts.values()))
