"""Which tasks are on a page of the list: with any filter, the newest first, at a million tasks.

No query may look at more than some thousand rows, so none leaves it to the database's guesses whether
the newest or the fitting ones are fewer:

- What a list is filtered by stands at the beginning of an index that ends with the id.  Where the filter
  leaves something before the id open, each of its few values is looked up for itself.
- A search first looks through the newest tasks that fit the filter: when what it looks for is common,
  a page is full of those.  Else it is rare, and all that the indexes of words and ids find is gone
  through; unless a sample says that it is common after all, and has only become rare.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    True_,
    and_,
    false,
    func,
    or_,
    select,
    true,
    union,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute, Session

from app import search
from app.columns import clean
from app.models import Prompt, Task, TaskStatus, first_id

# How many of the newest tasks a search looks through.
NEWEST = 3000
LAST_CHARACTER = "\U0010ffff"
# Callers may make up models without end.
MOST_CHOICES = 100


@dataclass(frozen=True)
class TaskFilter:
    """Which tasks; None means any."""

    status: TaskStatus | None = None
    provider: str | None = None
    model: str | None = None
    trace_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    q: str | None = None


def page_of_ids(
    session: Session,
    wanted: TaskFilter,
    *,
    limit: int,
    before: UUID | None,
    after: UUID | None = None,
    newest: int = NEWEST,
) -> tuple[Sequence[UUID], UUID | None]:
    """The ids of a page of tasks, the newest first, and where the next page begins.

    Of those that are older than `before` and newer than `after`.  `q` matches a task whose id, ours or
    the provider's, begins with it, or whose prompt has all of its words.
    """
    fits = _conditions(wanted, before, after)
    branches = [and_(fits, branch) for branch in _branches(session, wanted)]
    if sought := clean((wanted.q or "").strip()):
        ids = _search(session, fits, branches, sought, newest, limit + 1)
    else:
        ids = session.scalars(_newest(branches, limit + 1)).all()
    return ids[:limit], ids[limit - 1] if len(ids) > limit else None


def choices(
    session: Session, column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None]
) -> list[str]:
    """The values of `column`, with which an index must begin; as many look-ups as values."""
    values = select(func.min(column).label("value")).cte("choices", recursive=True)
    following = select(func.min(column)).where(column > values.c.value).scalar_subquery()
    values = values.union_all(select(following).where(values.c.value.is_not(None)))
    found = select(values.c.value).where(values.c.value.is_not(None)).limit(MOST_CHOICES)
    return list(session.scalars(found))


def _conditions(wanted: TaskFilter, before: UUID | None, after: UUID | None) -> ColumnElement[bool]:
    same = [
        column == value
        for column, value in (
            (Task.status, wanted.status),
            (Task.provider, wanted.provider),
            (Task.model, wanted.model),
            (Task.trace_id, wanted.trace_id),
        )
        if value is not None
    ]
    if before is not None:
        same.append(Task.id < before)
    if after is not None:
        same.append(Task.id > after)
    if wanted.created_after:
        same.append(Task.id >= first_id(wanted.created_after))
    if wanted.created_before:
        same.append(Task.id < first_id(wanted.created_before))
    return and_(true(), *same)


def _branches(session: Session, wanted: TaskFilter) -> list[ColumnElement[bool]]:
    """Conditions of which one holds for each task: they say what the filter leaves open before the id."""
    branches: list[ColumnElement[bool]] = [true()]
    if wanted.trace_id is not None or (wanted.model is None and wanted.provider is None):
        return branches
    if wanted.provider is None:
        branches = [Task.provider == provider for provider in choices(session, Task.provider)]
    if wanted.status is None:
        pairs = product(branches, TaskStatus)
        branches = [and_(branch, Task.status == status) for branch, status in pairs]
    return branches or [false()]


def _newest(
    branches: Sequence[ColumnElement[bool]], limit: int, *, offset: int = 0
) -> Select[UUID]:
    """The ids of the newest tasks of all branches together, without the first ones of them."""
    last = limit + offset
    each = [
        select(Task.id).where(branch).order_by(Task.id.desc()).limit(last) for branch in branches
    ]
    if len(each) == 1:
        return each[0].limit(limit).offset(offset or None)
    found = union_all(*(select(one.subquery()) for one in each)).subquery()
    return select(found.c.id).order_by(found.c.id.desc()).limit(limit).offset(offset or None)


def _search(
    session: Session,
    fits: ColumnElement[bool],
    branches: Sequence[ColumnElement[bool]],
    sought: str,
    newest: int,
    limit: int,
) -> Sequence[UUID]:
    boundary = session.scalar(_newest(branches, 1, offset=newest - 1))
    ids = _looked_through(session, branches, sought, boundary, limit)
    if boundary is None or len(ids) == limit:
        return ids
    if search.common(session, search.words_of(sought)):
        # Only the newest have it rarely.
        return _looked_through(session, branches, sought, None, limit)
    return _all_having(session, fits, branches, sought, limit)


def _looked_through(
    session: Session,
    branches: Sequence[ColumnElement[bool]],
    sought: str,
    boundary: UUID | None,
    limit: int,
) -> Sequence[UUID]:
    """The newest that have what is sought, of those from `boundary` on."""
    # No joins, for which the databases might go through all tasks instead of these.
    words = select(search.having(session, search.words_of(sought)))
    either = or_(
        _ours(sought),
        _theirs(session, sought),
        words.where(Prompt.task_id == Task.id).scalar_subquery(),
    )
    these = either if boundary is None else and_(Task.id >= boundary, either)
    return session.scalars(_newest([and_(branch, these) for branch in branches], limit)).all()


def _all_having(
    session: Session,
    fits: ColumnElement[bool],
    branches: Sequence[ColumnElement[bool]],
    sought: str,
    limit: int,
) -> Sequence[UUID]:
    begun = _newest([and_(branch, _ours(sought)) for branch in branches], limit).subquery()
    found = [select(begun.c.id), select(Task.id).where(_theirs(session, sought))]
    if words := search.words_of(sought):
        found.append(search.tasks_having(session, words))
    rare = union(*found).subquery()
    query = select(rare.c.id)
    if not isinstance(fits, True_):
        # No join, as above.
        query = query.where(select(fits).where(Task.id == rare.c.id).scalar_subquery())
    return session.scalars(query.order_by(rare.c.id.desc()).limit(limit)).all()


def _ours(sought: str) -> ColumnElement[bool]:
    """Whether our id of a task begins with what is sought."""
    hexadecimal = sought.lower().replace("-", "")
    if not 0 < len(hexadecimal) <= 32 or set(hexadecimal) - set("0123456789abcdef"):
        return false()
    first, last = UUID(hexadecimal.ljust(32, "0")), UUID(hexadecimal.ljust(32, "f"))
    return Task.id.between(first, last)


def _theirs(session: Session, sought: str) -> ColumnElement[bool]:
    """Whether the provider's id begins with what is sought, as the index compares them."""
    if session.get_bind().dialect.name == "postgresql":
        return Task.provider_task_id.startswith(sought, autoescape=True)
    return Task.provider_task_id.between(sought, sought + LAST_CHARACTER)
