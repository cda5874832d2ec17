"""Searching prompts: words of any script, nothing that is a mistake, kept right by the database."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text, update

from app import reports, search
from app.models import Prompt, Task
from app.reports import TaskFilter, pages
from app.services import Services
from tests.factories import make_task

# As if all that is sought were rare: the indexes have to find it.
Finder = Callable[[str], list[UUID]]


@pytest.fixture(params=["newest", "indexes"])
def found(request: pytest.FixtureRequest, parts: Services) -> Finder:
    """What a search finds, on each of its two ways."""
    newest = 3000 if request.param == "newest" else 1

    def find(q: str) -> list[UUID]:
        with parts.db.reading() as session:
            page = pages.page_of_ids(session, TaskFilter(q=q), limit=50, before=None, newest=newest)
        return list(page[0])

    return find


@pytest.mark.parametrize(
    ("prompt", "q"),
    [
        ("Make the SKY darker", "sky"),
        ("Make the SKY darker", "dark make"),
        ("a cat, two dogs", "DOGS a"),
        ("100% grass_green!", "grass_"),
        ("Ein Hund in der Stra\u00dfe", "STRASSE"),
        ("caf\u00e9 cre\u0300me", "cafe\u0301"),
        ("\u041a\u043e\u0448\u043a\u0430 \u0438 \u043f\u0451\u0441", "\u043a\u043e\u0448 \u043f\u0451"),
        ("\u732b\u3092\u6c34\u5f69\u753b\u306b\u3059\u308b", "\u6c34\u5f69\u753b"),
        ("\u628a\u732b\u53d8\u6210\u6c34\u5f69", "\u628a\u732b\u53d8\u6210\u6c34\u5f69"),
        ("\uace0\uc591\uc774\ub97c \uadf8\ub824", "\uace0\uc591\uc774"),
        ("\u0e41\u0e21\u0e27\u0e2a\u0e35\u0e14\u0e33", "\u0e2a\u0e35"),
        ("party \U0001f973 hat", "\U0001f973"),
        ('she said "no*" AND (left)', '"no*" AND (left'),
        ("w" * 32_000, "w" * 3000),
        ("x " * 9000 + "the end", "end"),
    ],
)  # fmt: skip
def test_a_prompt_is_found_by_its_words(
    parts: Services, found: Finder, prompt: str, q: str
) -> None:
    make_task(parts, prompt="something else")
    task = make_task(parts, prompt=prompt)
    assert found(q) == [task.id]


HOSTILE = [
    '"', "'", "\\", "%", "*", 'a*b"c', "NEAR(a b)", "a AND", "OR", "words:x", "^x", "-x", "{a b}: c",
    "\x00", "\ud800", "a\x00b", "'; DROP TABLE tasks; --", "&|!:*<->()", "\U0001f4a9", "\u202e",
    "z" * 32_000, "q " * 16_000, " ".join(map(str, range(5000))), "\ufdfa" * 32_000,
]  # fmt: skip


def test_whatever_is_sought_or_stored_is_text(parts: Services, found: Finder) -> None:
    for q in HOSTILE:
        found(q)
        make_task(parts, prompt=q)
    task = make_task(parts, prompt="plain")
    for q in HOSTILE:
        assert task.id not in found(q)


def test_words_go_and_change_with_their_task(parts: Services, found: Finder) -> None:
    first, second = make_task(parts, prompt="first kept"), make_task(parts, prompt="second kept")
    with parts.db.transaction() as session:
        session.execute(update(Task).where(Task.id == first.id).values(status="failed"))
        changed = update(Prompt).where(Prompt.task_id == first.id)
        session.execute(changed.values(words=search.words_of("changed kept")))
        session.delete(session.get_one(Task, second.id))

    assert (found("first"), found("second")) == ([], [])
    assert found("changed") == found("kept") == [first.id]
    with parts.db.reading() as session:
        assert session.scalars(select(Prompt.task_id)).all() == [first.id]
        if parts.db.sqlite:
            # Raises when the index is not what the table says.
            check = "INSERT INTO prompts_fts(prompts_fts, rank) VALUES ('integrity-check', 1)"
            session.execute(text(check))


def test_what_is_found_follows_the_other_filters_and_the_pages(
    parts: Services, found: Finder
) -> None:
    del found
    tasks = [make_task(parts, prompt="a cat", model=f"m{number % 2}") for number in range(6)]
    ids = [task.id for task in tasks[::-1]]

    def page(before: UUID | None, newest: int, **wanted: Any) -> tuple[list[UUID], UUID | None]:
        with parts.db.reading() as session:
            rows, following = pages.page_of_ids(
                session, TaskFilter(q="cat", **wanted), limit=2, before=before, newest=newest
            )
        return list(rows), following

    for newest in (1, 2, 3, 3000):
        first, following = page(None, newest)
        second, following = page(following, newest)
        third, last = page(following, newest)
        assert first + second + third == ids
        assert last is None
        assert page(None, newest, model="m1")[0] == [ids[0], ids[2]]
        assert page(ids[0], newest, model="m1", provider="acedata")[0] == [ids[2], ids[4]]
        assert page(None, newest, model="m1", status="failed") == ([], None)


def test_the_values_to_choose_from_are_those_that_there_are(parts: Services) -> None:
    with parts.db.reading() as session:
        assert reports.choices(session, Task.model) == []
    for model in ("b", "a", None, "b"):
        make_task(parts, model=model)
    with parts.db.reading() as session:
        assert reports.choices(session, Task.model) == ["a", "b"]
        assert reports.choices(session, Task.provider) == ["acedata"]
