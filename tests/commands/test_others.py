"""The commands that do one thing: purge, the sandbox's help, the list of all."""

from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select, update

from app.models import Callback, Task, TaskStatus
from app.sandbox.misbehaviours import Word
from app.services import Services
from tests.commands.programs import run
from tests.factories import make_task


def test_purge_applies_the_retention_now(
    folder: Path, settings: dict[str, str], sqlite_parts: Services, tmp_path: Path
) -> None:
    settings["LOCAL_STORAGE_DIR"] = str(tmp_path / "storage")
    ended = {"status": TaskStatus.SUCCEEDED}
    old, new = make_task(sqlite_parts, columns=ended), make_task(sqlite_parts, columns=ended)
    # An id says when it was made: this one long ago.
    ancient = UUID(int=(1_600_000_000_000 << 80) | (old.id.int & (2**80 - 1)))
    with sqlite_parts.db.transaction() as session:
        for table in ("events", "inputs", "jobs"):
            session.connection().exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608 - see above
        session.execute(update(Task).where(Task.id == old.id).values(id=ancient))

    kept = run(folder, settings, "purge")
    assert (kept.returncode, kept.stdout, kept.stderr) == (0, "", "")
    purged = run(folder, {**settings, "RETENTION_DAYS": "30"}, "purge")
    assert (purged.returncode, purged.stdout) == (0, "")
    assert '"tasks": 1' in purged.stderr
    with sqlite_parts.db.reading() as session:
        assert session.scalars(select(Task.id)).all() == [new.id]
        assert session.scalars(select(Callback.id)).all() == []


def test_the_sandboxs_help_lists_its_words(folder: Path) -> None:
    shown = run(folder, {"COLUMNS": "200"}, "sandbox", "--help")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert all(f"[{word}" in shown.stdout for word in Word)


def test_the_help_names_every_command(folder: Path) -> None:
    shown = run(folder, {}, "--help")

    assert shown.returncode == 0
    for command in ("demo", "keys", "migrate", "purge", "sandbox", "serve", "worker"):
        assert f"\n  {command} " in shown.stdout


@pytest.mark.parametrize("arguments", [("nonsense",), ("migrate", "--nonsense")])
def test_a_command_that_there_is_not_is_explained(folder: Path, arguments: tuple[str, ...]) -> None:
    refused = run(folder, {}, *arguments)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert arguments[-1] in refused.stderr
    assert list(folder.iterdir()) == []
