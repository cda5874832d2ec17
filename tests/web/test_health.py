"""`/healthz` and `/readyz`: the truth about each part, in time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from sqlalchemy import delete, insert

from app.columns import db_now
from app.models import Worker
from app.services import Services
from app.web.health import Checks
from tests.factories import make_config, running
from tests.servers.postgres import Postgres
from tests.web.servers import web_server
from tests.web.sites import Site, json_of, open_site


def seen(parts: Services, seconds_ago: float) -> None:
    with parts.db.transaction() as session:
        session.execute(delete(Worker))
        session.execute(insert(Worker).values(name="one", seen_at=db_now(-seconds_ago)))


def test_a_process_that_lives_says_so(sqlite_site: Site) -> None:
    response = sqlite_site.client.get("/healthz")

    assert (response.status_code, json_of(response)) == (200, {"status": "ok"})


def test_with_all_its_parts_it_is_ready(site: Site) -> None:
    seen(site.parts, 0)
    response = site.client.get("/readyz")

    assert response.status_code == 200
    assert json_of(response) == {
        "status": "ok", "database": "ok", "storage": "ok", "worker": "ok",
    }  # fmt: skip


def test_without_a_worker_it_is_not_ready(sqlite_site: Site) -> None:
    response = sqlite_site.client.get("/readyz")

    assert response.status_code == 503
    assert json_of(response) == {
        "status": "failing",
        "database": "ok",
        "storage": "ok",
        "worker": "no worker was seen for 60 s",
    }


@pytest.mark.parametrize(("lease", "silent", "status"), [
    ("30s", 50, 200), ("30s", 70, 503), ("1s", 8, 200), ("1s", 12, 503),
])  # fmt: skip
def test_a_worker_that_is_silent_for_two_leases_is_missed(
    sqlite_url: str, tmp_path: Path, lease: str, silent: float, status: int
) -> None:
    config = make_config(sqlite_url, tmp_path, lease_seconds=lease)
    with running(config) as parts, open_site(parts) as site:
        seen(parts, silent)
        assert site.client.get("/readyz").status_code == status


def test_one_worker_of_many_is_enough(sqlite_site: Site) -> None:
    seen(sqlite_site.parts, 500)
    with sqlite_site.parts.db.transaction() as session:
        session.execute(insert(Worker).values(name="two"))

    assert sqlite_site.client.get("/readyz").status_code == 200


def test_with_a_storage_that_fails_it_is_not_ready(sqlite_site: Site, tmp_path: Path) -> None:
    seen(sqlite_site.parts, 0)
    folder = tmp_path / "storage"
    for path in (folder / ".partial", folder):
        path.rmdir()
    folder.write_text("no folder")
    response = sqlite_site.client.get("/readyz")
    payload = json_of(response)

    assert response.status_code == 503
    assert payload["storage"].startswith("local storage could not be written to")
    assert {name: payload[name] for name in ("database", "worker")} == {
        "database": "ok", "worker": "ok",
    }  # fmt: skip


def test_with_tables_of_another_version_it_is_not_ready(sqlite_site: Site) -> None:
    seen(sqlite_site.parts, 0)
    with sqlite_site.parts.db.transaction() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    response = sqlite_site.client.get("/readyz")

    assert response.status_code == 503
    assert "0000" in json_of(response)["database"]


def test_without_its_database_it_is_not_ready_and_tells_no_stranger_where_that_is(
    postgres: Postgres, postgres_url: str, tmp_path: Path
) -> None:
    config = make_config(postgres_url, tmp_path)
    with running(config) as parts, open_site(parts) as site:
        seen(parts, 0)
        assert site.client.get("/readyz").status_code == 200
        folder = postgres_url.rpartition("=")[2]
        with postgres.down():
            started = time.monotonic()
            response = site.client.get("/readyz")
            assert time.monotonic() - started < 10
            assert site.client.get("/healthz").status_code == 200
        payload = json_of(response)

        assert response.status_code == 503
        assert payload["storage"] == "ok"
        assert (payload["database"], payload["worker"]) == ("away", "away")
        assert folder not in str(payload)
        seen(parts, 0)
        assert site.client.get("/readyz").status_code == 200


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


def test_a_check_that_recovers_is_fine_again() -> None:
    problems: list[Exception | None] = [RuntimeError("first line\nand what nobody needs"), None]

    def check() -> None:
        if problem := problems.pop(0):
            raise problem

    one = Checks({"it": check}, seconds=5)
    assert one.run() == {"it": "first line"}
    assert one.run() == {"it": None}


def test_a_problem_without_words_has_at_least_a_name() -> None:
    def check() -> None:
        raise ConnectionResetError

    assert Checks({"it": check}, seconds=5).run() == {"it": "ConnectionResetError"}


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
