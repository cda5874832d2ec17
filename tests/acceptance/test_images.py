"""Images as they should not be: huge, broken, dangerous, no images at all."""

import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
import urllib3

from tests.acceptance.sites import Site, assert_done_once, events_of
from tests.servers.service import running

MEBIBYTE = 2**20

# What is submitted, all at once, and the error that it comes to.
BROKEN: Mapping[str, str] = {
    "[bomb]": "too_many_pixels",
    "[not an image]": "not_an_image",
    "[truncated png]": "truncated_image",
    "[private redirect]": "blocked_address",
    "[image 404]": "image_unavailable",
}


@pytest.mark.parametrize("place", ["postgresql-s3"])
def test_large_images_need_little_memory(site: Site, figures: list[str]) -> None:
    with running(site.worker()) as worker:
        # What every image needs is there already.
        assert_done_once(site, site.submit("mirror"))
        for prompt in ("[big image 60]", "[huge 60]"):
            of_web = [Memory(child.pid) for child in site.front.process.children()]
            of_worker = Memory(worker.process.pid)
            task = assert_done_once(site, site.submit(prompt))

            grown = of_worker.grown()
            web_grown = max(memory.grown() for memory in of_web)
            figures.append(
                f"{prompt}: {task['images'][0]['bytes']:,} bytes stored, the worker grew by "
                f"{grown / MEBIBYTE:.1f} MiB (from {of_worker.before / MEBIBYTE:.0f}), "
                f"a web process by {web_grown / MEBIBYTE:.1f} MiB"
            )
            assert task["images"][0]["bytes"] > 40_000_000
            assert max(grown, web_grown) < 32 * MEBIBYTE


@pytest.mark.parametrize("place", ["sqlite-local"])
def test_a_broken_image_ends_with_its_reason(working_site: Site, trap: socket.socket) -> None:
    site = working_site
    submitted = {prompt: site.submit(prompt) for prompt in BROKEN}

    for prompt, code in BROKEN.items():
        task = site.ends(submitted[prompt])
        (image,) = task["images"]
        assert (prompt, image["status"], image["error"]["code"]) == (prompt, "failed", code)
        assert task["status"] == "failed"
        assert task["error"] == image["error"]
        assert task["error"]["message"]
        assert events_of(task)[-2:] == ["image_failed", "failed"]
        assert urllib3.request("GET", image["url"]).status == 404
        assert not [key for key in site.objects() if task["task_id"] in key]
    # Nobody was called whom a redirect named.
    with pytest.raises(BlockingIOError):
        trap.accept()


def test_the_bytes_decide_what_an_image_is(working_site: Site) -> None:
    site = working_site
    task_id = site.submit("[wrong type]", output_format="webp")

    (image,) = assert_done_once(site, task_id)["images"]
    assert image["content_type"] == "image/webp"
    assert urllib3.request("GET", image["url"]).headers["Content-Type"] == "image/webp"


@pytest.mark.parametrize("place", ["sqlite-local"])
def test_an_image_host_may_redirect_and_be_away_for_a_while(working_site: Site) -> None:
    for task_id in [working_site.submit("[redirect 2]"), working_site.submit("[image 503 1]")]:
        assert_done_once(working_site, task_id)


class Memory:
    """How much memory a process has in use, in bytes, `before` and at most since then."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        # Lets the peak begin anew.
        (self._folder / "clear_refs").write_text("5")
        self.before = self._read("VmRSS")

    def grown(self) -> int:
        """How much more it was at the peak."""
        return self._read("VmHWM") - self.before

    def _read(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith(f"{name}:")]
        return int(line.split()[1]) * 1024
