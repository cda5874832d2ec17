"""How the pages write times, durations, sizes and counts."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from app.models import Role

# From how many seconds on which unit is used, and its letter.
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_SIZES = ("bytes", "KiB", "MiB", "GiB")
LONGEST_IN_LIST = 240
# How what came in did so.
_SOURCES = {
    "callback": "posted by the provider",
    "response": "in the answer to our call",
    "lookup": "in its answer to our question",
}
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")
# An en dash, where there is nothing to say.
NONE = "\u2013"


def moment(value: str | datetime) -> datetime:
    """A time as the API writes it, or one already read."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def stamp(value: str | datetime) -> str:
    """For programs: RFC 3339 with milliseconds."""
    return moment(value).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def absolute(value: str | datetime) -> str:
    """For people who want to know exactly."""
    return f"{moment(value).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def clock(value: str | datetime) -> str:
    """The time of day, to the millisecond."""
    at = moment(value).astimezone(UTC)
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"


def relative(value: str | datetime) -> str:
    """How long ago, or until then."""
    seconds = (datetime.now(UTC) - moment(value)).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{_coarse(seconds)} ago" if seconds > 0 else f"in {_coarse(-seconds)}"


def seconds_since(value: str | datetime, until: str | datetime | None = None) -> float:
    """Seconds from one time to another, or until now."""
    end = moment(until) if until else datetime.now(UTC)
    return (end - moment(value)).total_seconds()


def duration(seconds: float | None) -> str:
    """As short as it can be told apart: 340 ms, 4.2 s, 3 min 12 s, 2 h 5 min."""
    if seconds is None:
        return NONE
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def size(count: int | None) -> str:
    """How much a number of bytes is."""
    if count is None:
        return NONE
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(_SIZES) - 1:
        amount, unit = amount / 1024, unit + 1
    return (
        f"{amount:.0f} {_SIZES[unit]}"
        if unit == 0 or amount >= 100
        else f"{amount:.1f} {_SIZES[unit]}"
    )


def number(value: int) -> str:
    """With thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def plural(count: int, word: str, words: str = "") -> str:
    """`1 image`, `2 images`."""
    return f"{number(count)} {word if count == 1 else words or word + 's'}"


def percent(share: float | None) -> str:
    """A share of one; never rounded up to all, nor down to nothing."""
    if share is None:
        return NONE
    if 0.995 < share < 1:
        return f"{min(share * 100, 99.9):.1f} %"
    return f"{share * 100:.0f} %" if share == 0 or share >= 0.01 else "< 1 %"


def input_name(item: Mapping[str, Any]) -> str:
    """What an input is called: by what it is for, else by the field that it came under."""
    number = item["index"] + 1
    names = {Role.IMAGE: f"Input {number}", Role.MASK: "Mask"}
    return names.get(item["role"], f"{item['role']} {number}")


def clip(text: str, length: int = LONGEST_IN_LIST) -> str:
    """The beginning of a text that may be of any length."""
    return text if len(text) <= length else text[:length].rstrip() + "…"


def unturned(text: str) -> str:
    """For what stands in a sentence of ours: without the marks that could turn round what follows.

    Isolating it is not enough: what it opens and leaves open, it ends in place of itself.
    """
    return _TURNS.sub("", text)


def source(word: str) -> str:
    """How something came in."""
    return _SOURCES.get(word, word)


def sentence(text: str) -> str:
    """An error's words as a sentence."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def host(url: str | None) -> str:
    """Whose an address is, without the secrets that its path may hold."""
    try:
        return urlsplit(url or "").netloc.rpartition("@")[2] or "no host"
    except ValueError:
        return "no host"


def pretty(value: Any) -> str:
    """JSON for people: their own letters, two blanks for each level."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _coarse(seconds: float) -> str:
    whole = int(seconds)
    for length, unit in _UNITS:
        if whole >= length:
            return f"{whole // length} {unit}"
    return "1 s"


FILTERS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        absolute, clip, clock, duration, host, input_name, number, percent, plural, pretty, relative,
        seconds_since, sentence, size, source, stamp, unturned,
    )
}  # fmt: skip
