"""Somebody who listens to a stream of events over a real connection."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.web.servers import PATIENCE, Line, head


@dataclass(frozen=True)
class Told:
    """One event."""

    id: str
    data: dict[str, Any]

    @property
    def event(self) -> str | None:
        """What happened."""
        event: str | None = self.data["event"]
        return event


class Listening:
    """A stream; what it says is read as it comes."""

    def __init__(self, line: Line, path: str, **headers: str) -> None:
        self.socket = line.socket
        line.send(head("GET", path, **headers))
        self.response = http.client.HTTPResponse(self.socket, method="GET")
        self.response.begin()
        self.status = self.response.status
        self.headers = self.response.headers
        self.comments = 0
        self._read = b""

    def next(self, *, seconds: float = PATIENCE) -> Told | None:
        """The next event, which must come within `seconds`; None when the stream ends."""
        while fields := self._block(seconds):
            if "data" in fields:
                assert fields["event"] == "task"
                return Told(fields["id"], json.loads(fields["data"]))
        return None

    def until(self, event: str) -> list[Told]:
        """The next events, up to and with the one that is called `event`."""
        told: list[Told] = []
        while not told or told[-1].event != event:
            following = self.next()
            assert following is not None, f"it ended after {told}"
            told.append(following)
        return told

    def rest(self) -> list[Told]:
        """All events until the stream ends."""
        return list(iter(self.next, None))

    def error(self) -> Any:
        """What is wrong, when it is no stream."""
        return json.loads(self.response.read())["error"]

    def _block(self, seconds: float) -> dict[str, str]:
        """The fields up to the next blank line; none at the end."""
        self.socket.settimeout(seconds)
        while b"\n\n" not in self._read:
            # Not by lines: in chunks those would be read byte by byte.
            piece = self.response.read1()
            if not piece:
                return {}
            self._read += piece
        block, _, self._read = self._read.partition(b"\n\n")
        lines = [line.partition(": ") for line in block.decode().split("\n")]
        fields = {name: value for name, _, value in lines}
        self.comments += "" in fields
        return fields


@contextmanager
def listening(
    port: int, api_key: str, path: str = "/v1/events", **headers: str
) -> Iterator[Listening]:
    """A stream, as long as the block lasts."""
    with Line(port) as line:
        stream = Listening(line, path, Authorization=f"Bearer {api_key}", **headers)
        with closing(stream.response):
            yield stream
