"""A sandbox within a process: its end, its neighbours, and what it cannot take."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3.exceptions
import werkzeug.test
from click.testing import CliRunner

from app.outbound import Outbound
from app.sandbox import Options, Sandbox
from app.sandbox.acedata import Acedata
from app.sandbox.application import Application
from app.sandbox.callbacks import Courier
from app.sandbox.cli import command
from app.sandbox.gallery import Gallery
from app.sandbox.ledger import Ledger
from app.sandbox.parts import Parts
from app.sandbox.scheduling import Scheduler
from app.sandbox.studio import Studio
from tests.sandbox.client import EDITS, Client
from tests.sandbox.receiver import wait_for


def test_who_waits_when_it_ends_is_cut_off() -> None:
    with ThreadPoolExecutor(1) as pool:
        with Sandbox(Options(port=0, delay=60)) as sandbox:
            client = Client(sandbox.url)
            waiting = pool.submit(client.submit)
            wait_for(lambda: bool(client.state()["submissions"]))
        with pytest.raises(urllib3.exceptions.ProtocolError):
            waiting.result(10)
        client.pool.clear()


def test_a_port_in_use_is_explained_and_free_afterwards() -> None:
    with Sandbox(Options(port=0)) as first:
        port = first.url.rpartition(":")[2]
        result = CliRunner().invoke(command, ["--port", port])
        assert result.exit_code == 1
        assert port in result.output
        assert "in use" in result.output
    with Sandbox(Options(port=int(port))) as second:
        assert second.url == first.url


def test_it_is_on_loopback_only() -> None:
    with Sandbox(Options(port=0)) as sandbox:
        assert sandbox.url.startswith("http://127.0.0.1:")
        port = sandbox.url.rpartition(":")[2]
        pool = urllib3.PoolManager(retries=False)
        # Another address of this machine.
        with pytest.raises(urllib3.exceptions.NewConnectionError):
            pool.request("GET", f"http://127.0.0.2:{port}/")


def test_too_many_waiting_tasks_are_refused_before_they_are_paid_for() -> None:
    ledger, gallery, outbound = Ledger(), Gallery(), Outbound()
    scheduler = Scheduler(0, limit=1)
    parts = Parts(
        options=Options(),
        base_url="http://127.0.0.1",
        ledger=ledger,
        gallery=gallery,
        studio=Studio(outbound, gallery),
        scheduler=scheduler,
        courier=Courier(outbound, ledger, timeout=1, retries=0),
    )
    client = werkzeug.test.Client(Application(parts, Acedata(parts).rules()))
    answers = [
        client.post(
            EDITS,
            json={"image": "http://127.0.0.1/x.png", "prompt": "a cat", "async": True},
            headers={"Authorization": "Bearer x"},
        )
        for _ in range(2)
    ]
    gallery.close()

    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[1].headers["Retry-After"] == "1"
    assert sum(ledger.state()["submissions"].values()) == 1
