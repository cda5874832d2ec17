"""Servers on loopback that say exactly what a test wants, and a way out to them."""

import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from ipaddress import IPv4Network, IPv6Network
from threading import Event, Thread

import pytest

from app.config import HostPort
from app.outbound import Outbound
from tests.outbound.calls import LOOPBACK

Network = IPv4Network | IPv6Network
Handler = Callable[[socket.socket, bytes], None]

# Longer than any test: a server that hangs ends with an error instead of the whole run.
PATIENCE = 10.0


@pytest.fixture
def stopping() -> Event:
    """Set when the test is over; what a slow server waits for between two bytes."""
    return Event()


@pytest.fixture
def heard() -> list[bytes]:
    """Every message that a server of this test has read, in the order of their arrival."""
    return []


@pytest.fixture
def serve(stopping: Event, heard: list[bytes]) -> Iterator[Callable[..., int]]:
    """Starts servers: `serve(reply)` gives the port; a reply is bytes, or is given the connection.

    `whole=False` hands over the connection after the head of the request, `context` adds TLS.
    """
    with ExitStack() as stack:

        def start(
            reply: bytes | Handler,
            *,
            host: str = "127.0.0.1",
            port: int = 0,
            whole: bool = True,
            context: ssl.SSLContext | None = None,
        ) -> int:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family)
            handler = reply if callable(reply) else _saying(reply)

            def converse(sock: socket.socket) -> None:
                with suppress(OSError), sock:
                    sock.settimeout(PATIENCE)
                    plain = context.wrap_socket(sock, server_side=True) if context else sock
                    with plain:
                        message = _read_message(plain, whole)
                        heard.append(message)
                        handler(plain, message)

            accepting = Thread(target=_accept, args=(listener, converse))
            accepting.start()
            stack.callback(_stop, listener, accepting, stopping)
            return int(listener.getsockname()[1])

        yield start


@pytest.fixture
def outbound() -> Outbound:
    """A way out that may reach loopback, where every name leads."""
    return Outbound([LOOPBACK], resolve=lambda _: ["127.0.0.1"])


@pytest.fixture
def asked() -> list[str]:
    """Every name that was looked up in this test."""
    return []


@pytest.fixture
def leading_to(asked: list[str]) -> Callable[..., Outbound]:
    """Makes ways out: `leading_to(*addresses, allow_private=...)`, where every name leads there."""

    def make(*addresses: str, allow_private: Sequence[HostPort | Network] = ()) -> Outbound:
        def resolve(host: str) -> Sequence[str]:
            asked.append(host)
            return addresses

        return Outbound(allow_private, resolve=resolve)

    return make


def _saying(reply: bytes) -> Handler:
    return lambda sock, _: sock.sendall(reply)


def _accept(listener: socket.socket, converse: Callable[[socket.socket], None]) -> None:
    conversations = []
    with suppress(OSError):
        while True:
            sock, _ = listener.accept()
            conversation = Thread(target=converse, args=(sock,))
            conversation.start()
            conversations.append(conversation)
    for conversation in conversations:
        conversation.join(PATIENCE)


def _stop(listener: socket.socket, accepting: Thread, stopping: Event) -> None:
    stopping.set()
    with listener:
        # Wakes the thread that waits in accept(): closing alone would not.
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(PATIENCE)
    assert not accepting.is_alive()


def _read_message(sock: socket.socket, whole: bool) -> bytes:
    message = b""
    while b"\r\n\r\n" not in message:
        message += _receive(sock)
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", message)
    end = message.index(b"\r\n\r\n") + 4 + (int(length[1]) if length and whole else 0)
    while len(message) < end:
        message += _receive(sock)
    return message


def _receive(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionResetError
    return data
