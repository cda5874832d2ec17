"""A real browser in front of a running service with the sandbox; all tests here share them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.houses import House, house
from tests.browser.visitors import Visitors, started_browser
from tests.servers.service import Sandbox, running


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """The browser."""
    with started_browser() as browser:
        yield browser


@pytest.fixture(scope="package")
def browser_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The pretend provider."""
    with running(Sandbox([], tmp_path_factory.mktemp("browser") / "sandbox")) as sandbox:
        yield sandbox


@pytest.fixture(scope="package")
def slow_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A pretend AGCloud that can be watched at its work."""
    folder = tmp_path_factory.mktemp("browser") / "slow"
    with running(Sandbox(["--delay", "4"], folder)) as sandbox:
        yield sandbox


@pytest.fixture(scope="package")
def lived_in(
    browser_sandbox: Sandbox,
    slow_sandbox: Sandbox,
    migrated_sqlite: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    """A service that all tests use; what one leaves there the others see."""
    folder = tmp_path_factory.mktemp("house")
    with house(
        browser_sandbox, migrated_sqlite, folder, AGCLOUD_BASE_URL=slow_sandbox.url
    ) as built:
        yield built


@pytest.fixture
def visitors(chromium: Browser, lived_in: House) -> Iterator[Visitors]:
    """Who looks at the pages: nobody of them sees an error, or calls another host."""
    with Visitors(chromium, lived_in).watching() as watched:
        yield watched


@pytest.fixture
def visit(visitors: Visitors) -> Callable[..., Page]:
    """Opens a page of the service as somebody who has signed in."""
    return visitors.visit
