"""The calls that the commands make."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from app.errors import NotSentError, OutboundError, PostbackError, UnavailableError
from app.models import FINAL, new_id
from app.outbound import Limits, Outbound
from app.providers import multipart
from app.providers.base import File
from app.wire import Request, Response

# Whoever runs the command says where the service is: it may be anywhere.
_EVERYWHERE = [ip_network("0.0.0.0/0"), ip_network("::/0")]
# Sixteen large files over a slow line.
_UPLOAD = Limits(connect=10, read=120, total=3600)
_CALL = Limits(connect=10, read=90, total=120)
_DOWNLOAD = Limits(connect=10, read=60, total=1800, bytes=2**30)
_TRIES = 3
_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
# How long one look at a task lasts at most, when nothing happens.
_LOOK_SECONDS = 2
# How long the service may be away while its answer is waited for.
_PATIENCE_SECONDS = 120.0

_WHERE = "is the service there? PORT, POSTBACK_URL or --url says where it is"

Json = dict[str, Any]


class AnsweredError(PostbackError):
    """The service said no."""

    permanent = True


class Api:
    """The service at `url`, as the holder of `api_key` sees it."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json"}
        self._outbound = Outbound(_EVERYWHERE)

    def submit(self, fields: Mapping[str, Any], files: Sequence[File]) -> str:
        """Submit an edit; its task's id.

        Sent again under the same idempotency key when the service was away: it is paid once.
        """
        plain = self._request("POST", "/v1/images/edits")
        key = {"Idempotency-Key": str(new_id())}

        def form() -> Request:
            headers, body = multipart.encode(fields, files)
            return replace(plain, headers={**plain.headers, **headers, **key}, body=body)

        return str(self._insist(form, _UPLOAD)["task_id"])

    def task(self, id_: str) -> Json:
        """All there is to say of a task."""
        return self._insist(lambda: self._request("GET", f"/v1/tasks/{quote(id_, safe='')}"), _CALL)

    def tasks(self, **filters: Any) -> list[Json]:
        """The newest tasks."""
        given = {name: value for name, value in filters.items() if value is not None}
        page = self._insist(lambda: self._request("GET", "/v1/tasks", given), _CALL)
        items: list[Json] = page["items"]
        return items

    def until_it_ends(self, id_: str) -> Iterator[Json]:
        """The task again and again, the last time when it has ended."""
        away_since: float | None = None
        while True:
            looked_at = time.monotonic()
            try:
                request = self._request("GET", f"/v1/tasks/{id_}", {"wait": _LOOK_SECONDS})
                task = self._read(self._outbound.call(request, _CALL))
            except (OutboundError, UnavailableError):
                away_since = away_since or looked_at
                if looked_at - away_since > _PATIENCE_SECONDS:
                    raise
            else:
                away_since = None
                yield task
                if task["status"] in FINAL:
                    return
            # A service that answers at once, or not at all, is not hammered.
            time.sleep(max(0.0, looked_at + _PAUSE_SECONDS - time.monotonic()))

    def download(self, url: str, path: Path) -> None:
        """What is at `url`, into a file; only a whole one gets that name."""
        part = path.with_name(f"{path.name}.part")
        request = Request("GET", url)
        with self._outbound.stream(request, _DOWNLOAD, redirects=3) as answer:
            if answer.status != 200:
                raise AnsweredError(f"{path.name}: the service answered {answer.status}")
            with part.open("wb") as file:
                file.writelines(answer)
        part.replace(path)

    def _insist(self, make: Callable[[], Request], limits: Limits) -> Json:
        """The answer to a request, which is made anew when the service is busy or hangs up."""
        for attempt in range(1, _TRIES + 1):
            try:
                return self._read(self._outbound.call(make(), limits))
            except (OutboundError, UnavailableError) as error:
                if isinstance(error, NotSentError):
                    # Where nobody listens, nobody will in a second.
                    raise NotSentError(f"{error} ({_WHERE})") from None
                if attempt == _TRIES:
                    raise
                # As the service asks, or a little.
                time.sleep(min(error.retry_after or _PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS))
        raise AssertionError("unreachable")

    def _request(
        self, method: str, path: str, parameters: Mapping[str, Any] | None = None
    ) -> Request:
        query = f"?{urlencode(parameters)}" if parameters else ""
        return Request(method, f"{self._url}{path}{query}", self._headers)

    def _read(self, response: Response) -> Json:
        try:
            payload = json.loads(response.body)
        except ValueError:
            payload = None
        if response.status == 200 and isinstance(payload, dict):
            return payload
        error = payload.get("error") if isinstance(payload, dict) else None
        message = error.get("message") if isinstance(error, dict) else None
        said = f"{message or 'no more is known'} ({response.status})"
        if response.status in {429, 503}:
            raise UnavailableError(said, retry_after=response.retry_after())
        raise AnsweredError(said)
