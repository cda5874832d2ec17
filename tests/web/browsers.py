"""Somebody who looks at the pages."""

import re

from werkzeug.test import Client, TestResponse

from tests.web.sites import Site


class Browser:
    """Somebody with cookies."""

    def __init__(self, site: Site) -> None:
        self.client: Client = site.new_client()

    def get(self, path: str) -> TestResponse:
        return self.client.get(path)

    def token(self, path: str = "/login") -> str:
        """The CSRF token of the first form on a page."""
        found = re.search(
            r'name="csrf_token" value="([^"]+)"', self.get(path).get_data(as_text=True)
        )
        assert found
        return found[1]

    def sign_in(self, api_key: str, **fields: str) -> TestResponse:
        form = {"csrf_token": self.token(), "api_key": api_key, **fields}
        return self.client.post("/login", data=form)
