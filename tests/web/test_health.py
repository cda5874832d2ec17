"""`/healthz` and `/readyz`: the truth about each part, in time."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from sqlalchemy import delete, insert
from sqlalchemy.exc import OperationalError

from app.columns import db_now
from app.models import Worker
from app.services import Services
from app.web.health import Checks
from tests.scarcity import no_more_threads
from tests.web.browsers import Browser
from tests.web.servers import web_server
from tests.web.sites import Site, json_of


def seen(parts: Services, seconds_ago: float) -> None:
    with parts.db.transaction() as session:
        session.execute(delete(Worker))
        session.execute(insert(Worker).values(name="one", seen_at=db_now(-seconds_ago)))


def test_with_all_its_parts_it_is_ready_but_not_without_a_worker(site: Site) -> None:
    seen(site.parts, 500)
    parts = {"database": "ok", "storage": "ok"}
    response = site.client.get("/readyz")
    assert response.status_code == 503
    silent = "no worker was seen for 60 s"
    assert json_of(response) == {"status": "failing", **parts, "worker": silent}

    # One worker of many is enough.
    with site.parts.db.transaction() as session:
        session.execute(insert(Worker).values(name="two"))
    response = site.client.get("/readyz")
    assert response.status_code == 200
    assert json_of(response) == {"status": "ok", **parts, "worker": "ok"}


@pytest.mark.parametrize(("lease", "silent", "status"), [
    ("30s", 50, 200), ("30s", 70, 503), ("1s", 8, 200), ("1s", 12, 503),
])  # fmt: skip
def test_a_worker_that_is_silent_for_two_leases_is_missed(
    site_with: Callable[..., Site], lease: str, silent: float, status: int
) -> None:
    site = site_with(lease_seconds=lease)
    seen(site.parts, silent)

    assert site.client.get("/readyz").status_code == status


def test_with_a_storage_that_fails_it_is_not_ready(
    sqlite_site: Site, viewer: Browser, tmp_path: Path
) -> None:
    seen(sqlite_site.parts, 0)
    folder = tmp_path / "storage"
    for path in (folder / ".partial", folder):
        path.rmdir()
    folder.write_text("no folder")
    response = sqlite_site.client.get("/readyz")
    payload = json_of(response)

    assert response.status_code == 503
    assert payload["storage"].startswith("local storage could not be written to")
    assert (payload["database"], payload["worker"]) == ("ok", "ok")
    overview = viewer.get("/").get_data(as_text=True)
    assert "Storage has trouble: local storage could not be written to" in overview


def test_with_tables_of_another_version_it_is_not_ready(sqlite_site: Site) -> None:
    seen(sqlite_site.parts, 0)
    with sqlite_site.parts.db.transaction() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    response = sqlite_site.client.get("/readyz")

    assert response.status_code == 503
    assert "0000" in json_of(response)["database"]


def test_checks_that_hang_share_the_time_there_is() -> None:
    release = threading.Event()
    hanging = Checks(
        {"one": release.wait, "two": release.wait, "three": lambda: None},  # type: ignore[dict-item]
        seconds=0.3,
    )
    try:
        started = time.monotonic()
        assert hanging.run() == {
            "one": "no answer within 0 s", "two": "no answer within 0 s", "three": None,
        }  # fmt: skip
        assert time.monotonic() - started < 0.6
    finally:
        release.set()


def test_a_check_that_hangs_is_not_started_again_until_it_has_ended() -> None:
    release, starts = threading.Event(), []

    def check() -> None:
        starts.append(1)
        release.wait(30)

    one = Checks({"slow": check}, seconds=0.05)
    assert [one.run()["slow"] is None for _ in range(3)] == [False, False, False]
    assert len(starts) == 1
    release.set()
    assert Checks({"slow": check}, seconds=5).run() == {"slow": None}


def test_a_check_says_in_one_line_what_is_wrong_until_it_is_fine_again() -> None:
    problems = [
        RuntimeError("first line\nand what nobody needs"),
        # A problem without words has at least a name.
        ConnectionResetError(),
        OperationalError("SELECT", {}, ConnectionError("connection to 10.0.0.5 refused")),
        None,
    ]
    said = ["first line", "ConnectionResetError", "away", None]

    def check() -> None:
        if problem := problems.pop(0):
            raise problem

    one = Checks({"it": check}, seconds=5)
    assert [one.run()["it"] for _ in problems.copy()] == said


def test_a_check_that_could_not_be_started_failed_and_is_started_the_next_time() -> None:
    one = Checks({"it": lambda: None}, seconds=5)
    with no_more_threads():
        assert one.run() == {"it": "can't start new thread"}
        assert one.lately("it") == "can't start new thread"
    assert one.run() == {"it": None}


@contextmanager
def hanging(postgres_url: str) -> Iterator[None]:
    """Inside the block the database takes connections but answers nothing."""
    folder = Path(postgres_url.rpartition("=")[2])
    postmaster = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    server = psutil.Process(postmaster)
    processes = [server, *server.children()]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def test_a_database_that_hangs_is_told_of_in_time(postgres_url: str, tmp_path: Path) -> None:
    with web_server(postgres_url, tmp_path, WEB_CONCURRENCY="1") as server:
        seen(server.parts, 0)
        assert server.call("GET", "/readyz").status == 200
        with hanging(postgres_url):
            started = time.monotonic()
            answer = server.call("GET", "/readyz")
            assert time.monotonic() - started < 10
            assert server.call("GET", "/healthz").status == 200
        assert answer.status == 503
        assert answer.json["storage"] == "ok"
        assert "ok" not in {answer.json["database"], answer.json["worker"]}
