"""How long the overview and the lists take at a million tasks: `make bench-million`.

Server time without HTTP and templates: the queries, and what makes rows of them.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import click
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app import config, reports, services
from app.models import Task, TaskStatus, Verdict, first_id
from app.reports import CallbackFilter, TaskFilter
from app.services import Services
from bench.filling import COMMON, FREQUENT, RARE, fill
from tests.servers.postgres import postgres_server

RUNS = 15
LIMIT_MS = 50


@click.command()
@click.option("--tasks", default=1_000_000, help="How many tasks there are.")
@click.option("--database", type=click.Choice(["postgresql", "sqlite"]), default="postgresql")
@click.option("--url", help="A database that was filled before, instead of a new one.")
def main(tasks: int, database: str, url: str | None) -> None:
    """Print for each question the fastest run and the median, and their processor time: median and most.

    All in milliseconds.
    """
    with tempfile.TemporaryDirectory() as name, _database(database, Path(name), url, tasks) as at:
        parts = services.build(
            config.load(
                {
                    "PUBLIC_URL": "http://127.0.0.1:8765",
                    "SECRET_KEY": "a key that is good enough for a benchmark",
                    "DATABASE_URL": at,
                    "LOCAL_STORAGE_DIR": f"{name}/storage",
                }
            )
        )
        measure(parts)
        parts.close()


def measure(parts: Services) -> None:
    """Ask each question some times."""
    over = 0
    for name, ask in _questions(parts).items():
        walls, works = [], []
        for _ in range(RUNS):
            with parts.db.reading() as session:
                process = _server_process(session)
                began, work = time.perf_counter(), _processor_ms(process)
                answer = ask(session)
                walls.append((time.perf_counter() - began) * 1000)
                works.append(_processor_ms(process) - work)
        over += statistics.median(works) > LIMIT_MS
        figures = [min(walls), statistics.median(walls), statistics.median(works), max(works)]
        print(f"{name:48}", *(f"{figure:7.1f}" for figure in figures), f"  {answer}", flush=True)
    print(f"over {LIMIT_MS} ms of processor time: {over}")


def _server_process(session: Session) -> int | None:
    """The process of this machine that answers this session, if it is another one."""
    if session.get_bind().dialect.name == "sqlite":
        return None
    return session.scalar(text("SELECT pg_backend_pid()"))


def _processor_ms(server: int | None) -> float:
    """What this thread and the server have used so far: on a busy machine, what waiting is not."""
    nanoseconds = int(Path(f"/proc/{server}/schedstat").read_text().split()[0]) if server else 0
    return time.thread_time() * 1000 + nanoseconds / 1e6


def _questions(parts: Services) -> dict[str, Callable[[Session], object]]:
    with parts.db.reading() as session:
        some = session.scalars(select(Task).order_by(Task.id).offset(5000).limit(1)).one()
        last = session.scalars(select(Task).order_by(Task.id.desc()).limit(1)).one()
    month_ago = datetime.now(UTC) - timedelta(days=30)
    day = {"created_after": month_ago, "created_before": month_ago + timedelta(days=1)}
    filters: dict[str, dict] = {
        "nothing": {},
        **{f"status={status}": {"status": status} for status in TaskStatus},
        "provider=agcloud": {"provider": "agcloud"},
        "provider=nobody": {"provider": "nobody"},
        "provider=agcloud status=canceled": {"provider": "agcloud", "status": "canceled"},
        "provider=agcloud status=uncertain": {"provider": "agcloud", "status": "uncertain"},
        "model=gpt-image-2": {"model": "gpt-image-2"},
        "model=rare-model": {"model": "rare-model"},
        "model=rare-model status=failed": {"model": "rare-model", "status": "failed"},
        "model=nano-banana provider=agcloud": {"model": "nano-banana", "provider": "agcloud"},
        "trace_id": {"trace_id": some.trace_id},
        "trace_id status=canceled": {"trace_id": some.trace_id, "status": "canceled"},
        "a day": day,
        "a day, status=failed model=dall-e-2": {**day, "status": "failed", "model": "dall-e-2"},
        "a day, status=uncertain": {**day, "status": "uncertain"},
        "q=common word": {"q": COMMON},
        "q=frequent word": {"q": FREQUENT},
        "q=rare word": {"q": RARE},
        "q=beginning of a rare word": {"q": RARE[:6]},
        "q=no word": {"q": "xylophone"},
        "q=common and rare word": {"q": f"{COMMON} {RARE}"},
        "q=frequent and rare word": {"q": f"{FREQUENT} {RARE}"},
        "q=one letter": {"q": "b"},
        "q=middling word": {"q": "naku"},
        "q=rare word status=failed": {"q": RARE, "status": "failed"},
        "q=rare word model=rare-model": {"q": RARE, "model": "rare-model"},
        "q=common word model=rare-model": {"q": COMMON, "model": "rare-model"},
        "q=common word status=canceled": {"q": COMMON, "status": "canceled"},
        "q=frequent word status=uncertain": {"q": FREQUENT, "status": "uncertain"},
        "q=common word, a day": {"q": COMMON, **day},
        "q=rare word, a day": {"q": RARE, **day},
        "q=our id": {"q": str(some.id)},
        "q=beginning of our id": {"q": str(some.id)[:10]},
        "q=beginning of all our ids": {"q": str(some.id)[:2]},
        "q=provider's id": {"q": some.provider_task_id},
        "q=beginning of provider's id": {"q": str(some.provider_task_id)[:14]},
        "q=signs": {"q": "%'\"*"},
        "q=32 words": {"q": " ".join([COMMON, FREQUENT, *(f"w{number}" for number in range(30))])},
    }
    asked: dict[str, Callable[[Session], object]] = {
        "overview": lambda session: len(reports.overview(session, 30).problems),
        "figures of 7 days": lambda session: len(
            reports.figures_since(session, datetime.now(UTC) - timedelta(days=7))
        ),
        "models": lambda session: len(reports.choices(session, Task.model)),
    }
    for name, wanted in filters.items():
        asked[f"list: {name}"] = _page(parts, TaskFilter(**wanted), None)
    middle = first_id(datetime.now(UTC) - timedelta(days=45))
    for name in ("nothing", "status=failed", "model=gpt-image-2", "q=common word", "q=rare word"):
        asked[f"list from the middle: {name}"] = _page(parts, TaskFilter(**filters[name]), middle)
    return asked | _others(parts, last, middle)


def _others(parts: Services, task: Task, middle: UUID) -> dict[str, Callable[[Session], object]]:
    rejected = CallbackFilter(verdict=Verdict.REJECTED)
    conflict = CallbackFilter(verdict=Verdict.CONFLICT)

    def callbacks(wanted: CallbackFilter, before: UUID | None = None) -> Callable[[Session], int]:
        return lambda session: len(
            reports.list_callbacks(session, wanted, limit=50, before=before)[0]
        )

    return {
        "callbacks": callbacks(CallbackFilter()),
        "callbacks: rejected": callbacks(rejected),
        "callbacks: rejected from the middle": callbacks(rejected, middle),
        "callbacks: conflict": callbacks(conflict),
        "callbacks: of a task": callbacks(CallbackFilter(task_id=task.id)),
        "task": lambda session: len(
            reports.task_in_full(parts, session, session.get_one(Task, task.id))
        ),
        "task by the provider's id": lambda session: bool(
            reports.find_task(session, str(task.provider_task_id))
        ),
    }


def _page(parts: Services, wanted: TaskFilter, before: UUID | None) -> Callable[[Session], int]:
    return lambda session: len(
        reports.tasks_for_page(parts, session, wanted, limit=50, before=before)[0]
    )


@contextmanager
def _database(kind: str, folder: Path, url: str | None, tasks: int) -> Iterator[str]:
    if url:
        yield url
    elif kind == "sqlite":
        fill(f"sqlite:///{folder}/bench.db", tasks)
        yield f"sqlite:///{folder}/bench.db"
    else:
        with postgres_server() as server:
            address = server.new_database()
            fill(address, tasks)
            yield address


if __name__ == "__main__":
    main()
