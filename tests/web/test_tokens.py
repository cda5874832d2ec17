"""Who may post a callback: only whoever was given the task's signed URL, and nothing is read before."""

import hashlib
import io
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from itsdangerous import TimestampSigner
from sqlalchemy import delete
from werkzeug.test import TestResponse

from app.models import Task, new_id
from app.services import Services
from app.signing import Picture
from tests.factories import SECRET_KEY, make_config, make_task, running, success
from tests.web.sites import ADDRESS, Site, error_of, json_of, open_site

TEN_GIGABYTES = "10737418240"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Past(TimestampSigner):
    """Signs as if it were a while ago."""

    def get_timestamp(self) -> int:
        return int(time.time()) - 3


class Unread(io.RawIOBase):
    """A body that nobody may read."""

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: object) -> int:
        raise AssertionError("the body was read")


def send(site: Site, token: str, *, length: str = "100", method: str = "POST") -> TestResponse:
    """Send a request whose body must not be read."""
    return site.send(method, f"/callbacks/{token}", Unread(), {"CONTENT_LENGTH": length})


def refused(response: TestResponse) -> None:
    error = error_of(response, 404)
    assert (error["code"], error["message"]) == ("not_found", "no such callback URL")


def token_of(site: Site, task: Task) -> str:
    return site.callback_path(task).removeprefix("/callbacks/")


def other_last_letters(token: str) -> list[str]:
    """The spellings of a token whose signature decodes to the same bytes."""
    position = ALPHABET.index(token[-1])
    assert position % 4 == 0
    return [token[:-1] + ALPHABET[position + bits] for bits in (1, 2, 3)]


ALTERED: dict[str, Callable[[str], list[str]]] = {
    "no token": lambda _: ["", "/", "."],
    "made up": lambda _: ["x", "acedata", "a" * 5000, "acedata.1.2", "ünïcode", "%00"],
    "other last letters": other_last_letters,
    "padded": lambda token: [token + "=", token + "==", token + ".", token + "/", token + " "],
    "a letter in between": lambda token: [token[:-5] + "!" + token[-5:], token[:-1] + "\n"],
    "another provider": lambda token: [token.replace("acedata", "agcloud")],
    "upper case": lambda token: [token.upper(), token.swapcase()],
    "cut": lambda token: [token[:-1], token.rpartition(".")[0], token.partition(".")[2]],
    "one letter other": lambda token: [
        f"{token[:at]}{'A' if token[at] != 'A' else 'B'}{token[at + 1 :]}"
        for at in range(len(token))
    ],
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_token_is_refused_and_nothing_is_read(sqlite_site: Site, what: str) -> None:
    task = make_task(sqlite_site.parts)
    for token in ALTERED[what](token_of(sqlite_site, task)):
        refused(send(sqlite_site, token))
    assert sqlite_site.look_up(task)["status"] == "queued"


def test_a_refused_token_is_in_the_rejection_log(site: Site) -> None:
    refused(send(site, "forged", length="1234567890"))

    (entry,) = site.rejections()
    assert entry["reason"] == "token: the callback URL was not signed here"
    assert entry["address"] == ADDRESS
    assert entry["bytes"] == 1_234_567_890
    assert (entry["task_id"], entry["sha256"]) == (None, None)
    assert site.get(f"/v1/callbacks/{entry['id']}/body").get_data() == b""


@pytest.mark.parametrize("length", [TEN_GIGABYTES, "9" * 30, "-1", "many", ""])
def test_whatever_size_is_declared_the_answer_is_the_same(site: Site, length: str) -> None:
    refused(send(site, "forged", length=length))


def test_a_declared_size_of_gigabytes_is_kept(site: Site) -> None:
    refused(send(site, "forged", length=TEN_GIGABYTES))

    (entry,) = site.rejections()
    assert entry["bytes"] == 10_737_418_240


def test_an_expired_token_is_refused_and_says_so_in_the_log(
    site_with: Callable[..., Site],
) -> None:
    site = site_with(callback_max_age="1s")
    task = make_task(site.parts)
    signer = Past(SECRET_KEY, salt="callback", key_derivation="hmac", digest_method=hashlib.sha256)

    refused(send(site, signer.sign(f"acedata.{task.id.hex}").decode()))
    (entry,) = site.rejections()
    assert entry["reason"] == "token: the callback URL has expired"


def test_a_task_that_is_gone_is_refused_and_nothing_is_read(site: Site) -> None:
    task = make_task(site.parts)
    token = token_of(site, task)
    with site.parts.db.transaction() as session:
        session.execute(delete(Task))

    refused(send(site, token))
    (entry,) = site.rejections()
    assert entry["reason"] == f"task {task.id} is gone"
    assert entry["bytes"] == 100


def test_a_token_for_another_provider_of_a_task_is_refused(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    token = sqlite_site.parts.signing.callback_token("agcloud", task.id)

    refused(send(sqlite_site, token))


def test_a_token_for_a_picture_is_refused(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    refused(send(sqlite_site, sqlite_site.parts.signing.picture_token(Picture.OUTPUT, task.id)))


def test_a_flood_of_forged_tokens_does_not_fill_the_log(sqlite_site: Site) -> None:
    for _ in range(300):
        refused(send(sqlite_site, str(new_id())))

    # Ten in each second that the flood takes.
    assert 10 <= len(sqlite_site.callbacks(verdict="rejected", limit="100")) <= 60


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_post_is_allowed(sqlite_site: Site, method: str) -> None:
    task = make_task(sqlite_site.parts)
    response = send(sqlite_site, token_of(sqlite_site, task), method=method)

    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"
    assert sqlite_site.rejections() == []
    if method != "HEAD":
        error = error_of(response, 405)
        assert error["code"] == "method_not_allowed"
        assert method in error["message"]


def test_a_token_of_an_earlier_key_is_valid_as_long_as_that_key_is_named(
    sqlite_url: str, tmp_path: Path
) -> None:
    new = "another secret key, which is newer"
    with running(make_config(sqlite_url, tmp_path)) as parts:
        task = make_task(parts)
        token = parts.signing.callback_token("acedata", task.id)
    with rotated(sqlite_url, tmp_path, new, "") as parts, open_site(parts) as site:
        refused(send(site, token))
    with rotated(sqlite_url, tmp_path, new, SECRET_KEY) as parts, open_site(parts) as site:
        response = site.client.post(f"/callbacks/{token}", json=success())
        assert json_of(response) == {"status": "accepted", "task_id": str(task.id)}


def rotated(url: str, folder: Path, key: str, fallbacks: str) -> AbstractContextManager[Services]:
    return running(make_config(url, folder, secret_key=key, secret_key_fallbacks=fallbacks))
