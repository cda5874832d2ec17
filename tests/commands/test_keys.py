"""`python -m app keys`: made, shown once, listed, revoked; on either database."""

import re
from pathlib import Path

from sqlalchemy import select

from app import keys
from app.models import Audit, Scope
from app.services import Services
from tests.commands.programs import run


def test_a_key_is_made_listed_and_revoked(
    folder: Path, settings: dict[str, str], postgres_url: str, postgres_parts: Services
) -> None:
    parts = postgres_parts
    settings["DATABASE_URL"] = postgres_url
    made = run(folder, settings, "keys", "create", "shop", "--scope", "read", "--scope", "submit")
    api_key = made.stdout.strip()

    assert (made.returncode, made.stderr) == (0, "")
    assert re.fullmatch(r"pb_[A-Za-z0-9_-]{43}\n", made.stdout)
    with parts.db.reading() as session:
        key = keys.recognise(session, parts.signing, api_key)
    assert key is not None
    assert (key.name, key.scopes) == ("shop", ["read", "submit"])

    listed = run(folder, settings, "keys", "list")
    assert listed.returncode == 0
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(rf"shop\tread,submit\t{time}\tused never\n", listed.stdout)
    assert api_key not in listed.stdout

    revoked = run(folder, settings, "keys", "revoke", "shop")
    assert (revoked.returncode, revoked.stdout, revoked.stderr) == (0, "", "")
    assert re.search(rf"\trevoked {time}\n$", run(folder, settings, "keys", "list").stdout)
    with parts.db.reading() as session:
        assert keys.recognise(session, parts.signing, api_key) is None
        acts = session.execute(select(Audit.actor, Audit.action, Audit.subject).order_by(Audit.id))
        assert [tuple(act) for act in acts] == [
            ("command line", "created key", "shop"),
            ("command line", "revoked key", "shop"),
        ]


def test_what_cannot_be_done_is_said_without_a_traceback(
    folder: Path, settings: dict[str, str], sqlite_parts: Services
) -> None:
    with sqlite_parts.db.transaction() as session:
        keys.create(session, sqlite_parts.signing, "shop", {Scope.READ})
    taken = run(folder, settings, "keys", "create", "shop", "--scope", "read")
    unknown = run(folder, settings, "keys", "revoke", "nobody")

    assert (taken.returncode, taken.stdout) == (1, "")
    assert taken.stderr == "an API key named 'shop' exists: revoke it first\n"
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "there is no API key named 'nobody'\n"

    refused = run(folder, settings, "keys", "create", "shop", "--scope", "root")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--scope" in refused.stderr
    assert all(scope in refused.stderr for scope in Scope)
