"""Waiting for what must happen: it is looked for again and again, and never slept for."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

# Longer than anything takes here, also on a machine that is busy.
PATIENCE = 60.0
# Between two looks: they get rarer, because they cost what is looked at.
FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.15


def until(look: Callable[[], T], what: object, seconds: float = PATIENCE) -> T:
    """What `look` gives once that is true; else the test fails and tells what did not happen.

    `what` is made a text only then: it may hold what was seen last.
    """
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)
        pause = min(1.2 * pause, LONGEST_PAUSE)
    return found


def at_once(function: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
    """What `map` gives, with all calls at the same time: they do little but wait."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(function, *arguments))
