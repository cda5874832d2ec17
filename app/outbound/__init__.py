"""The only way out: every connection to the outside is made here, to a checked address.

`guard` judges URLs and addresses, `sending` connects and sends, `answer` reads what comes back;
`limits` and `failures` are the terms on which they do.
"""

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache
from threading import Thread

from app.config import HostPort
from app.outbound import failures, sending
from app.outbound.answer import Streamed
from app.outbound.guard import Guard, Network, Target, follow, parse, require_host
from app.outbound.limits import Clock, Limits
from app.wire import Request, Response

__all__ = ["Limits", "Outbound", "Resolver", "Streamed", "system_resolver"]

# From a host's name to its addresses as text; raises OSError when there is none.
Resolver = Callable[[str], Sequence[str]]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# What another origin may be told as well; all else could be a key.
_CARRIED = frozenset({"accept", "accept-encoding", "accept-language", "range", "user-agent"})


def system_resolver(host: str) -> list[str]:
    """The addresses of `host` as the operating system knows them; raises `OSError`."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Outbound:
    """Makes HTTP calls; may be used by many threads at once, and keeps nothing between two calls.

    `allow_private` lists what may be reached although it is not public: a host and port as the URL
    names them, or a range of addresses.  `ssl_context` replaces the system's trust, and is made
    stricter here.  Proxies that the environment names are never used.
    """

    def __init__(
        self,
        allow_private: Sequence[HostPort | Network] = (),
        *,
        resolve: Resolver = system_resolver,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = Guard(allow_private)
        self._resolve = resolve
        self._ssl_context = ssl_context or _default_context()
        # A free text that authorities need not check is no name of a host.
        self._ssl_context.hostname_checks_common_name = False

    def check(self, url: str, *, hosts: Sequence[str] = ()) -> None:
        """Look up `url`'s host and judge it, without connecting; takes at most 5 s.

        `hosts` are the only ones that are allowed, `*.example.com` for all under that one; none
        means any.  Raises `BlockedAddressError`, or `NotSentError` with code `unreachable`.
        """
        self._admitted(url, hosts, Clock(Limits()))

    def call(self, request: Request, limits: Limits) -> Response:
        """Send `request`; gives the whole answer, a redirect as it is, gzip inflated.

        Raises `ValueError` for a malformed request, `NotSentError` (`BlockedAddressError` among it)
        when nothing has left, and otherwise `OutboundError` with code `timeout`, `connection_lost`,
        `bad_response` or `too_large`.
        """
        with self.stream(request, limits) as answer:
            return Response(answer.status, answer.headers, b"".join(answer))

    @contextmanager
    def stream(
        self, request: Request, limits: Limits, *, redirects: int = 0, hosts: Sequence[str] = ()
    ) -> Iterator[Streamed]:
        """Send `request`; gives the answer with its body still to be read, inside the `with`.

        A GET follows up to `redirects` redirects, each of which is checked like the first URL,
        against `hosts` too.  Raises what `call` and `check` do, and `OutboundError` with code
        `redirect`; what the body raises comes while it is read.
        """
        clock = Clock(limits)
        for _ in range(redirects + 1):
            with closing(self._exchange(request, clock, hosts)) as answer:
                if not (redirects and _leads_on(request, answer)):
                    yield answer
                    return
                request = _redirected(request, answer)
        raise failures.astray(parse(request.url), "is where one redirect too many leads")

    def _exchange(self, request: Request, clock: Clock, hosts: Sequence[str]) -> Streamed:
        sending.require_sendable(request)
        target, addresses = self._admitted(request.url, hosts, clock)
        connection = sending.connect(target, addresses, clock, self._ssl_context)
        return sending.exchange(connection, target, request, clock)

    def _admitted(
        self, url: str, hosts: Sequence[str], clock: Clock
    ) -> tuple[Target, Sequence[str]]:
        target = parse(url)
        require_host(target, hosts)
        answers = [target.host] if target.is_address else self._look_up(target, clock)
        return target, self._guard.admit(target, answers)

    def _look_up(self, target: Target, clock: Clock) -> Sequence[str]:
        # In a thread, because the operating system's lookup knows no time limit.
        answer: Future[Sequence[str]] = Future()
        try:
            Thread(target=self._resolve_into, args=(answer, target.host), daemon=True).start()
            found = answer.result(clock.within(clock.limits.connect))
        except (OSError, UnicodeError, RuntimeError) as error:
            # `RuntimeError` is that the system has no thread left.
            raise failures.unreachable(target, error) from error
        if not found:
            raise failures.unreachable(target, None)
        return found

    def _resolve_into(self, answer: Future[Sequence[str]], host: str) -> None:
        try:
            answer.set_result(self._resolve(host))
        except BaseException as error:
            answer.set_exception(error)


@cache
def _default_context() -> ssl.SSLContext:
    # Shared, because reading all the certificates takes as long as several calls.
    return ssl.create_default_context()


def _leads_on(request: Request, answer: Streamed) -> bool:
    return answer.status in _REDIRECTS and request.method == "GET" and request.body is None


def _redirected(request: Request, answer: Streamed) -> Request:
    here = parse(request.url)
    location = answer.headers.get("location")
    if not location:
        raise failures.astray(here, "redirects without saying where to")
    url = follow(request.url, location)
    there = parse(url)
    if here.scheme == "https" and there.scheme == "http":
        raise failures.astray(here, "redirects from https to http", permanent=True)
    if here.origin == there.origin:
        return replace(request, url=url)
    carried = {name: text for name, text in request.headers.items() if name.lower() in _CARRIED}
    return replace(request, url=url, headers=carried)
