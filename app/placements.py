"""Objects on their way into storage: the database knows of each before it is there.

Its key is noted first, and settled in the transaction that writes the row which names it from then on.
What was not settled, because a process was killed or the row was never written, is deleted: at once if
that can be done, else by the purge.  An object is deleted only after its note was marked as abandoned,
and a note that is, or is gone, cannot be settled: so no row ever names an object that is being deleted.
Each key is used once, so that nobody deletes what somebody else has put there since.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.orm import Session

from app.columns import db_now
from app.errors import StorageError
from app.models import Placement
from app.services import Services

log = structlog.get_logger()

# Far more than the largest upload over the slowest line takes.
ORPHAN_SECONDS = 86_400.0
BATCH = 100


@contextmanager
def placing(services: Services, keys: Sequence[str]) -> Iterator[None]:
    """Note `keys` before the block puts objects there and settles them; if it fails, they go again.

    When storage itself failed, they go with the next purge: whoever waits for the block would else wait
    for storage once more, and what it took too long over may still come to be there.
    """
    if keys:
        with services.db.transaction() as session:
            note(session, keys)
    try:
        yield
    except StorageError:
        abandon(services, keys, at_once=False)
        raise
    except BaseException:
        abandon(services, keys)
        raise


def note(session: Session, keys: Sequence[str]) -> None:
    """From now on the database knows of objects that no other row names."""
    if keys:
        session.execute(insert(Placement), [{"key": key} for key in keys])


def settle(session: Session, keys: Sequence[str]) -> None:
    """Other rows, written in this transaction, name these objects from now on.

    Raises `StorageError` when that took so long that they were given up.
    """
    if not keys:
        return
    mine = delete(Placement).where(Placement.key.in_(keys), ~Placement.abandoned)
    if len(session.scalars(mine.returning(Placement.key)).all()) != len(keys):
        raise StorageError("what was put into storage was given up before it was needed")


def abandon(services: Services, keys: Sequence[str], *, at_once: bool = True) -> None:
    """Take out of storage what was put there and not settled; what cannot be done now, the purge does."""
    if not keys:
        return
    try:
        with services.db.transaction() as session:
            # Not all of `keys`: a commit may have come through although its answer did not.
            abandoned = _abandon(session, Placement.key.in_(keys))
        if at_once:
            clear(services, abandoned)
    except Exception as error:
        log.warning("objects are left to the purge", action="abandon", error=str(error))


def clear(services: Services, keys: Sequence[str]) -> None:
    """Delete objects that were abandoned, then the notes of them.  Raises `StorageError`."""
    if keys:
        services.storage.delete(keys)
        with services.db.transaction() as session:
            session.execute(delete(Placement).where(Placement.key.in_(keys)))


def give_up(services: Services) -> None:
    """Mark the objects that were left behind: nobody needs them any more."""
    with services.db.transaction() as session:
        _abandon(session, Placement.noted_at < db_now(-ORPHAN_SECONDS))


def left(session: Session, after: str) -> Sequence[str]:
    """Keys of abandoned objects: the next batch in their order."""
    marked = select(Placement.key).where(Placement.abandoned, Placement.key > after)
    return session.scalars(marked.order_by(Placement.key).limit(BATCH)).all()


def _abandon(session: Session, which: ColumnElement[bool]) -> Sequence[str]:
    marked = update(Placement).where(which).values(abandoned=True).returning(Placement.key)
    return session.scalars(marked.execution_options(synchronize_session=False)).all()
