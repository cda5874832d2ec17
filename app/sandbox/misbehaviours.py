"""What the sandbox does wrong on request: the words for it in a prompt, one option for each."""

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from typing import NamedTuple

MEGABYTE = 1_000_000


class Word(StrEnum):
    """What stands in brackets in a prompt, as in `[late 5]`; the option is `--late 5`."""

    ERROR_429 = "429"
    ERROR_500 = "500"
    BARE_500 = "bare 500"
    ERROR_504 = "504"
    HANG_UP_BEFORE = "hang up before"
    HANG_UP_AFTER = "hang up after"
    SLOW_ANSWER = "slow answer"

    FORBIDDEN = "forbidden"
    PARTIAL = "partial"
    BASE64 = "base64"
    HUGE = "huge"
    IMAGE_URL = "image_url"
    LINKS = "links"

    CUT_STREAM = "cut stream"
    BROKEN_STREAM = "broken stream"
    STREAM_ERROR = "stream error"
    BAD_PARTIAL = "bad partial"
    NO_DONE = "no done"

    LATE = "late"
    EARLY = "early"
    NEVER = "never"
    DUPLICATE = "duplicate"
    CONCURRENT = "concurrent"
    SUCCESS_THEN_FAILURE = "success then failure"
    FAILURE_THEN_SUCCESS = "failure then success"
    TWO_SUCCESSES = "two successes"
    FORGED = "forged"
    WRONG_ID = "wrong id"
    TRUNCATED_JSON = "truncated json"
    EMPTY = "empty"
    CHUNKED = "chunked"
    GZIP = "gzip"

    BOMB = "bomb"
    BIG_IMAGE = "big image"
    TRUNCATED_PNG = "truncated png"
    NOT_AN_IMAGE = "not an image"
    WRONG_TYPE = "wrong type"
    SLOW_IMAGE = "slow image"
    PRIVATE_REDIRECT = "private redirect"
    REDIRECT = "redirect"
    IMAGE_404 = "image 404"
    IMAGE_503 = "image 503"

    @property
    def option(self) -> str:
        """The option that asks for this misbehaviour in every task."""
        return "--" + re.sub(r"[ _]", "-", self.value)


class Stage(StrEnum):
    """When it happens; the headings of the help text."""

    SUBMIT = "The answer to a submission"
    RESULT = "The result"
    STREAM = "The stream (AGCloud)"
    CALLBACK = "The callback (Ace Data Cloud)"
    IMAGE = "The image and its host"


class Misbehaviour(NamedTuple):
    """One thing that the sandbox does wrong; `text` says what, `{}` in it is the number."""

    stage: Stage
    text: str
    number: str = ""
    default: float = 1
    maximum: float = math.inf


# Which misbehaviours are asked for, each with its number.
Wishes = Mapping[Word, float]


_submit = partial(Misbehaviour, Stage.SUBMIT, number="K", default=math.inf)
_result = partial(Misbehaviour, Stage.RESULT)
_stream = partial(Misbehaviour, Stage.STREAM)
_callback = partial(Misbehaviour, Stage.CALLBACK)
_image = partial(Misbehaviour, Stage.IMAGE)

CATALOG: Mapping[Word, Misbehaviour] = {
    Word.ERROR_429: _submit("429 with Retry-After: 1; nothing is accepted"),
    Word.ERROR_500: _submit("500 with the provider's error; nothing is accepted"),
    Word.BARE_500: _submit("500 with an HTML page; nothing is accepted"),
    Word.ERROR_504: _submit("504, but the task is accepted and done"),
    Word.HANG_UP_BEFORE: _submit("the connection is cut; nothing is accepted"),
    Word.HANG_UP_AFTER: _submit("the connection is cut, but the task is accepted and done"),
    Word.SLOW_ANSWER: Misbehaviour(
        Stage.SUBMIT,
        "N seconds after the task is accepted or, by AGCloud, done ({})",
        "N",
        30,
        86400,
    ),
    Word.FORBIDDEN: _result("moderation refuses: a failure, code forbidden"),
    Word.PARTIAL: _result("only N images of those asked for; without N one fewer", "N", math.inf),
    Word.BASE64: _result("images in base64 instead of links (Ace Data Cloud)"),
    Word.HUGE: _result("N megabytes of JSON, a valid base64 image in it ({})", "N", 20, 400),
    Word.IMAGE_URL: _result("image_url at the top level instead of data (Ace Data Cloud)"),
    Word.LINKS: _result("links instead of base64 (AGCloud, which gives base64)"),
    Word.CUT_STREAM: _stream("it ends after the partial images"),
    Word.BROKEN_STREAM: _stream("the connection is cut after the partial images"),
    Word.STREAM_ERROR: _stream("an error comes after the partial images"),
    Word.BAD_PARTIAL: _stream("partial images that are none"),
    Word.NO_DONE: _stream("it ends without data: [DONE]"),
    Word.LATE: _callback("N seconds after the work is done ({})", "N", 30, 86400),
    Word.EARLY: _callback("before the submission is answered"),
    Word.NEVER: _callback("not at all; the lookup knows the result"),
    Word.DUPLICATE: _callback("N times, one after the other ({})", "N", 2, 1000),
    Word.CONCURRENT: _callback("N times at once ({})", "N", 10, 200),
    Word.SUCCESS_THEN_FAILURE: _callback("a success, then a failure"),
    Word.FAILURE_THEN_SUCCESS: _callback("a failure, then a success"),
    Word.TWO_SUCCESSES: _callback("a success, then one with other images"),
    Word.FORGED: _callback("to the callback URL with its token altered"),
    Word.WRONG_ID: _callback("with a task_id that is no task's"),
    Word.TRUNCATED_JSON: _callback("only the first half of the body"),
    Word.EMPTY: _callback("without a body"),
    Word.CHUNKED: _callback("with Transfer-Encoding: chunked"),
    Word.GZIP: _callback("with Content-Encoding: gzip"),
    Word.BOMB: _image("a small PNG that unpacks to 900 million pixels"),
    Word.BIG_IMAGE: _image("a PNG file of N megabytes ({})", "N", 60, 300),
    Word.TRUNCATED_PNG: _image("only the first half of the file"),
    Word.NOT_AN_IMAGE: _image("an HTML page that says it is an image"),
    Word.WRONG_TYPE: _image("the right image with Content-Type: text/plain"),
    Word.SLOW_IMAGE: _image("the file drips in over N seconds ({})", "N", 30, 86400),
    Word.PRIVATE_REDIRECT: _image("the link redirects to the --private-url"),
    Word.REDIRECT: _image("the link redirects N times, then to the image ({})", "N", 1, 100),
    Word.IMAGE_404: _image("the link leads nowhere"),
    Word.IMAGE_503: _image("503 for the first K requests, then the image ({})", "K", 1),
}

_WORDS = {word.value: word for word in Word}
_BRACKETS = re.compile(r"\s*\[([^\[\]]{1,40})\]")
_NUMBER = re.compile(r"\d+(\.\d+)?")


def read(prompt: str) -> tuple[Wishes, str]:
    """What `prompt` asks for in brackets, and the prompt without that; other brackets stay."""
    wishes: dict[Word, float] = {}

    def take(match: re.Match[str]) -> str:
        wish = _parse(match[1])
        wishes.update(wish)
        return "" if wish else match[0]

    rest = _BRACKETS.sub(take, prompt).strip()
    return wishes, rest


def limited(word: Word, number: float) -> float:
    """The number, at most what `word` allows: no prompt may fill the disk or call for ever."""
    return min(number, CATALOG[word].maximum)


def _parse(text: str) -> Wishes:
    text = " ".join(text.lower().split())
    # The whole text first: the number in "bare 500" belongs to the word.
    if word := _WORDS.get(text):
        return {word: CATALOG[word].default}
    name, _, number = text.rpartition(" ")
    word = _WORDS.get(name)
    if word and CATALOG[word].number and _NUMBER.fullmatch(number):
        return {word: limited(word, float(number))}
    return {}
