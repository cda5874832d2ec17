"""A running sandbox without delay, a client of it and a receiver of its callbacks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from app.sandbox import Options, Sandbox
from tests.sandbox.client import Client
from tests.sandbox.receiver import Receiver, receiving


@pytest.fixture
def start() -> Iterator[Callable[..., Client]]:
    """Starts a sandbox with these options; gives a client of it."""
    with ExitStack() as stack:

        def start(**options: Any) -> Client:
            # One worker, so that what was submitted later is also called back later.
            given = {"port": 0, "delay": 0, "workers": 1, **options}
            client = Client(stack.enter_context(Sandbox(Options(**given))).url)
            stack.callback(client.pool.clear)
            return client

        yield start


@pytest.fixture
def client(start: Callable[..., Client]) -> Client:
    """A client of a sandbox of this test's own."""
    return start()


@pytest.fixture(scope="module")
def refusing() -> Iterator[Client]:
    """A client of a sandbox that many tests share, because it accepts nothing from them."""
    with Sandbox(Options(port=0, delay=0)) as sandbox:
        client = Client(sandbox.url)
        yield client
        client.pool.clear()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of callbacks."""
    with receiving() as receiver:
        yield receiver
