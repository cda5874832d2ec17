"""The command: its help, its options, its start and its end."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.sandbox.cli import command, options_of
from app.sandbox.misbehaviours import CATALOG, Word
from app.sandbox.options import Options
from tests.sandbox.client import Client
from tests.sandbox.receiver import Receiver

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-W", "error", "-c", "from app.sandbox.cli import command; command()"]


def options(*arguments: str) -> Options:
    return options_of(**command.make_context("sandbox", list(arguments)).params)


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The program, and the line that it says; its temporary files are in `folder`."""
    with subprocess.Popen(  # noqa: S603 - our own program
        [*PROGRAM, "--port", "0", "--delay", "0", *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            yield process, process.stdout.readline()
        finally:
            process.kill()


def test_the_help_lists_every_misbehaviour_its_word_and_its_option() -> None:
    text = CliRunner().invoke(command, ["--help"], terminal_width=200).output
    for word in Word:
        number = f" {CATALOG[word].number}" if CATALOG[word].number else ""
        assert re.search(rf"\[{word}{number}\], {word.option}{number}\s", text)
        what = CATALOG[word].text.format(f"{CATALOG[word].default:g}")
        assert what
        assert what in " ".join(text.split())


def test_every_misbehaviour_has_an_option_for_all_tasks() -> None:
    for word in Word:
        assert options(word.option).misbehaviours == {word: CATALOG[word].default}
        if CATALOG[word].number:
            assert options(word.option, "2").misbehaviours == {word: 2}
            assert options(f"{word.option}=0.5").misbehaviours == {word: 0.5}


def test_options_set_what_they_name_and_are_else_as_documented() -> None:
    assert options() == Options()
    given = options(
        "--port", "0", "--delay", "0", "--api-key", "k", "--image-ttl", "5", "--callback-timeout",
        "2.5", "--callback-retries", "3", "--private-url", "http://10.0.0.1/", "--workers", "4",
        "--late", "--gzip", "--huge", "1000",
    )  # fmt: skip

    assert given == Options(
        port=0, delay=0, api_key="k", image_ttl=5, callback_timeout=2.5, callback_retries=3,
        private_url="http://10.0.0.1/", workers=4,
        misbehaviours={Word.LATE: 30, Word.GZIP: 1, Word.HUGE: 400},
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["--delay", "-1"], ["--port", "70000"], ["--nonsense"]])
def test_wrong_options_are_explained(arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments)

    assert result.exit_code == 2
    assert arguments[0] in result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_and_quietly(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, "--slow-image", "60") as (process, line):
        url = line.split()[-1]
        client = Client(url)
        answer = client.submit()
        # One that waits for its work and one that is being served must not hold up the end.
        drip = client.pool.request("GET", answer.json["data"][0]["url"], preload_content=False)
        assert drip.read(1)
        assert len(list(tmp_path.iterdir())) == 1
        started = time.monotonic()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=10)
        drip.release_conn()

    assert re.fullmatch(r"The sandbox is at http://127\.0\.0\.1:\d+\n", line)
    assert (process.returncode, rest, errors) == (0, "", "")
    assert time.monotonic() - started < 3
    assert list(tmp_path.iterdir()) == []


def test_a_signal_ends_it_in_the_midst_of_work(tmp_path: Path) -> None:
    with running(tmp_path) as (process, line), ThreadPoolExecutor(6) as pool:
        client = Client(line.split()[-1])
        work = [pool.submit(client.submit, "blur", n=5) for _ in range(60)]
        work[5].result()
        # Nobody but the main thread may get the signal, of many that are busy.
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
        pool.shutdown(cancel_futures=True)
        client.pool.clear()

    assert (process.returncode, errors) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_options_hold_for_every_task(tmp_path: Path, receiver: Receiver) -> None:
    with running(tmp_path, "--429", "1", "--wrong-type", "--duplicate", "3") as (_, line):
        client = Client(line.split()[-1])
        statuses = [
            client.submit(trace_id=name, callback_url=receiver.url).status
            for name in ("one", "one", "two", "two")
        ]
        receiver.wait(6)
        image = client.call(
            "GET", client.look_up(action="retrieve", trace_id="one")["response"]["data"][0]["url"]
        )
        # A prompt goes before an option.
        prompted = [client.submit("[429 2]", trace_id="three").status for _ in range(3)]
        client.pool.clear()

    assert statuses == [429, 200, 429, 200]
    assert prompted == [429, 429, 200]
    assert image.headers["Content-Type"].startswith("text/plain")


def test_uploads_are_deleted_once_they_are_edited(tmp_path: Path, receiver: Receiver) -> None:
    with running(tmp_path, "--workers", "1") as (_, line):
        client = Client(line.split()[-1])
        photo = client.call("GET", client.photo).body
        for prompt in ("mirror", "[forbidden]"):
            files = [("image", photo), ("image", photo)]
            client.upload(files, prompt, callback_url=receiver.url)
        # The files are gone before the callbacks leave.
        receiver.wait(2)
        client.pool.clear()
        kept = [path for path in tmp_path.rglob("*") if path.is_file()]

        assert len(kept) == 1
        assert kept[0].read_bytes() != photo


def test_trouble_of_the_sandbox_itself_is_a_failure_too(tmp_path: Path) -> None:
    with running(tmp_path) as (process, line):
        for folder in tmp_path.iterdir():
            folder.rmdir()
        answer = Client(line.split()[-1]).submit()
        process.terminate()
        _, errors = process.communicate(timeout=10)

    assert answer.status == 500
    assert answer.json["error"]["code"] == "api_error"
    assert "FileNotFoundError" in errors


def test_it_knows_nothing_of_flask_and_little_of_the_service() -> None:
    code = "import sys, app.sandbox.cli; print(*sys.modules)"
    result = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = result.stdout.split()
    ours = {name.split(".")[1] for name in modules if name.startswith("app.")}

    assert "flask" not in modules
    # The configuration comes with `outbound`; what a submission may be, from `providers`.
    assert ours == {"config", "errors", "outbound", "providers", "sandbox", "wire"}
