"""`/status`: for anybody; counts and health, no prompt, no image, no id."""

from flask import current_app
from flask.typing import ResponseReturnValue

from app import reports
from app.reports import Overview
from app.web.auth import public
from app.web.health import silent_seconds
from app.web.pages.sheet import bp, page
from app.web.state import services

_PARTS = {"database": "Database", "storage": "Image storage", "worker": "Worker"}


@bp.get("/status")
@public
def public_status() -> ResponseReturnValue:
    """Whether each part works, and how much is done."""
    problems = current_app.extensions["checks"].run()
    parts = {name: problems.get(key) is None for key, name in _PARTS.items()}
    figures = _figures() if parts["Database"] else None
    said = sorted({problem.public for problem in figures.problems}) if figures else []
    return page("status.html", parts=parts, well=all(parts.values()), figures=figures, said=said)


def _figures() -> Overview:
    with services().db.reading() as db:
        return reports.overview(db, silent_seconds(services().config))
