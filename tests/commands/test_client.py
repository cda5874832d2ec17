"""`python -m app submit` and `tasks`: a client of the API, run as a person runs it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from app import client
from app.errors import PostbackError
from tests.commands.programs import PYTHON, ask, run, running
from tests.core.sites import Answer, Asked, Site, json_answer, running_site
from tests.factories import png, success
from tests.servers.service import free_port

Settings = dict[str, str]

EDITS = "/v1/images/edits"


@pytest.fixture(scope="module")
def provider() -> Iterator[Site]:
    """A provider that answers at once."""
    with running_site() as site:
        yield site


@pytest.fixture
def site() -> Iterator[Site]:
    """A service that says what the test wants."""
    with running_site() as site:
        yield site


@pytest.fixture(scope="module")
def service(provider: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A service that runs, with `provider` as its own; what a client of it has to know."""
    folder = tmp_path_factory.mktemp("service")
    with free_port() as port:
        settings = {
            "PORT": str(port), "ACEDATA_BASE_URL": provider.url, "ALLOW_PRIVATE_HOSTS": "127.0.0.0/8",
        }  # fmt: skip
        made = run(folder, settings, "keys", "create", "me", "--scope", "submit", "--scope", "read")
        with running(folder / "service", settings, *PYTHON, "serve", cwd=folder) as program:
            program.wait_for(lambda: ask(port, "/readyz")[0] == 200)
            yield {"PORT": str(port), "POSTBACK_API_KEY": made.stdout.strip()}


def form_of(asked: Asked) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    """The texts and the files of a form."""
    builder = EnvironBuilder(
        method="POST", data=asked.body, content_type=asked.headers["Content-Type"]
    )
    with Request(builder.get_environ()) as request:
        files = {name: [f.read() for f in each] for name, each in request.files.lists()}
        return request.form.to_dict(flat=False), files


def test_files_go_in_and_files_come_out(folder: Path, provider: Site, service: Settings) -> None:
    red, blue = png(8, 8, "red"), png(8, 8, "blue")
    (folder / "a.png").write_bytes(red)
    (folder / "b.png").write_bytes(blue)
    urls = [provider.serve("/1", png(9, 9)), provider.serve("/2", png(7, 7))]
    provider.replies["/openai/images/edits"] = json_answer(success(*urls, task_id="theirs"))

    options = (
        "--n",
        "2",
        "--output_format=png",
        "--trace-id",
        "mine",
        "--sparkle",
        "11",
        "--stream",
    )
    given = ("--async", "a.png", "b.png", "make it so", *options, "--out", "got")
    done = run(folder, service, "submit", *given)

    assert done.returncode == 0, done.stderr
    texts, files = form_of(provider.asked("/openai/images/edits")[0])
    assert files == {"image": [red, blue]}
    assert (texts["prompt"], texts["n"], texts["sparkle"]) == (["make it so"], ["2"], ["11"])
    paths = done.stdout.split()
    assert [(folder / path).read_bytes() for path in paths] == [png(9, 9), png(7, 7)]
    assert {Path(path).parent.name for path in paths} == {"got"}
    task_id = Path(paths[0]).name.removesuffix("-0.png")
    assert f"Task {task_id}\n" in done.stderr
    assert "succeeded after" in done.stderr

    listed = run(folder, service, "tasks", "--status", "succeeded")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [task_id]
    assert listed.stdout.rstrip().endswith("make it so")
    shown = json.loads(run(folder, service, "tasks", "theirs").stdout)
    assert (shown["task_id"], shown["trace_id"]) == (task_id, "mine")


def test_a_url_does_as_well_and_without_waiting_the_id_is_all(
    folder: Path, provider: Site, service: Settings
) -> None:
    provider.replies["/openai/images/edits"] = json_answer({"error": {"code": "forbidden"}}, 403)

    submitted = run(folder, service, "submit", f"{provider.url}/1", "sepia")
    assert (submitted.returncode, submitted.stderr) == (0, "")
    task = json.loads(run(folder, service, "tasks", submitted.stdout.strip()).stdout)
    assert task["request"] == {"image": f"{provider.url}/1", "prompt": "sepia", "async": True}
    waited = run(folder, service, "submit", f"{provider.url}/1", "sepia", "--wait")
    assert (waited.returncode, waited.stdout) == (1, "")
    assert waited.stderr.splitlines()[-1] == "the task is failed: forbidden (forbidden)"


def call(*arguments: str, url: str, api_key: str = "pb_x") -> None:
    """Run a command in this process."""
    command = client.tasks if arguments[0] == "tasks" else client.submit
    options = ["--url", url, "--api-key", api_key]
    command.main([*arguments[1:], *options], standalone_mode=False)


def test_a_service_that_is_busy_is_asked_again_for_the_same_edit(
    tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    answers = [
        json_answer({"error": {"message": "busy"}}, 503, Retry_After="0"),
        Answer(cut=True),
        json_answer({"task_id": "an id"}),
    ]
    site.replies[EDITS] = lambda _: answers.pop(0)

    call("submit", str(tmp_path / "a.png"), "x", url=site.url)

    assert capsys.readouterr().out == "an id\n"
    asked = site.asked(EDITS)
    assert len({each.headers["Idempotency-Key"] for each in asked}) == 1
    assert [form_of(each)[1] for each in asked] == [{"image": [png()]}] * 3


def test_what_goes_wrong_is_said_in_one_line(folder: Path, site: Site, service: Settings) -> None:
    (folder / "file").touch()
    blocked = str(folder / "file" / "out")
    site.replies[EDITS] = json_answer({"error": {"message": "n: what is wrong"}}, 400)
    site.replies["/v1/tasks/none"] = json_answer({"error": {"message": "no such task"}}, 404)

    for arguments, message in (
        (["submit", "nothing.png", "x"], "image: there is no file 'nothing.png'"),
        (["submit", "x", "--n", "eleven"], "n: what is wrong (400)"),
        (
            ["submit", "x", "--out", blocked],
            f"out: the folder {blocked!r} cannot be made: Not a directory",
        ),
        (["tasks", "none"], "no such task (404)"),
    ):
        with pytest.raises(PostbackError) as caught:
            call(*arguments, url=site.url)
        assert str(caught.value) == message
    assert len(site.asked(EDITS)) == 1
    with pytest.raises(PostbackError, match=r":9 cannot be reached.* PORT, POSTBACK_URL or --url"):
        call("submit", "x", url="http://127.0.0.1:9")
    with pytest.raises(PostbackError, match=r"expected an address such as .*, not 'localhost:9'"):
        call("tasks", url="localhost:9")
    # As a person sees it.
    done = run(folder, {**service, "POSTBACK_API_KEY": ""}, "tasks")
    message = (
        "no API key: give --api-key or set POSTBACK_API_KEY; python -m app keys create makes one"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{message}\n")
