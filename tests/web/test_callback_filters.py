"""Both ids of a task name it, for its callbacks too."""

import pytest

from tests.factories import make_task, success
from tests.web.sites import Site


@pytest.mark.parametrize(("named", "count"), [("theirs", 1), ("nobody's", 0)])
def test_callbacks_are_found_by_the_providers_id(site: Site, named: str, count: int) -> None:
    site.post_back(make_task(site.parts), success(task_id="theirs"))
    site.post_back(make_task(site.parts), success())

    assert len(site.callbacks(task_id=named)) == count
