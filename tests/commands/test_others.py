"""The commands that do one thing: purge, the list of all."""

from pathlib import Path
from uuid import UUID

from sqlalchemy import select

from app.models import Task, TaskStatus
from app.services import Services
from tests.commands.programs import run
from tests.factories import make_task, with_id


def test_purge_applies_the_retention_now(
    folder: Path, settings: dict[str, str], sqlite_parts: Services, tmp_path: Path
) -> None:
    settings["LOCAL_STORAGE_DIR"] = str(tmp_path / "storage")
    ended = {"status": TaskStatus.SUCCEEDED}
    old, new = make_task(sqlite_parts, columns=ended), make_task(sqlite_parts, columns=ended)
    # An id says when a task was made: this one long ago.
    with_id(sqlite_parts, old, UUID(int=(1_600_000_000_000 << 80) | (old.id.int & (2**80 - 1))))

    kept = run(folder, settings, "purge")
    assert (kept.returncode, kept.stdout, kept.stderr) == (0, "", "")
    purged = run(folder, {**settings, "RETENTION_DAYS": "30"}, "purge")
    assert (purged.returncode, purged.stdout) == (0, "")
    assert '"tasks": 1' in purged.stderr
    with sqlite_parts.db.reading() as session:
        assert session.scalars(select(Task.id)).all() == [new.id]


def test_the_help_names_every_command(folder: Path) -> None:
    shown = run(folder, {}, "--help")

    assert shown.returncode == 0
    for command in (
        "demo",
        "keys",
        "migrate",
        "purge",
        "sandbox",
        "serve",
        "submit",
        "tasks",
        "worker",
    ):
        assert f"\n  {command} " in shown.stdout
