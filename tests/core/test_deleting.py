"""Tasks are deleted with all that is theirs, whatever storage and others do meanwhile."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from sqlalchemy import select, update

from app import jobs, placements, retention, tasks
from app.columns import db_now
from app.errors import LeaseLostError, StorageError
from app.jobs import Kind
from app.models import (
    Chunk,
    Placement,
    Task,
    TaskStatus,
    new_id,
)
from app.models import Job as JobRow
from app.services import Services
from app.storage.local import LocalStorage
from tests.core.conftest import count
from tests.core.sites import Site
from tests.core.test_images import with_storage_down
from tests.core.test_retention import aged, exists, finished_task, keys_of_image
from tests.factories import (
    callbacks_of,
    claim,
    deliver,
    eventually,
    fail_next,
    get_task,
    images_of,
    make_task,
    png,
    reconfigured,
    run_next,
    somebody_waits,
    success,
    take,
)


def test_while_storage_is_down_the_rows_stay_so_that_it_can_be_tried_again(
    sqlite_parts: Services, host: Site
) -> None:
    task = aged(sqlite_parts, finished_task(sqlite_parts, host), days=8)
    short = reconfigured(sqlite_parts, retention_days=7)

    class Down(LocalStorage):
        def delete(self, keys: Iterable[str]) -> None:
            raise StorageError(f"storage is down, {len(list(keys))} keys stay")

        def check(self) -> None:
            raise StorageError("storage is down")

    with pytest.raises(StorageError):
        retention.purge(replace(short, storage=Down(Path(short.config.local_storage_dir))))
    assert get_task(short, task.id).status is TaskStatus.SUCCEEDED

    retention.purge(short)
    assert count(short.db, Task) == 0


def test_what_storage_refuses_to_let_go_keeps_nothing_else(
    sqlite_parts: Services, host: Site
) -> None:
    held, _ = (aged(sqlite_parts, finished_task(sqlite_parts, host), days=8) for _ in range(2))
    kept = {image.key for image in images_of(sqlite_parts, held)} | {"inputs/held"}
    with sqlite_parts.db.transaction() as session:
        placements.note(session, ["inputs/held"])
        session.execute(update(Placement).values(abandoned=True))

    class Holding(LocalStorage):
        def delete(self, keys: Iterable[str]) -> None:
            if kept & (asked := set(keys)):
                raise StorageError("a legal hold is on it")
            super().delete(asked)

    short = reconfigured(sqlite_parts, retention_days=7)
    retention.purge(replace(short, storage=Holding(Path(short.config.local_storage_dir))))

    with short.db.reading() as session:
        assert session.scalars(select(Task.id)).all() == [held.id]
        left = session.scalars(select(Placement.key).where(Placement.abandoned)).all()
    assert left == ["inputs/held"]
    retention.purge(short)
    assert count(short.db, Task) == 0


def test_what_a_stopped_worker_puts_back_after_its_task_was_deleted_goes_a_day_later(
    parts: Services, host: Site
) -> None:
    task = make_task(parts)
    deliver(parts, task, success(host.serve("/a.png", png())))

    class Stopping(LocalStorage):
        """Whose upload is stopped before its first byte, until the task is gone."""

        def put(self, key: str, file: BinaryIO, content_type: str) -> None:
            if count(parts.db, Task):
                self._somebody_else_stores_it()
                retention.delete_tasks(parts, [task.id])
            super().put(key, file, content_type)

        def _somebody_else_stores_it(self) -> None:
            with parts.db.transaction() as session:
                session.execute(update(JobRow).values(due_at=db_now(-1)))
            run_next(parts, Kind.STORE_IMAGE)

    folder = Path(parts.config.local_storage_dir)
    with pytest.raises(LeaseLostError):
        run_next(replace(parts, storage=Stopping(folder)), Kind.STORE_IMAGE)
    assert [path for path in folder.rglob("*.png") if path.is_file()]

    with parts.db.transaction() as session:
        session.execute(update(Placement).values(noted_at=db_now(-placements.ORPHAN_SECONDS - 1)))
    retention.purge(parts)
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_what_comes_while_a_task_is_deleted_goes_as_well(
    sqlite_parts: Services, host: Site
) -> None:
    """A worker has nearly stored its image when somebody deletes the task."""
    task = make_task(sqlite_parts)
    deliver(sqlite_parts, task, success(host.serve("/a.png", png())))
    stored: list[str] = []

    class Slow(LocalStorage):
        def delete(self, gone: Iterable[str]) -> None:
            super().delete(gone)
            if not stored:
                run_next(sqlite_parts, Kind.STORE_IMAGE)
                stored.extend(keys_of_image(sqlite_parts))

    slow = replace(sqlite_parts, storage=Slow(sqlite_parts.config.local_storage_dir))
    retention.delete_tasks(slow, [task.id])
    assert (len(stored), [key for key in stored if exists(sqlite_parts, key)]) == (2, [])


def test_deleting_waits_for_a_job_whose_end_is_being_written(postgres_parts: Services) -> None:
    task = make_task(postgres_parts)
    job = claim(postgres_parts, Kind.SUBMIT)
    with ThreadPoolExecutor() as pool:
        with postgres_parts.db.transaction() as session:
            jobs.ensure_held(session, job)
            deleting = pool.submit(retention.delete_tasks, postgres_parts, [task.id])
            eventually(lambda: somebody_waits(postgres_parts))
            tasks.lock(session, task.id)
        deleting.result()


def test_deleting_one_task_leaves_the_others(parts: Services, host: Site) -> None:
    kept, deleted = finished_task(parts, host), make_task(parts)
    take(parts, deleted, success())
    for gone in ([deleted.id], [deleted.id, new_id()], []):
        retention.delete_tasks(parts, gone)
    assert count(parts.db, Task) == 1
    assert [callback.task_id for callback in callbacks_of(parts, kept)] == [kept.id]
    assert all(exists(parts, key) for key in keys_of_image(parts))


def test_bytes_that_wait_for_storage_go_with_their_task(parts: Services, host: Site) -> None:
    task = make_task(parts)
    deliver(parts, task, success(host.serve("/a.png", png())))
    fail_next(with_storage_down(parts), Kind.STORE_IMAGE)
    assert count(parts.db, Chunk) == 1
    retention.delete_tasks(parts, [task.id])
    assert count(parts.db, Chunk) == 0
