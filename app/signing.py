"""Signed tokens in URLs, and API keys that are stored only as keyed hashes."""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from itsdangerous import BadSignature, Signer, TimestampSigner
from itsdangerous.encoding import base64_decode, base64_encode

from app.errors import TokenError

_CALLBACK = re.compile(r"([a-z0-9_-]+)\.([0-9a-f]{32})")
_PICTURE = re.compile(r"([iotp])\.([0-9a-f]{32})")


class Picture(StrEnum):
    """Which bytes an image address stands for; the letter is part of the signed token."""

    INPUT = "i"
    OUTPUT = "o"
    THUMBNAIL = "t"
    PARTIAL = "p"


@dataclass(frozen=True)
class CallbackToken:
    """What a callback URL says: which task of which provider it is for."""

    provider: str
    task_id: UUID


@dataclass(frozen=True)
class PictureToken:
    """What an image URL says: which bytes of which image (or input) it stands for."""

    picture: Picture
    id: UUID


class Signing:
    """Signs under the first of `keys` and verifies under any; `callback_max_age` in seconds."""

    def __init__(self, keys: Sequence[str], *, callback_max_age: float) -> None:
        self._keys = [key.encode() for key in keys]
        # itsdangerous signs with the last key of its list.
        newest_last = list(reversed(keys))
        # Tokens are timed in whole seconds, rounded down.
        self._max_age = callback_max_age + 1
        self._callbacks = TimestampSigner(
            newest_last, salt="callback", key_derivation="hmac", digest_method=hashlib.sha256
        )
        self._pictures = Signer(
            newest_last, salt="picture", key_derivation="hmac", digest_method=hashlib.sha256
        )

    def callback_token(self, provider: str, task_id: UUID) -> str:
        """The token of the URL that the provider is given for this task."""
        return self._callbacks.sign(f"{provider}.{task_id.hex}").decode()

    def read_callback_token(self, token: str) -> CallbackToken:
        """What `token` says.

        Raises `TokenError`, with code `expired` when it once was valid, for any but the canonical
        spelling of a token that was signed here within the maximum age.
        """
        try:
            subject, signed_at = self._callbacks.unsign(_ascii(token), return_timestamp=True)
        except BadSignature:
            raise TokenError("the callback URL was not signed here", code="forged") from None
        match = _CALLBACK.fullmatch(subject.decode())
        if not match or not _canonical(token):
            raise TokenError("the callback URL was altered", code="forged")
        # Not with `max_age`, which refuses what another machine, whose clock is ahead, has just signed.
        if time.time() - signed_at.timestamp() > self._max_age:
            raise TokenError("the callback URL has expired", code="expired")
        return CallbackToken(match[1], UUID(match[2]))

    def picture_token(self, picture: Picture, id_: UUID) -> str:
        """The token of an image's permanent address."""
        return self._pictures.sign(f"{picture}.{id_.hex}").decode()

    def read_picture_token(self, token: str) -> PictureToken:
        """What `token` says; raises `TokenError` when it was not signed here."""
        try:
            match = _PICTURE.fullmatch(self._pictures.unsign(_ascii(token)).decode())
        except BadSignature:
            match = None
        if not match or not _canonical(token):
            raise TokenError("no such image")
        return PictureToken(Picture(match[1]), UUID(match[2]))

    def hash_api_key(self, api_key: str) -> str:
        """What is stored of an API key."""
        return _keyed_hash(self._keys[0], api_key)

    def api_key_hashes(self, api_key: str) -> list[str]:
        """What may be stored of it: its hash under each key, the newest first."""
        return [_keyed_hash(key, api_key) for key in self._keys]


def new_api_key() -> str:
    """A fresh API key with 256 bits of randomness."""
    return f"pb_{secrets.token_urlsafe(32)}"


def _keyed_hash(key: bytes, api_key: str) -> str:
    return hmac.new(key, b"api-key:" + api_key.encode(), hashlib.sha256).hexdigest()


def _ascii(token: str) -> bytes:
    return token.encode("ascii", "replace")


def _canonical(token: str) -> bool:
    # The last character of a base64 signature has unused bits, and decoding skips foreign
    # characters: several spellings verify.  Only the one that signing writes is let in.
    signature = token.rpartition(".")[2]
    return base64_encode(base64_decode(signature)).decode() == signature
