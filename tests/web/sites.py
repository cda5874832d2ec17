"""The whole application in the test's own process: calls of WSGI, no server."""

import base64
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import select
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client, TestResponse, create_environ, run_wsgi_app
from werkzeug.wrappers import Request

from app import keys, web
from app.jobs import Kind
from app.models import Image, Scope, Task, new_id
from app.services import Services
from app.web.middleware import observed
from app.web.receiver import Receiver
from tests.factories import png, run_next, submission, success

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Json = dict[str, Any]

# Where the calls come from.
ADDRESS = "192.0.2.9"

DUPLICATE = {"status": "duplicate"}


class Site:
    """The application on `parts`, and API keys to call it with."""

    def __init__(self, parts: Services) -> None:
        self.parts = parts
        self.receiver = Receiver(parts)
        self.flask = web.create_app(parts)
        mounted = DispatcherMiddleware(self.flask, {"/callbacks": self.receiver})
        self._observed = observed(mounted, https=False)
        self.client = self.new_client()
        self._keys: dict[tuple[Scope, ...], str] = {}

    def application(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """What a server would call."""
        return self._observed({"REMOTE_ADDR": ADDRESS, **environ}, start_response)

    def new_client(self) -> Client:
        """A client without cookies: another browser."""
        return Client(self.application)

    def key(self, *scopes: Scope) -> str:
        """The API key with just these scopes."""
        if scopes not in self._keys:
            with self.parts.db.transaction() as session:
                name = "+".join(scopes) or "no scope"
                self._keys[scopes] = keys.create(session, self.parts.signing, name, scopes)
        return self._keys[scopes]

    def call(
        self, method: str, path: str, *, scope: Scope = Scope.ADMIN, **options: Any
    ) -> TestResponse:
        """A call of the API with a key that has `scope`."""
        headers = {"Authorization": f"Bearer {self.key(scope)}", **options.pop("headers", {})}
        # A client of its own, because a response belongs to one thread.
        return self.new_client().open(
            path, method=method, headers=headers, buffered=True, **options
        )

    def send(
        self, method: str, path: str, body: object, environ: Mapping[str, Any]
    ) -> TestResponse:
        """A request as a server hands it over: `body` is what it reads from."""
        given = create_environ(method=method) | {
            "PATH_INFO": path.encode().decode("latin-1"),
            "wsgi.input": body,
            "wsgi.input_terminated": True,
            **environ,
        }
        answer = run_wsgi_app(self.application, given, buffered=True)
        return TestResponse(*answer, request=Request(given))

    def get(self, path: str, **options: Any) -> TestResponse:
        """Look something up."""
        return self.call("GET", path, **options)

    def look_up(self, task: Task) -> Json:
        """The task as the API shows it."""
        return json_of(self.get(f"/v1/tasks/{task.id}"))

    def callback_path(self, task: Task) -> str:
        """Where the provider posts the result of `task`."""
        return f"/callbacks/{self.parts.signing.callback_token(task.provider, task.id)}"

    def post_back(
        self, task: Task, body: bytes | Mapping[str, Any], **headers: str
    ) -> TestResponse:
        """Post a callback as the provider does; header names are written with underscores."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.new_client().post(
            self.callback_path(task), data=data, headers=named, content_type="application/json"
        )

    def callbacks(self, **filters: str) -> list[Json]:
        """What came in or was refused, the newest first."""
        items: list[Json] = json_of(self.get("/v1/callbacks", query_string=filters))["items"]
        return items

    def rejections(self) -> list[Json]:
        """The rejection log, the newest first."""
        return self.callbacks(verdict="rejected")

    def finish(self, task: Task, *pictures: bytes, **fields: Any) -> None:
        """Let the task succeed with these images, one if there are none."""
        urls = [data_url(picture) for picture in pictures or (png(),)]
        assert self.post_back(task, success(*urls, **fields)).status_code == 200
        run_next(self.parts, Kind.INGEST)
        for _ in urls:
            run_next(self.parts, Kind.STORE_IMAGE)


@contextmanager
def open_site(parts: Services) -> Iterator[Site]:
    """The application on `parts`, until the end of the block."""
    site = Site(parts)
    try:
        yield site
    finally:
        site.receiver.close()
        site.flask.extensions["marks"].stop()


def json_of(response: TestResponse) -> Json:
    """The JSON object that an answer holds."""
    assert response.mimetype == "application/json"
    payload = json.loads(response.get_data())
    assert isinstance(payload, dict)
    return payload


def error_of(response: TestResponse, status: int) -> Json:
    """What the envelope of an error says; its shape is the same for all of them."""
    payload = json_of(response)
    assert response.status_code == status, payload
    assert payload["trace_id"] == response.headers["X-Request-Id"]
    error: Json = payload["error"]
    assert list(error) == ["code", "message", "type", "param"]
    return error


def accepted(task: Task) -> Json:
    """What is answered to a result of `task` that is taken."""
    return {"status": "accepted", "task_id": str(task.id)}


def submit_and_wait(site: Site, **fields: Any) -> TestResponse:
    """Submit an edit that is not asynchronous."""
    body = submission(**fields, **{"async": None})
    return site.call("POST", "/v1/images/edits", scope=Scope.SUBMIT, json=body)


def tasks_of(parts: Services) -> list[UUID]:
    """The ids of all tasks, the oldest first."""
    with parts.db.reading() as session:
        return list(session.scalars(select(Task.id).order_by(Task.id)))


def data_url(picture: bytes) -> str:
    """An image as a URL that holds it."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def all_at_once(calls: int, call: Callable[[], Any]) -> list[Any]:
    """What `call` gives to so many threads that begin together."""
    begin = threading.Barrier(calls)
    results: list[Any] = []

    def run() -> None:
        begin.wait(30)
        results.append(call())

    threads = [threading.Thread(target=run) for _ in range(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == calls
    return results


def fetch(site: Site, url: str, method: str = "GET", **headers: str) -> TestResponse:
    """What is at an address of ours, for anybody."""
    path = url.removeprefix(site.parts.config.public_url)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    # Read to its end and closed, as a server does it.
    return site.new_client().open(path, method=method, headers=named, buffered=True)


def add_image(parts: Services, task: Task, **columns: Any) -> UUID:
    """An image of `task` under way, unless `columns` say otherwise; its id."""
    named = {"index": 0, "source": "https://x", **columns}
    image = Image(task_id=task.id, callback_id=new_id(), **named)
    with parts.db.transaction() as session:
        session.add(image)
        session.flush()
        return image.id
