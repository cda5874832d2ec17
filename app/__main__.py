"""The command line: `python -m app COMMAND`."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy.exc import SQLAlchemyError

from app import client, db, demo, keys, logs, reporting, retention, services, serving
from app import config as settings
from app.config import Config
from app.errors import ConfigError, PostbackError
from app.models import Scope
from app.reports import rfc3339
from app.sandbox.cli import command as sandbox
from app.services import Services
from app.worker import Worker

# How long a signal may wait that another thread than the main one was given.
SIGNAL_SECONDS = 0.5


@click.group()
def main() -> None:
    """Postback, a callback receiver for image-edit APIs."""


for command in (sandbox, client.submit, client.tasks):
    main.add_command(command)


@main.command()
def migrate() -> None:
    """Bring the database's tables to this version."""
    db.migrate(_config(embedded=True).database_url)


@main.command()
def serve() -> None:
    """Serve and work in one process, on the embedded defaults."""
    config = _config(embedded=True)
    db.migrate(config.database_url)
    click.echo(f"Postback is at {config.public_url}")
    serving.Embedded(config).run()


@main.command()
def worker() -> None:
    """Run one worker; any number may run, on any number of machines."""
    config = _config()
    logs.configure(config)
    reporting.start(config)
    _work_until_told(Worker(services.build(config)))


@main.command("demo")
@click.option("--once", is_flag=True, help="End as soon as the image is in storage.")
def show(once: bool) -> None:
    """The whole journey on this machine, with the sandbox as the provider."""
    sys.exit(0 if demo.run(once=once) else 1)


@main.command()
def purge() -> None:
    """Delete now what is older than RETENTION_DAYS and RETENTION_BODY_DAYS."""
    with _services() as parts:
        logs.configure(parts.config)
        retention.purge(parts)


@main.group("keys")
def keys_group() -> None:
    """API keys."""


@keys_group.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What the key may do; may be repeated. admin implies the others.",
)
def create_key(name: str, scopes: tuple[str, ...]) -> None:
    """Make a key and print it, alone: it is shown this once."""
    with _services() as parts, parts.db.transaction() as session:
        api_key = keys.create(session, parts.signing, name, set(map(Scope, scopes)))
        keys.audit(session, "command line", "created key", name, None)
    click.echo(api_key)


@keys_group.command("list")
def list_keys() -> None:
    """Name, scopes, and whether it is revoked, of every key."""
    with _services() as parts, parts.db.reading() as session:
        for key in keys.all_keys(session):
            used = rfc3339(key.last_used_at) or "never"
            state = f"revoked {rfc3339(key.revoked_at)}" if key.revoked_at else f"used {used}"
            click.echo(f"{key.name}\t{','.join(key.scopes)}\t{rfc3339(key.created_at)}\t{state}")


@keys_group.command("revoke")
@click.argument("name")
def revoke_key(name: str) -> None:
    """End a key for good."""
    with _services() as parts, parts.db.transaction() as session:
        keys.revoke(session, name)
        keys.audit(session, "command line", "revoked key", name, None)


def _config(*, embedded: bool = False) -> Config:
    return settings.from_environment(embedded=embedded)


@contextmanager
def _services() -> Iterator[Services]:
    """For commands that run beside the service, and on a database that may be new."""
    config = _config(embedded=True)
    db.migrate(config.database_url)
    parts = services.build(config)
    try:
        yield parts
    finally:
        parts.close()


def _work_until_told(job_loop: Worker) -> None:
    """Run until SIGTERM or Ctrl-C, then end gracefully; a second signal ends at once."""

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        job_loop.stop()

    # Not by an exception: one that interrupts `join` leaves the thread marked as ended.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    thread = threading.Thread(target=job_loop.run, name="worker", daemon=True)
    thread.start()
    # Another thread may be given the signal: Python's handler then waits until this one wakes.
    while thread.is_alive():
        thread.join(SIGNAL_SECONDS)


def run() -> None:
    """The command line, with errors as one line each instead of a traceback."""
    try:
        main(prog_name="python -m app")
    except ConfigError as error:
        sys.exit(error.report)
    except PostbackError as error:
        sys.exit(str(error))
    except SQLAlchemyError as error:
        if not db.is_outage(error):
            raise
        sys.exit(f"The database is away: {error.__cause__ or error}")


if __name__ == "__main__":
    run()
