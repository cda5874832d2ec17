"""The parts of the service, as tests start and end them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.servers.processes import ServerError
from tests.servers.service import ROOT, Part, Sandbox, all_running, running

# A part with a child, which says when both are there.
PROGRAM = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print('{"child": %d}' % child.pid, flush=True)
time.sleep(60)
"""


def part(folder: Path, program: str = PROGRAM) -> Part:
    return Part([sys.executable, "-c", program], {}, folder, lambda part: b"}\n" in part.log)


def test_a_part_is_ready_when_it_says_so_and_gone_after_the_block(tmp_path: Path) -> None:
    with running(part(tmp_path / "part")) as started:
        family = [started.process, *started.process.children()]
        assert started.logged() == [{"child": family[1].pid}]

    assert psutil.wait_procs(family, 5)[1] == []


def test_nothing_is_left_of_a_part_that_was_stopped_where_it_was(tmp_path: Path) -> None:
    with running(part(tmp_path / "part")) as started:
        family = [started.process, *started.process.children()]
        started.pause()

    assert psutil.wait_procs(family, 5)[1] == []


def test_killed_alone_it_leaves_its_children_until_the_end_of_the_block(tmp_path: Path) -> None:
    with running(part(tmp_path / "part")) as started:
        (child,) = started.process.children()
        started.kill_alone()
        assert not started.running
        assert child.is_running()
        started.start()
        assert len(started.logged()) == 1

    assert psutil.wait_procs([child], 5)[1] == []


def test_a_part_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match="no such luck"),
        running(part(tmp_path / "part", "raise SystemExit('no such luck')")),
    ):
        pytest.fail("it never ran")


def test_when_one_part_does_not_start_the_others_end(tmp_path: Path) -> None:
    parts = [part(tmp_path / "good"), part(tmp_path / "bad", "raise SystemExit(1)")]
    with pytest.raises(ServerError), all_running(parts):
        pytest.fail("they never ran")

    assert [each.running for each in parts] == [False, False]


def test_asked_to_end_it_gives_its_status(tmp_path: Path) -> None:
    with running(part(tmp_path / "part")) as started:
        assert started.stop() == -signal.SIGTERM


def test_the_sandbox_comes_back_at_its_address(tmp_path: Path) -> None:
    with running(Sandbox(["--delay", "0"], tmp_path / "sandbox")) as sandbox:
        sandbox.kill()
        sandbox.start()
        assert sandbox.state()["submissions"] == {}
        assert sandbox.peers() == set()


def test_a_killed_session_leaves_no_part(tmp_path: Path) -> None:
    program = f"""
import pathlib, sys
from tests.servers.service import Sandbox, running
with running(Sandbox([], pathlib.Path({str(tmp_path / "sandbox")!r}))) as sandbox:
    print(sandbox.process.pid, flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(  # noqa: S603 - the program above
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as session:
        assert session.stdout
        pid = int(session.stdout.readline())
        session.kill()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.02)
