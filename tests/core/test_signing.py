"""Tokens: only what was signed here, unaltered and in its one spelling, is let in."""

import hashlib
import time
from base64 import urlsafe_b64decode
from string import ascii_letters, digits
from uuid import UUID

import pytest
from itsdangerous import TimestampSigner

from app.errors import TokenError
from app.models import new_id
from app.signing import CallbackToken, Picture, PictureToken, Signing, new_api_key

OLD, NEW = "the key of last year", "the key of this year"
SIGNING = Signing([NEW], callback_max_age=60)
TASK_ID = UUID("019aa0b4-2f4b-7c56-8d8a-0242ac120002")
ALPHABET = ascii_letters + digits + "-_"


class ShiftedSigner(TimestampSigner):
    """Signs what a callback URL carries, as if it were another time."""

    shift = 0.0

    def get_timestamp(self) -> int:
        return int(time.time() + self.shift)


def token_from(seconds: float) -> str:
    signer = ShiftedSigner(
        NEW, salt="callback", key_derivation="hmac", digest_method=hashlib.sha256
    )
    signer.shift = seconds
    return signer.sign(f"acedata.{TASK_ID.hex}").decode()


def refusal(token: str) -> TokenError:
    with pytest.raises(TokenError) as caught:
        SIGNING.read_callback_token(token)
    return caught.value


def test_new_tokens_are_signed_under_the_first_key_and_earlier_ones_are_good_as_fallbacks() -> None:
    rotated = Signing([NEW, OLD], callback_max_age=60)
    earlier = Signing([OLD], callback_max_age=60).callback_token("acedata", TASK_ID)

    assert rotated.read_callback_token(earlier) == CallbackToken("acedata", TASK_ID)
    assert refusal(earlier).code == "forged"
    callback = rotated.callback_token("acedata", TASK_ID)
    assert SIGNING.read_callback_token(callback) == CallbackToken("acedata", TASK_ID)
    for picture in Picture:
        token = rotated.picture_token(picture, TASK_ID)
        assert SIGNING.read_picture_token(token) == PictureToken(picture, TASK_ID)


def test_a_callback_token_expires() -> None:
    # A provider may call back at once: from a machine whose clock is ahead, it was refused as if it
    # had come too late.
    for seconds in (-55, 30):
        assert SIGNING.read_callback_token(token_from(seconds)).task_id == TASK_ID
    assert refusal(token_from(-65)).code == "expired"
    assert refusal(token_from(-65)[:-2] + "AA").code == "forged"


def test_a_token_with_any_character_altered_removed_or_added_is_refused() -> None:
    token = SIGNING.callback_token("acedata", TASK_ID)
    for position, character in enumerate(token):
        head, tail = token[:position], token[position + 1 :]
        others = {character.swapcase(), ALPHABET[ALPHABET.find(character) - 1], ".", "~"}
        altered = [head + other + tail for other in others - {character}]
        for other in (*altered, head, f"{head}A{character}{tail}"):
            assert refusal(other).code == "forged"


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "\u00e9" * 20, "\ud800", "A" * 10_000])
def test_what_never_was_a_token_is_refused(token: str) -> None:
    assert refusal(token).code == "forged"


def test_other_spellings_of_the_same_signature_are_refused() -> None:
    token = SIGNING.callback_token("acedata", TASK_ID)
    head, _, signature = token.rpartition(".")
    raw = urlsafe_b64decode(signature + "=")
    last = [
        signature[:-1] + character
        for character in ALPHABET
        if urlsafe_b64decode(signature[:-1] + character + "=") == raw
    ]

    assert len(last) == 4
    assert signature in last
    others = [*last, f"{signature}=", f"{signature}\n", f"!{signature}", f"{signature[:9]} "]
    for other in set(others) - {signature}:
        assert refusal(f"{head}.{other}").code == "forged"


def test_an_altered_picture_token_is_refused_and_one_kind_of_token_is_no_use_as_another() -> None:
    token = SIGNING.picture_token(Picture.THUMBNAIL, TASK_ID)
    altered = [
        token.replace("t.", "o.", 1),
        token[:-1],
        token + "=",
        token[:5] + ("0" if token[5] != "0" else "1") + token[6:],
        "",
        SIGNING.callback_token("acedata", TASK_ID),
    ]
    for other in altered:
        with pytest.raises(TokenError):
            SIGNING.read_picture_token(other)
    assert refusal(token).code == "forged"


def test_an_api_key_is_recognised_by_its_hash_under_any_key() -> None:
    api_key = new_api_key()
    stored = Signing([OLD], callback_max_age=60).hash_api_key(api_key)
    rotated = Signing([NEW, OLD], callback_max_age=60)

    assert stored in rotated.api_key_hashes(api_key)
    assert rotated.hash_api_key(api_key) == rotated.api_key_hashes(api_key)[0] != stored
    assert api_key not in stored


def test_api_keys_are_long_and_never_the_same() -> None:
    made = {new_api_key() for _ in range(100)}
    assert len(made) == 100
    assert all(key.startswith("pb_") and len(key) >= 46 for key in made)


def test_ids_sort_by_the_time_they_were_made() -> None:
    made = [new_id() for _ in range(1000)]
    assert made == sorted(made)
    assert {id_.version for id_ in made} == {7}
