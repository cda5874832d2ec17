"""The inbox of a web process: its requests look tasks up and store callbacks together."""

from collections.abc import Collection, Sequence
from uuid import UUID

from app.db import Database
from app.inbox.batches import WAIT_SECONDS, Batches
from app.inbox.ledger import take_in
from app.inbox.rows import providers_of
from app.inbox.values import Incoming, Taken


class Inbox:
    """Two threads, so that a look-up needn't wait for a commit.

    Callbacks of the providers in `confirmed` count only when the provider is asked and agrees.
    """

    def __init__(self, db: Database, confirmed: Collection[str] = ()) -> None:
        self._db = db
        self._confirmed = confirmed
        self._taking = Batches("take_in", self._take)
        self._finding = Batches("find_tasks", self._find)

    def provider_of(self, task_id: UUID) -> str | None:
        """The provider of the task, or None if there is no such task (any more).

        Raises `UnavailableError` as `take` does.
        """
        return self._finding.ask(task_id)

    def take(self, incoming: Incoming, wait_seconds: float = WAIT_SECONDS) -> Taken:
        """Store `incoming` and say what became of it, once that is committed.

        Raises `UnavailableError` when the database is away or takes longer than `wait_seconds`.
        """
        return self._taking.ask(incoming, wait_seconds)

    def stop(self) -> None:
        """Write what is queued, then end the threads."""
        self._finding.stop()
        self._taking.stop()

    def _take(self, batch: Sequence[Incoming]) -> list[Taken]:
        with self._db.transaction() as session:
            return take_in(session, batch, self._confirmed)

    def _find(self, task_ids: Sequence[UUID]) -> list[str | None]:
        with self._db.glance() as connection:
            providers = providers_of(connection, task_ids)
        return [providers.get(task_id) for task_id in task_ids]
