"""How a prompt asks for misbehaviour."""

import math

import pytest

from app.sandbox.misbehaviours import CATALOG, Wishes, Word, limited, read


@pytest.mark.parametrize(
    ("prompt", "wishes", "rest"),
    [
        ("a cat", {}, "a cat"),
        ("a cat [late]", {Word.LATE: 30}, "a cat"),
        ("[late 0.5] a cat", {Word.LATE: 0.5}, "a cat"),
        ("a [LATE  5] cat", {Word.LATE: 5}, "a cat"),
        ("a cat [429]", {Word.ERROR_429: math.inf}, "a cat"),
        ("a cat [bare 500 1]", {Word.BARE_500: 1}, "a cat"),
        ("[duplicate 3] cat [gzip]", {Word.DUPLICATE: 3, Word.GZIP: 1}, "cat"),
        ("[late 1] [late 2]", {Word.LATE: 2}, ""),
        ("a [red] cat [late x]", {}, "a [red] cat [late x]"),
        ("never a cat", {}, "never a cat"),
        ("[never 5] [late -1] [late 1e9]", {}, "[never 5] [late -1] [late 1e9]"),
        ("[[gzip]]", {Word.GZIP: 1}, "[]"),
        ("[duplicate 999999]", {Word.DUPLICATE: 1000}, ""),
        *((f"a cat [{word}]", {word: CATALOG[word].default}, "a cat") for word in Word),
    ],
)
def test_brackets_are_read_and_taken_out(prompt: str, wishes: Wishes, rest: str) -> None:
    assert read(prompt) == (wishes, rest)


def test_no_option_can_ask_for_too_much() -> None:
    assert (limited(Word.HUGE, 999), limited(Word.LATE, 5)) == (400, 5)
