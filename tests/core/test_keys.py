"""API keys: shown once, recognised under any of our secret keys, ended for good."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from app import keys
from app.errors import ConflictError, NotFoundError
from app.models import ApiKey, Audit, Scope
from app.services import Services


def create(parts: Services, name: str, *scopes: Scope) -> str:
    with parts.db.transaction() as session:
        return keys.create(session, parts.signing, name, scopes or (Scope.READ,))


def recognised(parts: Services, api_key: str) -> ApiKey | None:
    with parts.db.reading() as session:
        return keys.recognise(session, parts.signing, api_key)


def revoke(parts: Services, name: str) -> None:
    with parts.db.transaction() as session:
        keys.revoke(session, name)


def test_a_key_is_recognised_and_nowhere_stored(parts: Services) -> None:
    api_key = create(parts, "laptop", Scope.SUBMIT, Scope.READ)

    row = recognised(parts, api_key)

    assert row is not None
    assert (row.name, row.scopes) == ("laptop", ["read", "submit"])
    stored = [str(getattr(row, column.key)) for column in ApiKey.__mapper__.column_attrs]
    assert not any(api_key.removeprefix("pb_") in value for value in stored)
    for other in ("", "pb_", "pb_nothing", "x" * 10_000, "\u00e9\x00"):
        assert recognised(parts, other) is None


def test_a_name_is_taken_until_its_key_is_revoked_for_good(parts: Services) -> None:
    first = create(parts, "laptop")
    create(parts, "phone")
    with pytest.raises(ConflictError, match="an API key named 'laptop' exists"):
        create(parts, "laptop")
    revoke(parts, "laptop")
    for name in ("laptop", "nobody's"):
        with pytest.raises(NotFoundError):
            revoke(parts, name)
    second = create(parts, "laptop")

    assert recognised(parts, first) is None
    assert recognised(parts, second) is not None
    with parts.db.reading() as session:
        listed = [(row.name, row.revoked_at is None) for row in keys.all_keys(session)]
    assert listed == [("laptop", True), ("phone", True), ("laptop", False)]


@pytest.mark.parametrize("scope", list(Scope))
def test_admin_may_do_everything_and_the_others_only_their_own(scope: Scope) -> None:
    assert keys.may(ApiKey(scopes=["admin"]), scope)
    assert keys.may(ApiKey(scopes=[scope]), scope)
    others = [other.value for other in Scope if other not in {scope, Scope.ADMIN}]
    assert not keys.may(ApiKey(scopes=others), scope)


def test_a_use_is_written_down_once_a_minute(sqlite_parts: Services) -> None:
    row = recognised(sqlite_parts, create(sqlite_parts, "laptop"))
    assert row is not None
    assert keys.use_is_news(row)

    with sqlite_parts.db.transaction() as session:
        keys.note_use(session, row)
    with sqlite_parts.db.reading() as session:
        row = session.get_one(ApiKey, row.id)

    assert not keys.use_is_news(row)
    row.last_used_at = datetime.now(UTC) - timedelta(seconds=61)
    assert keys.use_is_news(row)


def test_an_act_is_written_down_with_who_what_and_from_where(sqlite_parts: Services) -> None:
    act = ("laptop", "revoked key", "phone", "192.0.2.7")
    with sqlite_parts.db.transaction() as session:
        keys.audit(session, *act)
    with sqlite_parts.db.reading() as session:
        row = session.scalars(select(Audit)).one()
    assert (row.actor, row.action, row.subject, row.address) == act
    assert datetime.now(UTC) - row.at < timedelta(minutes=1)
