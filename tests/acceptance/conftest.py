"""The sites of the acceptance tests, their logs when something fails, and the figures measured."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.acceptance.sites import HASTY, Resources, Site, installed
from tests.acceptance.waiting import until
from tests.servers.postgres import Postgres
from tests.servers.service import Sandbox, running
from tests.servers.swift import Swift

FIGURES = pytest.StashKey[list[str]]()
# What most tests run on: each database and each storage once.
PLACES = ["sqlite-local", "postgresql-s3"]
LOG_BYTES = 30_000
# What the commands say to people; all other lines of a log are JSON.
_POLLED = re.compile(rb'"method": "GET", .*"status": 200')
SPOKEN = (b"Postback is at ", b"The sandbox is at ")


class Logs:
    """What the parts write during one test; `allowed` is what may be in an error among it."""

    def __init__(self, folder: Path) -> None:
        self.allowed: list[str] = []
        self._folder = folder
        self._before = {path: path.stat().st_size for path in self._files()}

    def since(self) -> dict[str, bytes]:
        """What was written since the test began, by part."""
        return {
            str(path.parent.relative_to(self._folder)): path.read_bytes()[
                self._before.get(path, 0) :
            ]
            for path in self._files()
        }

    def errors(self) -> list[str]:
        """The lines that nobody expected."""
        lines = [line for log in self.since().values() for line in log.splitlines()]
        errors = [line.decode() for line in lines if _is_error(line)]
        return [line for line in errors if not any(text in line for text in self.allowed)]

    def _files(self) -> list[Path]:
        return sorted(self._folder.rglob("log"))


def _shown(log: bytes) -> str:
    """The end of a log, without the test's own questions that were answered well."""
    lines = [line for line in log.splitlines() if not _POLLED.search(line)]
    return b"\n".join(lines)[-LOG_BYTES:].decode(errors="replace")


def _is_error(line: bytes) -> bool:
    if line.startswith(SPOKEN):
        return False
    try:
        return json.loads(line)["level"] not in {"debug", "info", "warning"}
    except ValueError:
        return True


class Sites:
    """One site for each place, started when it is first asked for."""

    def __init__(self, resources: Resources, stack: ExitStack) -> None:
        self._resources = resources
        self._stack = stack
        self._sites: dict[str, Site] = {}

    def at(self, place: str, *, working: bool = False) -> Site:
        """The site of a database and a storage, `sqlite-local`; with `-embedded` in one process.

        Its standing worker works if `working`, and else does not.
        """
        if place not in self._sites:
            database, storage, *rest = place.split("-")
            self._sites[place] = self._stack.enter_context(
                installed(self._resources, database, storage, embedded=bool(rest), working=working)
            )
        site = self._sites[place]
        site.employ() if working else site.dismiss()
        return site


@pytest.fixture(scope="package")
def acceptance_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the parts of all sites keep their files and logs."""
    return tmp_path_factory.mktemp("acceptance")


@pytest.fixture(autouse=True)
def logs(acceptance_folder: Path) -> Iterator[Logs]:
    """What the parts log, which is shown when the test fails; no error may be in it."""
    logs = Logs(acceptance_folder)
    yield logs
    for name, log in logs.since().items():
        # pytest shows it when the test has failed.
        print(f"--- {name}\n{_shown(log)}")  # noqa: T201
    assert logs.errors() == []


@pytest.fixture(scope="package")
def trap() -> Iterator[socket.socket]:
    """Where the provider's `private redirect` leads; whoever follows it is noticed."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.setblocking(False)
        yield trap


@pytest.fixture(scope="package")
def sandbox(acceptance_folder: Path, trap: socket.socket) -> Iterator[Sandbox]:
    """The provider of all sites that need none of their own."""
    options = ["--delay", "0.1", "--private-url", f"http://127.0.0.1:{trap.getsockname()[1]}/"]
    with running(Sandbox(options, acceptance_folder / "sandbox")) as sandbox:
        yield sandbox


@pytest.fixture(scope="package")
def resources(
    acceptance_folder: Path,
    sandbox: Sandbox,
    postgres: Postgres,
    swift: Swift,
    migrated_sqlite: Path,
    migrated_postgres: str,
) -> Resources:
    """What sites are made of."""
    return Resources(
        acceptance_folder, sandbox, postgres, swift, migrated_sqlite, migrated_postgres
    )


@pytest.fixture(scope="package")
def sites(resources: Resources) -> Iterator[Sites]:
    """The sites that tests share; they end before the tests of other folders begin, for they are busy
    also when nothing is asked of them.
    """
    with ExitStack() as stack:
        yield Sites(resources, stack)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    """Where the site is: the test runs on each pair of database and storage."""
    return str(request.param)


@pytest.fixture
def site(place: str, sites: Sites) -> Site:
    """A site that answers; nobody works there."""
    return sites.at(place)


@pytest.fixture
def both(sites: Sites) -> list[Site]:
    """The sites of all `PLACES`, for what takes long and can go on at both."""
    return [sites.at(place) for place in PLACES]


@pytest.fixture
def working_site(place: str, sites: Sites) -> Site:
    """A site with a worker."""
    return sites.at(place, working=True)


@pytest.fixture(scope="package")
def sent_into_silence(resources: Resources) -> Iterator[tuple[Site, str]]:
    """A site and a task, whose worker was killed when its request had left but reached nobody.

    For all files, because what becomes of the task takes more than a minute.
    """
    with (
        installed(resources, "sqlite", "local") as site,
        closing(socket.create_server(("127.0.0.1", 0))) as silence,
    ):
        port = silence.getsockname()[1]
        elsewhere = {
            "ACEDATA_BASE_URL": f"http://127.0.0.1:{port}",
            "ALLOW_PRIVATE_HOSTS": f"127.0.0.1:{port}",
        }
        with running(site.worker(**HASTY, **elsewhere)) as worker:
            task_id = site.submit()
            until(lambda: port in worker.peers(), "a request is on its way")
            worker.kill()
        with running(site.worker(**HASTY)):
            yield site, task_id


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> list[str]:
    """What was measured; it is printed at the end."""
    return request.config.stash.setdefault(FIGURES, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the figures."""
    if figures := config.stash.get(FIGURES, []):
        terminalreporter.section("figures")
        for figure in figures:
            terminalreporter.write_line(figure)
