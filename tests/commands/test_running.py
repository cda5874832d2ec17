"""The programs that run: they start, say so, and end when they are told to, with all they started."""

import ctypes
import json
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from app.config import Config
from app.models import Task, Worker
from app.services import Services
from tests.commands.programs import PYTHON, ROOT, Running, ask, gone, run, run_program, running
from tests.core.sites import Answer, Asked, json_answer, running_site
from tests.factories import make_task
from tests.servers.service import free_port

NOTHING_SET = {name.upper(): "" for name in Config.model_fields}


def procfile() -> dict[str, list[str]]:
    """The commands of the Procfile by their names."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    return {name: shlex.split(command) for name, command in (line.split(": ") for line in lines)}


def is_ready(port: int) -> bool:
    return ask(port, "/readyz")[0] == 200


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_programs_of_the_procfile_make_a_service(
    database: str, tmp_path: Path, settings: dict[str, str], request: pytest.FixtureRequest
) -> None:
    commands = procfile()
    url = f"sqlite:///{tmp_path}/deep/inside/new.db"
    if database == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
    # In the folder of the program, where its settings of this machine must not count.
    settings = {
        **NOTHING_SET,
        **settings,
        "DATABASE_URL": url,
        "LOCAL_STORAGE_DIR": str(tmp_path / "storage"),
        "PATH": f"{Path(PYTHON[0]).parent}",
    }
    with free_port() as port:
        settings["PORT"] = str(port)
        released = run_program(ROOT, settings, *commands["release"])
        assert (released.returncode, released.stdout, released.stderr) == (0, "", "")
        with (
            running(tmp_path / "web", settings, *commands["web"], cwd=ROOT) as web,
            running(tmp_path / "worker", settings, *commands["worker"], cwd=ROOT) as worker,
        ):
            web.wait_for(lambda: is_ready(port))
            processes = [*web.family(), *worker.family()]
            assert len(web.family()) == (2 if database == "sqlite" else 3)
            assert (worker.stop(), web.stop()) == (0, 0)
            assert gone(processes)
            assert '"worker stopped"' in worker.log


class Slow:
    """A provider that takes its time: it answers when it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answering = threading.Event()

    def __call__(self, _asked: Asked) -> Answer:
        self.asked.set()
        self.answering.wait(30)
        return json_answer({"success": True, "task_id": "theirs"})


@pytest.fixture
def busy(
    folder: Path, settings: dict[str, str], sqlite_parts: Services
) -> Iterator[tuple[Running, Slow]]:
    """A worker that has just submitted a task, and the provider that lets it wait."""
    make_task(sqlite_parts)
    with running_site() as provider:
        slow = provider.replies["/openai/images/edits"] = Slow()
        local = {"ACEDATA_BASE_URL": provider.url, "ALLOW_PRIVATE_HOSTS": "127.0.0.0/8"}
        with running(folder, {**settings, **local}, *PYTHON, "worker") as worker:
            worker.wait_for(slow.asked.is_set)
            yield worker, slow
        slow.answering.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_end_finishes_what_it_has_begun(
    busy: tuple[Running, Slow], sqlite_parts: Services, number: signal.Signals
) -> None:
    worker, slow = busy
    worker.process.send_signal(number)
    worker.wait_for(lambda: _catches_nothing(worker.process.pid, number))
    slow.answering.set()
    assert worker.process.wait(30) == 0

    with sqlite_parts.db.reading() as session:
        assert session.scalars(select(Task.provider_task_id)).all() == ["theirs"]
        assert session.scalars(select(Worker)).all() == []
    last = json.loads(worker.log.splitlines()[-1])
    assert last["event"] == "worker stopped"


def test_a_second_signal_ends_a_worker_at_once(busy: tuple[Running, Slow]) -> None:
    worker, _ = busy
    worker.process.send_signal(signal.SIGTERM)
    worker.wait_for(lambda: _catches_nothing(worker.process.pid, signal.SIGTERM))
    assert worker.stop() == -signal.SIGTERM


def test_a_worker_ends_whichever_of_its_threads_gets_the_signal(
    busy: tuple[Running, Slow],
) -> None:
    worker, slow = busy
    pid = worker.process.pid
    other = next(
        int(each.name) for each in Path(f"/proc/{pid}/task").iterdir() if each.name != f"{pid}"
    )
    assert ctypes.CDLL(None).tgkill(pid, other, signal.SIGTERM) == 0
    worker.wait_for(lambda: _catches_nothing(pid, signal.SIGTERM))
    slow.answering.set()
    assert worker.process.wait(30) == 0


def _catches_nothing(pid: int, number: signal.Signals) -> bool:
    """Whether the process has given its handler of that signal up."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return not int(caught.split()[1], 16) & 1 << number - 1


def test_a_worker_waits_for_its_database(folder: Path, settings: dict[str, str]) -> None:
    settings["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:9/nothing"
    with running(folder, settings, *PYTHON, "worker") as worker:
        worker.wait_for(lambda: worker.log.count("database away") >= 2)
        assert worker.stop() == 0
    assert all(json.loads(line) for line in worker.log.splitlines())


def test_a_worker_says_that_somebody_has_to_migrate_and_then_works(
    folder: Path, settings: dict[str, str]
) -> None:
    settings["DATABASE_URL"] = f"sqlite:///{folder}/new.db"
    with running(folder, settings, *PYTHON, "worker") as worker:
        worker.wait_for(lambda: "the tables are missing: run python -m app migrate" in worker.log)
        assert "worker started" not in worker.log
        assert run_program(folder, settings, *PYTHON, "migrate").returncode == 0
        worker.wait_for(lambda: "worker started" in worker.log)
        assert worker.stop() == 0


def test_alone_in_an_empty_folder_it_serves_and_works_even_if_a_part_of_it_is_killed(
    folder: Path,
) -> None:
    with free_port() as port, running(folder, {"PORT": str(port)}, *PYTHON, "serve") as service:
        service.wait_for(lambda: is_ready(port))
        assert ask(port, "/healthz") == (200, {"status": "ok"})
        assert f"Postback is at http://127.0.0.1:{port}\n" in service.log
        assert (folder / "instance" / "postback.db").exists()
        _, part = service.family()
        part.kill()
        service.wait_for(lambda: _other_part(service, part) and is_ready(port))
        processes = service.family()
        assert _listens_on(processes, port) == {"127.0.0.1"}
        assert service.stop() == 0
        assert gone(processes)
    assert "worker stopped" in service.log


def _other_part(service: Running, part: psutil.Process) -> bool:
    family = service.family()
    return len(family) == 2 and family[1] != part


def _listens_on(processes: list[psutil.Process], port: int) -> set[str]:
    return {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }


@pytest.mark.parametrize("said", ["in the file", "to make", "in the environment"])
def test_make_run_listens_where_it_is_told_to(folder: Path, said: str) -> None:
    (folder / ".venv").symlink_to(sys.prefix)
    command = ["make", "-f", f"{ROOT}/Makefile", "-o", ".venv/runtime", "run"]
    settings = {}
    with free_port() as port, free_port() as other:
        (folder / ".env").write_text(f"PORT={port if said == 'in the file' else other}\n")
        if said == "to make":
            command.append(f"PORT={port}")
        elif said == "in the environment":
            settings["PORT"] = str(port)
        with running(folder, settings, *command) as service:
            service.wait_for(lambda: is_ready(port))
            assert f"Postback is at http://127.0.0.1:{port}\n" in service.log


def test_what_it_has_made_for_itself_is_there_at_the_next_start(folder: Path) -> None:
    made = run(folder, {}, "keys", "create", "me", "--scope", "read")
    assert (made.returncode, made.stderr) == (0, "")
    secret = folder / "instance" / "secret_key"
    assert secret.stat().st_mode & 0o777 == 0o600
    with free_port() as port:
        # On Ctrl-C gunicorn leaves its socket to the interpreter, which warnings would tell of.
        settings = {"PORT": str(port), "LOG_FORMAT": "json", "PYTHONWARNINGS": ""}
        with running(folder, settings, *PYTHON, "serve") as service:
            service.wait_for(lambda: is_ready(port))
            key = f"Bearer {made.stdout.strip()}"
            assert ask(port, "/v1/tasks", Authorization=key)[0] == 200
            processes = service.family()
            # Ctrl-C reaches all of them.
            for process in processes:
                process.send_signal(signal.SIGINT)
            assert service.process.wait(30) == 0
            assert gone(processes)
    first, *lines = service.log.splitlines()
    assert first == f"Postback is at http://127.0.0.1:{port}"
    assert all({"event", "level", "timestamp"} <= set(json.loads(line)) for line in lines)
