"""A running sandbox: the server, its threads, and their end."""

import signal
import socket
import threading
from ipaddress import ip_network
from typing import Self

import click
from werkzeug.serving import WSGIRequestHandler, make_server

from app.outbound import Outbound
from app.sandbox.acedata import Acedata
from app.sandbox.agcloud import Agcloud
from app.sandbox.application import Application
from app.sandbox.callbacks import Courier
from app.sandbox.gallery import Gallery
from app.sandbox.ledger import Ledger
from app.sandbox.options import Options
from app.sandbox.parts import Parts
from app.sandbox.scheduling import Scheduler
from app.sandbox.studio import Studio

# Never reachable from elsewhere: it fetches whatever it is told to.
_ADDRESS = "127.0.0.1"
_BACKLOG = 512
_END = frozenset({signal.SIGINT, signal.SIGTERM})
_EVERYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))


class Sandbox:
    """A sandbox on loopback, from `with` until its end; `url` is where.

    Raises `OSError` when the port is taken.
    """

    def __init__(self, options: Options) -> None:
        self._socket = socket.create_server((_ADDRESS, options.port), backlog=_BACKLOG)
        self.url = f"http://{_ADDRESS}:{self._socket.getsockname()[1]}"
        self._parts = _parts(options, self.url)
        rules = [*Acedata(self._parts).rules(), *Agcloud(self._parts).rules()]
        application = Application(self._parts, rules)
        self._server = make_server(
            _ADDRESS,
            options.port,
            application,
            threaded=True,
            request_handler=_QuietHandler,
            fd=self._socket.fileno(),
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # In this order: nobody shall hear of an edit that failed because its files are gone.
        self._parts.scheduler.close()
        self._server.shutdown()
        self._thread.join()
        self._socket.close()
        self._parts.gallery.close()


def serve(options: Options) -> None:
    """Runs a sandbox until SIGINT or SIGTERM; says in one line where it is.

    To be called in the main thread.  Raises `OSError` when the port is taken.
    """
    # Blocked before there are threads, which inherit that: else one of them may get the signal, and
    # the main thread, which would have to handle it, sleeps on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _END)
    try:
        with Sandbox(options) as sandbox:
            click.echo(f"The sandbox is at {sandbox.url}")
            signal.sigwait(_END)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Says nothing: `/sandbox/state` tells what happened."""


def _parts(options: Options, base_url: str) -> Parts:
    outbound = Outbound(allow_private=_EVERYWHERE)
    ledger, gallery = Ledger(), Gallery()
    timeout, retries = options.callback_timeout, options.callback_retries
    return Parts(
        options=options,
        base_url=base_url,
        ledger=ledger,
        gallery=gallery,
        studio=Studio(outbound, gallery),
        scheduler=Scheduler(options.workers),
        courier=Courier(outbound, ledger, timeout=timeout, retries=retries),
    )
