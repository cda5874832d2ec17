"""Uploaded files: into storage all or none, and at hand when they are sent."""

import io
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, BinaryIO

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from app import edits, retention, uploads
from app.errors import MissingObjectError, StorageError
from app.jobs import Kind
from app.models import Role, Task, new_id
from app.providers.base import File
from app.providers.rules import facts_of
from app.services import Services
from app.storage.local import LocalStorage
from app.uploads import Upload
from tests.core.sites import Site, json_answer
from tests.factories import PUBLIC_URL, fail_next, get_task, make_task, png, run_next, timeline


def upload(role: Role, data: bytes) -> Upload:
    return Upload(role, io.BytesIO(data), facts_of(io.BytesIO(data), len(data)), "")


RED, BLUE = png(8, 8, "red"), png(8, 8, "blue")


class Small(LocalStorage):
    """Has room for one file, and is down when that shall go again."""

    def put(self, key: str, file: BinaryIO, content_type: str) -> None:
        if "image-1" in key:
            raise StorageError("full")
        super().put(key, file, content_type)

    def delete(self, keys: Iterable[str]) -> None:
        raise StorageError(f"down by now, {list(keys)} stay")


def test_what_does_not_fit_as_a_whole_is_taken_out_again_once_that_can_be_done(
    sqlite_parts: Services,
) -> None:
    small = replace(sqlite_parts, storage=Small(sqlite_parts.config.local_storage_dir))
    both, id_ = [upload(Role.IMAGE, RED), upload(Role.IMAGE, BLUE)], new_id()

    with pytest.raises(StorageError, match="full"), uploads.stored(small, id_, both):
        pass
    sqlite_parts.storage.open(f"inputs/{id_}/image-0.png").close()
    retention.purge(sqlite_parts)
    with pytest.raises(MissingObjectError):
        sqlite_parts.storage.open(f"inputs/{id_}/image-0.png")


def test_what_its_task_was_not_made_for_is_taken_out_again(sqlite_parts: Services) -> None:
    def fail() -> None:
        with uploads.stored(sqlite_parts, new_id(), [upload(Role.IMAGE, RED)]) as rows:
            keys.append(str(rows[0].key))
            sqlite_parts.storage.open(keys[0]).close()
            raise ZeroDivisionError

    keys: list[str] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(MissingObjectError):
        sqlite_parts.storage.open(keys[0])


def test_many_large_files_may_take_their_time_to_the_provider() -> None:
    large = File("image", "a", "image/png", 50 * 2**20, io.BytesIO)
    assert edits.limits_for(()).total == 180
    assert edits.limits_for((large,) * 16).total == 180 + 1600


def test_files_are_fetched_before_any_is_sent(sqlite_parts: Services) -> None:
    parts = sqlite_parts
    given = [upload(Role.IMAGE, RED), upload(Role.IMAGE, BLUE), upload(Role.MASK, RED)]
    with uploads.stored(parts, new_id(), given) as rows:
        pass
    with uploads.at_hand(parts, rows) as files:
        assert [(each.field, each.name, each.content_type, each.size) for each in files] == [
            ("image", "image-0.png", "image/png", len(RED)),
            ("image", "image-1.png", "image/png", len(BLUE)),
            ("mask", "mask-0.png", "image/png", len(RED)),
        ]
        parts.storage.delete(str(row.key) for row in rows)
        for each, data in zip(files, (RED, BLUE, RED), strict=True):
            with each.open() as stream:
                assert stream.read() == data
    with pytest.raises(MissingObjectError), uploads.at_hand(parts, rows):
        pass
    with pytest.raises(ValueError, match="closed file"):
        files[0].open()


def make_task_with_files(parts: Services, **fields: Any) -> Task:
    """A task whose image and mask are in storage."""
    task = make_task(parts, image=None, **fields)
    given = [upload(Role.IMAGE, RED), upload(Role.IMAGE, BLUE), upload(Role.MASK, RED)]
    with uploads.stored(parts, task.id, given) as rows, parts.db.transaction() as session:
        session.add_all(rows)
    return task


def test_an_edit_with_files_is_sent_as_a_form(linked: Services, acedata: Site) -> None:
    acedata.replies["/openai/images/edits"] = json_answer({"success": True, "task_id": "theirs"})
    task = make_task_with_files(
        linked, n=2, metadata={"a": "b"}, stream=True, partial_images=2, x=1.5
    )

    run_next(linked, Kind.SUBMIT)

    (asked,) = acedata.asked("/openai/images/edits")
    builder = EnvironBuilder(
        data=asked.body, content_type=asked.headers["Content-Type"], method="POST"
    )
    with Request(builder.get_environ()) as request:
        form = request.form.to_dict()
        callback_url = form.pop("callback_url")
        # How we answer our own caller is not the provider's business.
        assert form == {
            "prompt": "make it sepia", "model": "gpt-image-2", "n": "2", "x": "1.5",
            "trace_id": str(task.id),
        }  # fmt: skip
        assert callback_url.startswith(f"{PUBLIC_URL}/callbacks/")
        assert [image.read() for image in request.files.getlist("image")] == [RED, BLUE]
        assert request.files["mask"].read() == RED
    assert asked.headers["Authorization"] == "Bearer our key at acedata"
    assert get_task(linked, task.id).provider_task_id == "theirs"


class Down(LocalStorage):
    def open(self, key: str) -> BinaryIO:
        raise StorageError(f"cannot read {key}")


def test_storage_in_trouble_leaves_no_doubt_about_what_was_sent(
    linked: Services, acedata: Site
) -> None:
    task = make_task_with_files(linked)
    down = replace(linked, storage=Down(linked.config.local_storage_dir))

    for _ in range(3):
        assert isinstance(fail_next(down, Kind.SUBMIT), StorageError)
    assert (get_task(linked, task.id).status, timeline(linked, task)) == ("queued", ["created"])

    linked.storage.delete(
        f"inputs/{task.id}/{name}.png" for name in ("image-0", "image-1", "mask-0")
    )
    fail_next(linked, Kind.SUBMIT)
    assert get_task(linked, task.id).status == "failed"
    assert acedata.asked("/openai/images/edits") == []
