"""API keys: shown once, recognised under any of our secret keys, ended for good."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from app import keys
from app.errors import ConflictError, NotFoundError
from app.models import ApiKey, Audit, Scope
from app.services import Services
from app.signing import Signing
from tests.factories import SECRET_KEY


def create(parts: Services, name: str, *scopes: Scope) -> str:
    with parts.db.transaction() as session:
        return keys.create(session, parts.signing, name, scopes or (Scope.READ,))


def recognised(parts: Services, api_key: str, signing: Signing | None = None) -> ApiKey | None:
    with parts.db.reading() as session:
        return keys.recognise(session, signing or parts.signing, api_key)


def test_a_key_is_recognised_and_nowhere_stored(parts: Services) -> None:
    api_key = create(parts, "laptop", Scope.SUBMIT, Scope.READ)

    row = recognised(parts, api_key)

    assert row is not None
    assert (row.name, row.scopes) == ("laptop", ["read", "submit"])
    stored = [str(getattr(row, column.key)) for column in ApiKey.__mapper__.column_attrs]
    assert not any(api_key in value or api_key.removeprefix("pb_") in value for value in stored)


@pytest.mark.parametrize("api_key", ["", "pb_", "pb_nothing", "x" * 10_000, "\u00e9\x00"])
def test_any_other_key_is_not_recognised(parts: Services, api_key: str) -> None:
    create(parts, "laptop")
    assert recognised(parts, api_key) is None


def test_a_key_stays_good_while_the_secret_key_is_changed(parts: Services) -> None:
    api_key = create(parts, "laptop")
    rotated = Signing(["a new secret key", SECRET_KEY], callback_max_age=60)
    finished = Signing(["a new secret key"], callback_max_age=60)

    assert recognised(parts, api_key, rotated) is not None
    assert recognised(parts, api_key, finished) is None


def test_a_name_is_taken_until_its_key_is_revoked(parts: Services) -> None:
    first = create(parts, "laptop")
    with pytest.raises(ConflictError, match="an API key named 'laptop' exists"):
        create(parts, "laptop")
    with parts.db.transaction() as session:
        keys.revoke(session, "laptop")
    second = create(parts, "laptop")

    assert recognised(parts, first) is None
    assert recognised(parts, second) is not None


def test_a_key_that_is_not_there_cannot_be_revoked(parts: Services) -> None:
    create(parts, "laptop")
    with parts.db.transaction() as session:
        keys.revoke(session, "laptop")
    for name in ("laptop", "phone"):
        with pytest.raises(NotFoundError), parts.db.transaction() as session:
            keys.revoke(session, name)


def test_all_keys_are_listed_with_the_newest_first(parts: Services) -> None:
    for name in ("a", "b", "c"):
        create(parts, name)
    with parts.db.transaction() as session:
        keys.revoke(session, "b")
    with parts.db.reading() as session:
        listed = keys.all_keys(session)
    assert [(row.name, row.revoked_at is None) for row in listed] == [
        ("c", True),
        ("b", False),
        ("a", True),
    ]


@pytest.mark.parametrize("scope", list(Scope))
def test_admin_may_do_everything_and_the_others_only_their_own(scope: Scope) -> None:
    assert keys.may(ApiKey(scopes=["admin"]), scope)
    assert keys.may(ApiKey(scopes=[scope]), scope)
    others = [other.value for other in Scope if other not in {scope, Scope.ADMIN}]
    assert not keys.may(ApiKey(scopes=others), scope)


def test_a_use_is_written_down_once_a_minute(parts: Services) -> None:
    row = recognised(parts, create(parts, "laptop"))
    assert row is not None
    assert keys.use_is_news(row)

    with parts.db.transaction() as session:
        keys.note_use(session, row)
    with parts.db.reading() as session:
        row = session.get_one(ApiKey, row.id)

    assert not keys.use_is_news(row)
    row.last_used_at = datetime.now(UTC) - timedelta(seconds=61)
    assert keys.use_is_news(row)


def test_an_act_is_written_down_with_who_what_and_from_where(parts: Services) -> None:
    with parts.db.transaction() as session:
        keys.audit(session, "laptop", "revoked key", "phone", "192.0.2.7")
    with parts.db.reading() as session:
        row = session.scalars(select(Audit)).one()
    assert (row.actor, row.action, row.subject, row.address) == (
        "laptop",
        "revoked key",
        "phone",
        "192.0.2.7",
    )
    assert datetime.now(UTC) - row.at < timedelta(minutes=1)
