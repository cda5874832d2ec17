"""Conditions of requests for what has an `ETag`."""

import pytest

from tests.factories import make_task
from tests.web.sites import Site

OTHER = '"another"'
LONG_AGO = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.fixture(params=["task", "picture", "asset"])
def path(request: pytest.FixtureRequest, sqlite_site: Site) -> str:
    """Where something with an `ETag` is."""
    task = make_task(sqlite_site.parts)
    sqlite_site.finish(task)
    (image,) = sqlite_site.look_up(task)["images"]
    public_url = sqlite_site.parts.config.public_url
    paths = {
        "task": f"/v1/tasks/{task.id}",
        "picture": str(image["url"]).removeprefix(public_url),
        "asset": "/static/style.css",
    }
    return paths[request.param]


def test_conditions_that_are_for_changes_do_not_count(sqlite_site: Site, path: str) -> None:
    whole = sqlite_site.get(path)
    tag = whole.headers["ETag"]

    for conditions in ({"If-Match": OTHER}, {"If-Unmodified-Since": LONG_AGO}):
        response = sqlite_site.get(path, headers=conditions)
        assert (response.status_code, response.get_data()) == (200, whole.get_data())
    for changed in (tag, OTHER):
        known = sqlite_site.get(path, headers={"If-Match": changed, "If-None-Match": tag})
        assert (known.status_code, known.get_data()) == (304, b"")
