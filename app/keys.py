"""API keys: made and revoked by a person, recognised at every call; browsers that signed in with one."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.columns import db_now
from app.errors import ConflictError, InvalidFieldError, NotFoundError
from app.models import ApiKey, Audit, BrowserSession, Scope
from app.signing import Signing, new_api_key

# How exact `last_used_at` is: not every call is worth a write.
LAST_USED = timedelta(minutes=1)


@dataclass(frozen=True)
class Actor:
    """Who acts, by the name of the API key, and from which address."""

    name: str
    address: str | None


def create(session: Session, signing: Signing, name: str, scopes: Collection[Scope]) -> str:
    """A new key, which is shown this once.

    Raises `InvalidFieldError` for a name that is blank, `ConflictError` for one that is taken.
    """
    if not name.strip():
        raise InvalidFieldError("name", f"name: expected text that is not blank, not {name!r}")
    if session.scalar(select(ApiKey.id).filter_by(name=name, revoked_at=None)):
        raise ConflictError(f"an API key named {name!r} exists: revoke it first")
    api_key = new_api_key()
    session.add(ApiKey(name=name, key_hash=signing.hash_api_key(api_key), scopes=sorted(scopes)))
    return api_key


def revoke(session: Session, name: str) -> None:
    """End a key for good.  Raises `NotFoundError`."""
    revoked = (
        update(ApiKey)
        .where(ApiKey.name == name, ApiKey.revoked_at.is_(None))
        .values(revoked_at=db_now())
        .returning(ApiKey.id)
    )
    if session.scalar(revoked) is None:
        raise NotFoundError(f"there is no API key named {name!r}")


def all_keys(session: Session) -> Sequence[ApiKey]:
    """Every key that was ever made, the newest first."""
    return session.scalars(select(ApiKey).order_by(ApiKey.id.desc())).all()


def recognise(session: Session, signing: Signing, api_key: str) -> ApiKey | None:
    """The row of a key that is valid now."""
    hashes = signing.api_key_hashes(api_key)
    return session.scalar(
        select(ApiKey).where(ApiKey.key_hash.in_(hashes), ApiKey.revoked_at.is_(None))
    )


def use_is_news(key: ApiKey) -> bool:
    """Whether `last_used_at` is so old that this use is worth a write."""
    newest = datetime.now(UTC) - LAST_USED
    return key.last_used_at is None or key.last_used_at < newest


def note_use(session: Session, key: ApiKey) -> None:
    """Remember that the key is used now."""
    session.execute(update(ApiKey).where(ApiKey.id == key.id).values(last_used_at=db_now()))


def begin_session(session: Session, key: ApiKey) -> UUID:
    """Let a browser that has shown `key` in; its session's id."""
    begun = BrowserSession(key_id=key.id)
    session.add(begun)
    session.flush()
    return begun.id


def end_session(session: Session, id_: UUID) -> None:
    """Whoever has a copy of that session's cookie is out as well."""
    session.execute(delete(BrowserSession).where(BrowserSession.id == id_))


def of_session(session: Session, id_: UUID) -> ApiKey | None:
    """The key that a browser has signed in with, while it has not signed out and the key is valid."""
    return session.scalar(
        select(ApiKey)
        .join(BrowserSession, BrowserSession.key_id == ApiKey.id)
        .where(BrowserSession.id == id_, ApiKey.revoked_at.is_(None))
    )


def may(key: ApiKey, scope: Scope) -> bool:
    """Whether the key has `scope`; `admin` implies all."""
    return scope in key.scopes or Scope.ADMIN in key.scopes


def audit(
    session: Session, actor: str, action: str, subject: str | None, address: str | None
) -> None:
    """Write down who did what, on which, from where."""
    session.add(Audit(actor=actor, action=action, subject=subject, address=address))
