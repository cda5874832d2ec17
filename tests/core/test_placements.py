"""Objects on their way into storage: none stays there that no row names, and none goes that one does."""

import base64
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from sqlalchemy import select, update

from app import edits, placements, retention, uploads
from app.columns import db_now
from app.errors import StorageError
from app.holds.partials import Partials
from app.models import Input, Placement, Role, Task, new_id
from app.services import Services
from app.storage.local import LocalStorage
from tests.core.conftest import count
from tests.core.test_retention import exists
from tests.core.test_uploads import RED, upload
from tests.factories import png, submission


@contextmanager
def submitted(parts: Services, *, unheard: bool = False) -> Iterator[str]:
    """An upload whose task is made at the end of the block; its key.

    If `unheard`, the answer to the commit gets lost.
    """
    task_id = new_id()
    with uploads.stored(parts, task_id, [upload(Role.IMAGE, RED)]) as rows:
        yield str(rows[0].key)
        with parts.db.transaction() as session:
            edits.create(
                session, parts, submission(image=None), provider="acedata", api_key_id=None,
                task_id=task_id, inputs=rows,
            )  # fmt: skip
        if unheard:
            raise ZeroDivisionError


def age(parts: Services) -> None:
    with parts.db.transaction() as session:
        long_ago = db_now(-placements.ORPHAN_SECONDS - 1)
        session.execute(update(Placement).values(noted_at=long_ago))


def test_what_a_killed_process_has_left_goes_after_a_day(parts: Services) -> None:
    with submitted(parts) as owned:
        pass
    with parts.db.transaction() as session:
        placements.note(session, ["inputs/never-put", "inputs/left"])
    parts.storage.put("inputs/left", io.BytesIO(RED), "image/png")

    retention.purge(parts)
    assert exists(parts, "inputs/left")
    age(parts)
    retention.purge(parts)

    assert (exists(parts, "inputs/left"), exists(parts, owned)) == (False, True)
    assert (count(parts.db, Placement), count(parts.db, Input)) == (0, 1)


def test_what_was_given_up_while_it_was_put_is_not_submitted(parts: Services) -> None:
    """It takes more than a day; until then nobody touches it."""

    def take_too_long() -> None:
        with submitted(parts) as key:
            retention.purge(parts)
            assert exists(parts, key)
            age(parts)
            retention.purge(parts)
            assert not exists(parts, key)

    with pytest.raises(StorageError, match="given up"):
        take_too_long()
    assert count(parts.db, Task) == 0


class StandingStill(LocalStorage):
    """Storage that lets everybody wait, but for one object that it takes; how often it was asked."""

    asked = 0

    def put(self, key: str, file: BinaryIO, content_type: str) -> None:
        self.asked += 1
        if self.asked > 1:
            raise StorageError("no answer within 60 s")
        super().put(key, file, content_type)

    def delete(self, keys: Iterable[str]) -> None:
        self.asked += 1
        super().delete(keys)


def test_who_waited_for_storage_in_vain_does_not_wait_for_it_again(parts: Services) -> None:
    storage = StandingStill(Path(parts.config.local_storage_dir))
    with (
        pytest.raises(StorageError, match="no answer"),
        uploads.stored(replace(parts, storage=storage), new_id(), 2 * [upload(Role.IMAGE, RED)]),
    ):
        pass
    assert storage.asked == 2

    with parts.db.reading() as session:
        left = session.scalars(select(Placement.key)).all()
    assert [exists(parts, key) for key in sorted(left)] == [True, False]
    retention.purge(parts)
    assert not any(exists(parts, key) for key in left)
    assert count(parts.db, Placement) == 0


def test_what_was_committed_stays_although_nobody_heard_of_it(parts: Services) -> None:
    with pytest.raises(ZeroDivisionError), submitted(parts, unheard=True) as key:
        pass
    assert (count(parts.db, Task), exists(parts, key)) == (1, True)


def test_a_partial_image_whose_task_is_gone_leaves_nothing(parts: Services) -> None:
    with Partials(parts, new_id()) as keep:
        keep([base64.b64encode(png())])
    folder = parts.config.local_storage_dir / "partials"
    assert not folder.exists() or not list(folder.iterdir())
    assert count(parts.db, Placement) == 0
