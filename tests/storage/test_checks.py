"""A check is over in time, even when what it looks at is not."""

import threading
import time
from collections.abc import Iterator

import pytest

from app.errors import StorageError
from app.storage.checks import BoundedCheck
from tests.factories import eventually
from tests.scarcity import no_more_threads


class Probe:
    """Hangs until it is released, and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.released = threading.Event()
        self.ended = threading.Event()

    def __call__(self) -> None:
        self.begun += 1
        self.released.wait()
        self.ended.set()


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.released.set()


def test_what_the_probe_raises_is_raised_and_nothing_else() -> None:
    def refuse() -> None:
        raise StorageError("refused")

    BoundedCheck(lambda: None, seconds=5)()
    check = BoundedCheck(refuse, seconds=5)
    for _ in range(2):
        with pytest.raises(StorageError, match="refused"):
            check()


def test_a_probe_that_hangs_fails_in_time_and_costs_one_thread(probe: Probe) -> None:
    check = BoundedCheck(probe, seconds=0.1)
    start = time.monotonic()
    for _ in range(3):
        with pytest.raises(StorageError, match=r"did not answer within 0\.1 s"):
            check()
    assert time.monotonic() - start < 5
    assert probe.begun == 1


def test_after_a_probe_that_hung_the_next_one_is_a_new_one(probe: Probe) -> None:
    check = BoundedCheck(probe, seconds=0.1)
    with pytest.raises(StorageError):
        check()
    probe.released.set()
    assert probe.ended.wait(5)

    def begun_again() -> bool:
        check()
        return probe.begun == 2

    eventually(begun_again, seconds=5)


def test_after_a_probe_that_could_not_be_begun_the_next_one_is_a_new_one(probe: Probe) -> None:
    check = BoundedCheck(probe, seconds=5)
    with no_more_threads(), pytest.raises(RuntimeError):
        check()
    probe.released.set()
    check()
