"""Noting which answers got through, beside others who are at the same tasks."""

from concurrent.futures import ThreadPoolExecutor

from app import tasks
from app.resends import Marks
from app.services import Services
from tests.factories import eventually, get_task, make_task, somebody_waits


def test_noting_answers_and_a_batch_of_callbacks_never_wait_for_each_other(
    postgres_parts: Services,
) -> None:
    older, newer = make_task(postgres_parts), make_task(postgres_parts)
    marks = Marks(postgres_parts.db)
    batch = [(older.id, False), (newer.id, True)]
    with ThreadPoolExecutor() as pool:
        with postgres_parts.db.transaction() as session:
            tasks.lock(session, older.id)
            noting = pool.submit(marks._write, batch)  # noqa: SLF001 - certainly one batch
            eventually(lambda: somebody_waits(postgres_parts))
            tasks.lock(session, newer.id)
        noting.result()
    marks.stop()

    older, newer = get_task(postgres_parts, older.id), get_task(postgres_parts, newer.id)
    assert (older.answering_at, newer.answering_at) == (None, None)
    assert older.answered_at is None
    assert newer.answered_at is not None
