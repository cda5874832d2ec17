"""`/`: how it goes, and the tasks."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from flask import current_app, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from app import reports
from app.models import Scope, Task, TaskStatus
from app.reports import Problem, TaskFilter, Trouble
from app.reports.pages import page_of_ids
from app.web import parameters
from app.web.auth import signed_in
from app.web.health import silent_seconds
from app.web.lookups import task_filter
from app.web.pages.sheet import bp, page
from app.web.state import services

# Beyond this, how many are new is not counted.
NEWER = 100
PERIODS = {"1h": "Last hour", "24h": "Last 24 hours", "7d": "Last 7 days", "30d": "Last 30 days"}
_LENGTHS = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7),
            "30d": timedelta(days=30)}  # fmt: skip
# What of the address chooses tasks; the rest says which page of them.
_CHOICES = ("q", "status", "provider", "model", "trace_id", "period", "created_after",
            "created_before", "limit")  # fmt: skip


@bp.get("/")
@signed_in(Scope.READ)
def overview() -> ResponseReturnValue:
    """The figures, and the tasks, the newest first.

    `until` is the newest task of a page that is open: it is drawn again with the same tasks, and
    newer ones are only counted.
    """
    wanted, until = _wanted(), parameters.uuid("until")
    before = parameters.uuid("cursor") or _just_after(until)
    parts = services()
    with parts.db.reading() as db:
        tasks, following = reports.tasks_for_page(
            parts, db, wanted, limit=parameters.limit(), before=before
        )
        newer = _newer(db, wanted, until) if until else 0
        figures = reports.overview(db, silent_seconds(parts.config))
        models = reports.choices(db, Task.model)
    problems = [*_storage(figures.problems), *figures.problems]
    return page(
        "overview.html",
        tasks=tasks,
        newer=newer,
        following=following,
        figures=figures,
        problems=problems,
        here=here,
        statuses=list(TaskStatus),
        providers=sorted(parts.providers),
        models=_with_chosen(models, wanted.model),
        wanted=wanted,
        period=parameters.text("period"),
        periods=PERIODS,
        filtered=wanted != TaskFilter(),
    )


def here(**changes: Any) -> str:
    """The address of this list, with changes; a page of it only where they name one."""
    kept = {name: value for name in _CHOICES if (value := request.args.get(name))}
    return url_for("pages.overview", **{**kept, **changes})


def _just_after(until: UUID | None) -> UUID | None:
    return UUID(int=until.int + 1) if until and until.int < 2**128 - 1 else None


def _newer(db: Session, wanted: TaskFilter, than: UUID) -> int:
    """How many tasks came since, up to `NEWER`."""
    newer, _ = page_of_ids(db, wanted, limit=NEWER, before=None, after=than)
    return len(newer)


def _wanted() -> TaskFilter:
    wanted = task_filter()
    length = _LENGTHS.get(parameters.text("period") or "")
    if length is None or wanted.created_after:
        return wanted
    return replace(wanted, created_after=datetime.now(UTC) - length)


def _storage(known: Sequence[Problem]) -> Iterator[Problem]:
    """That storage is away, also when no image waits for it yet."""
    said = current_app.extensions["checks"].lately("storage")
    if said and all(problem.trouble is not Trouble.STORAGE for problem in known):
        yield Problem(Trouble.STORAGE, f"Storage has trouble: {said}.")


def _with_chosen(models: Any, chosen: str | None) -> list[str]:
    return sorted({*models, chosen} if chosen else models)
