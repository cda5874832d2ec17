"""How a prompt asks for misbehaviour."""

import math
from pathlib import Path

import pytest

import app.sandbox
from app.sandbox.misbehaviours import CATALOG, Wishes, Word, limited, read

PACKAGE = Path(app.sandbox.__file__).parent


@pytest.mark.parametrize(
    ("prompt", "wishes", "rest"),
    [
        ("a cat", {}, "a cat"),
        ("a cat [late]", {Word.LATE: 30}, "a cat"),
        ("[late 0.5] a cat", {Word.LATE: 0.5}, "a cat"),
        ("a [LATE  5] cat", {Word.LATE: 5}, "a cat"),
        ("a cat [429 2]", {Word.ERROR_429: 2}, "a cat"),
        ("a cat [429]", {Word.ERROR_429: math.inf}, "a cat"),
        ("a cat [bare 500]", {Word.BARE_500: math.inf}, "a cat"),
        ("a cat [bare 500 1]", {Word.BARE_500: 1}, "a cat"),
        ("a cat [image 503 3]", {Word.IMAGE_503: 3}, "a cat"),
        ("[duplicate 3] cat [gzip]", {Word.DUPLICATE: 3, Word.GZIP: 1}, "cat"),
        ("[late 1] [late 2]", {Word.LATE: 2}, ""),
        ("a [red] cat [late x]", {}, "a [red] cat [late x]"),
        ("never a cat", {}, "never a cat"),
        ("[never 5] [late -1] [late 1e9]", {}, "[never 5] [late -1] [late 1e9]"),
        ("[[gzip]]", {Word.GZIP: 1}, "[]"),
        ("", {}, ""),
    ],
)
def test_brackets_are_read_and_taken_out(prompt: str, wishes: Wishes, rest: str) -> None:
    assert read(prompt) == (wishes, rest)


@pytest.mark.parametrize("word", Word)
def test_every_word_is_described_and_can_be_asked_for(word: Word) -> None:
    assert CATALOG[word].text
    assert read(f"a cat [{word}]") == ({word: CATALOG[word].default}, "a cat")


@pytest.mark.parametrize("word", Word)
def test_every_word_does_something(word: Word) -> None:
    code = [path for path in PACKAGE.rglob("*.py") if path.name != "misbehaviours.py"]

    assert any(f"Word.{word.name}" in path.read_text() for path in code)


def test_no_prompt_can_ask_for_too_much() -> None:
    assert read("[duplicate 999999]")[0] == {Word.DUPLICATE: 1000}
    assert limited(Word.HUGE, 999) == 400
    assert limited(Word.LATE, 5) == 5
