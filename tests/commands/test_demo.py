"""`python -m app demo`: the whole journey, and nothing left running afterwards."""

import http.client
import json
import re
import signal
from pathlib import Path

import pytest
from PIL import Image as Pillow

from tests.commands.programs import PYTHON, gone, run, running
from tests.servers.service import free_port


def test_once_it_shows_the_stored_image_and_ends(folder: Path) -> None:
    # Settings for the real service do not count here.
    (folder / ".env").write_text("DATABASE_URL=postgresql://nobody@127.0.0.1:9/x\nSTORAGE=s3\n")
    with free_port() as port:
        shown = run(folder, {"PORT": str(port)}, "demo", "--once")

    assert (shown.returncode, shown.stderr) == (0, "")
    (path,) = re.findall(r"^Stored image: (.+) \([\d,]+ bytes\)$", shown.stdout, re.MULTILINE)
    with Pillow.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 100
    task = json.loads(shown.stdout[shown.stdout.index("{") : shown.stdout.rindex("}") + 1])
    assert (task["status"], task["verification"]) == ("succeeded", "token")
    assert f"Status page:  http://127.0.0.1:{port}/tasks/{task['task_id']}" in shown.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stays_up_until_it_is_told_to_end_and_leaves_nothing_running(
    folder: Path, number: signal.Signals
) -> None:
    settings = {"PYTHONUNBUFFERED": "1"}
    with free_port() as port:
        settings["PORT"] = str(port)
        with running(folder, settings, *PYTHON, "demo") as demo:
            demo.wait_for(lambda: "Ctrl-C ends the demonstration." in demo.log)
            processes = demo.family()
            # Itself, the sandbox, the service and its child.
            assert len(processes) == 4
            # As a browser does, its connection stays open.
            visitor = http.client.HTTPConnection("127.0.0.1", port)
            visitor.request("GET", "/readyz")
            assert visitor.getresponse().read()
            status = demo.stop(number)
            assert gone(processes)
            visitor.close()
    assert "Shutting down: Master" in (folder / "instance/demo/serve.log").read_text()
    assert status == (0 if number == signal.SIGINT else 128 + signal.SIGTERM)
    assert "Traceback" not in demo.log


def test_it_fails_when_the_service_does_not_come_up(folder: Path) -> None:
    (folder / "instance").mkdir()
    (folder / "instance" / "demo").write_text("no folder")

    assert run(folder, {}, "demo", "--once").returncode != 0
