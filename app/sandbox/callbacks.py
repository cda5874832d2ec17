"""How a result is called back: which bodies, in which wrapping, where to, how often."""

import gzip
import json
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from app.errors import OutboundError
from app.outbound import Limits, Outbound
from app.sandbox import chunking
from app.sandbox.ledger import Ledger
from app.sandbox.misbehaviours import Wishes, Word
from app.wire import Request

_RETRY_PAUSE = 1.0
# More than this of an answer is of no interest.
_ANSWER_BYTES = 2**20
# What may be a token: letters and digits without a break, in the path or the query.
_TOKENS = re.compile(r"[A-Za-z0-9_-]{4,}")


@dataclass(frozen=True)
class Callback:
    """Bodies that are sent to `url` one after the other, or each of them at once."""

    key: str
    url: str
    headers: Mapping[str, str]
    bodies: tuple[bytes, ...]
    at_once: bool
    chunked: bool


def plan(key: str, url: str, envelopes: Iterable[dict[str, Any]], wishes: Wishes) -> Callback:
    """The callback of a task with these results, as `wishes` distort it."""
    bodies = [_body(envelope, wishes) for envelope in envelopes]
    times = max(wishes.get(Word.DUPLICATE, 1), wishes.get(Word.CONCURRENT, 1))
    return Callback(
        key=key,
        url=_forged(url) if Word.FORGED in wishes else url,
        headers=_headers(wishes),
        bodies=tuple(body for body in bodies for _ in range(int(times))),
        at_once=Word.CONCURRENT in wishes,
        chunked=Word.CHUNKED in wishes,
    )


def _headers(wishes: Wishes) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "User-Agent": "sandbox"}
    if Word.GZIP in wishes:
        headers["Content-Encoding"] = "gzip"
    return headers


def _body(envelope: dict[str, Any], wishes: Wishes) -> bytes:
    if Word.WRONG_ID in wishes:
        envelope = envelope | {"task_id": str(uuid4())}
    body = json.dumps(envelope).encode()
    if Word.EMPTY in wishes:
        body = b""
    if Word.TRUNCATED_JSON in wishes:
        body = body[: len(body) // 2]
    return gzip.compress(body, mtime=0) if Word.GZIP in wishes else body


def _forged(url: str) -> str:
    """The URL with one letter of its last token changed, in the middle.

    Not the last letter: in base64 that one may stand for nothing.
    """
    host_ends = len(urlsplit(url)._replace(path="", query="", fragment="").geturl())
    tokens = list(_TOKENS.finditer(url, host_ends))
    if not tokens:
        return f"{url}forged"
    at = sum(tokens[-1].span()) // 2
    return url[:at] + ("A" if url[at] != "A" else "B") + url[at + 1 :]


class Courier:
    """Delivers callbacks, and tells the ledger how each was answered."""

    def __init__(self, outbound: Outbound, ledger: Ledger, *, timeout: float, retries: int) -> None:
        self._outbound = outbound
        self._ledger = ledger
        self._timeout = timeout
        self._retries = retries

    def deliver(self, callback: Callback) -> None:
        """Sends the callback's bodies; returns when each is answered or given up."""
        if callback.at_once:
            self._at_once(callback)
            return
        for body in callback.bodies:
            self._send(callback, body)

    def _at_once(self, callback: Callback) -> None:
        barrier = threading.Barrier(len(callback.bodies))

        def send(body: bytes) -> None:
            barrier.wait()
            self._send(callback, body)

        threads = [
            threading.Thread(target=send, args=(body,), daemon=True) for body in callback.bodies
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send(self, callback: Callback, body: bytes) -> None:
        for attempt in range(1 + self._retries):
            if attempt:
                time.sleep(_RETRY_PAUSE)
            status = self._post(callback, body)
            self._ledger.sent(callback.key, status)
            if status is not None and 200 <= status < 300:
                return

    def _post(self, callback: Callback, body: bytes) -> int | None:
        if callback.chunked:
            return chunking.post(callback.url, callback.headers, body, self._timeout)
        # Time to answer, and to send a large body at 10 MB/s.
        total = self._timeout + len(body) / 10_000_000
        limits = Limits(self._timeout, self._timeout, total, _ANSWER_BYTES)
        try:
            request = Request("POST", callback.url, callback.headers, body)
            return self._outbound.call(request, limits).status
        except OutboundError:
            return None
