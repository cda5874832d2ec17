"""People in front of a browser, and what they must never see."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

from tests.browser.houses import House

# It runs in containers, and calls nobody by itself.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
WIDTHS = {"desktop": (1440, 900), "phone": (390, 844)}
# Nothing here takes longer, busy as the machine may be.
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def started_browser() -> Iterator[Browser]:
    """A browser of the machine's own."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    assert executable, "there is no chromium here: `make chromium` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


class Visitors:
    """Opens pages of `house`, and watches what happens in them."""

    # Cookies of who has signed in, by service and key: the form itself has a test of its own.
    _sessions: dict[tuple[str, str], Any] = {}  # noqa: RUF012 - shared on purpose

    def __init__(self, browser: Browser, house: House) -> None:
        self.house = house
        self.expected: list[str] = []
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._troubles: list[str] = []

    @contextmanager
    def watching(self) -> Iterator["Visitors"]:
        """Afterwards the pages are closed, and there must have been no trouble."""
        try:
            yield self
        finally:
            for context in self._contexts:
                context.close()
        unexpected = [
            trouble
            for trouble in self._troubles
            if not any(word in trouble for word in self.expected)
        ]
        assert not unexpected, unexpected

    def visit(
        self,
        path: str = "/",
        *,
        key: str | None = "admin",
        size: str = "desktop",
        scheme: Any = "light",
        scripts: bool = True,
    ) -> Page:
        """A page in a window of its own; `key` is whose, None for nobody's."""
        width, height = WIDTHS[size]
        context = self._browser.new_context(
            base_url=self.house.url,
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            java_script_enabled=scripts,
            storage_state=self._session(key) if key else None,
        )
        context.set_default_timeout(PATIENCE_MS)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._troubles.append(f"error: {error}"))
        page.on("request", self._on_request)
        page.goto(path)
        return page

    def _session(self, key: str) -> Any:
        name = (self.house.url, key)
        if name not in self._sessions:
            page = self.visit("/login", key=None)
            sign_in(page, getattr(self.house, key))
            self._sessions[name] = page.context.storage_state()
        return self._sessions[name]

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self._troubles.append(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self.house.url, "data:", "blob:")):
            self._troubles.append(f"another origin: {urlsplit(request.url).netloc}")


def sign_in(page: Page, api_key: str) -> None:
    """Fill in the form, and wait for the page that it leads to."""
    page.get_by_label("API key").fill(api_key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "/login" not in url)


def sideways(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(page.evaluate(wider))
