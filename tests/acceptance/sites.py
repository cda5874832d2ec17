"""Whole installations: a database, a storage, web processes, and workers as a test wants them."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from app import config, keys, services
from app.models import FINAL, Scope
from tests.acceptance.waiting import PATIENCE, until
from tests.sandbox.client import Client
from tests.servers import service
from tests.servers.postgres import Postgres
from tests.servers.service import Part, Sandbox, all_running, free_port
from tests.servers.swift import Swift

Json = dict[str, Any]

# For workers that are killed: they are missed soon, and so is an answer of the provider.
HASTY = {"LEASE_SECONDS": "2", "RECONCILE_AFTER": "2"}

_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


@dataclass(frozen=True)
class Resources:
    """What sites are made of: the real servers, and tables to copy."""

    folder: Path
    sandbox: Sandbox
    postgres: Postgres
    swift: Swift
    migrated_sqlite: Path
    migrated_postgres: str

    def new_folder(self, name: str) -> Path:
        """A folder for one more part, not made yet, whose name begins with `name`."""
        return self.folder / f"{name}-{uuid4().hex[:6]}"


@dataclass
class Site:
    """One installation, and a caller with a key for everything.

    `front` is what answers: the web processes, or the one process that works as well if `embedded`.
    `standing` is a worker that may stay from test to test.  `objects` gives the keys of all that is
    in storage.
    """

    environ: dict[str, str]
    folder: Path
    sandbox: Sandbox
    client: Client
    front: Part
    standing: Part
    objects: Callable[[], set[str]]
    embedded: bool

    @property
    def sqlite(self) -> bool:
        """Whether the database is SQLite."""
        return self.environ["DATABASE_URL"].startswith("sqlite")

    def worker(self, **settings: str) -> Part:
        """One more worker, not started yet; `settings` go before those of the site."""
        number = len(list(self.folder.glob("worker*")))
        return service.worker({**self.environ, **settings}, self.folder / f"worker{number}")

    def new_key(self, scope: Scope) -> str:
        """A key with that scope alone; there may be one of each."""
        return _new_api_key(self.environ, scope)

    @contextmanager
    def beside(self, **settings: str) -> Iterator[str]:
        """One more web process, with other `settings`, until the end of the block; its address."""
        number = len(list(self.folder.glob("beside*")))
        with free_port() as port:
            environ = {**self.environ, "PORT": str(port), "WEB_CONCURRENCY": "1", **settings}
            with service.running(service.web(environ, self.folder / f"beside{number}")):
                yield f"http://127.0.0.1:{port}"

    def employ(self) -> None:
        """Let the standing worker work, unless it does."""
        if not self.embedded and not self.standing.running:
            self.standing.start()

    def dismiss(self) -> None:
        """Let the standing worker end, if it works."""
        if self.standing.running:
            # Gracefully: a lease that it left behind would hold up the next one.
            self.standing.stop()

    def submit(self, prompt: str = "sepia", **fields: Any) -> str:
        """Submit an edit of the sandbox's photograph; our task id."""
        given = {"image": self.sandbox.photo, "prompt": prompt, "async": True, **fields}
        answer = self.client.call("POST", "/v1/images/edits", json=given)
        assert answer.status == 200, answer.body
        return str(answer.json["task_id"])

    def task(self, task_id: str) -> Json:
        """All there is to know of a task now."""
        answer = self.client.call("GET", f"/v1/tasks/{task_id}")
        assert answer.status == 200, answer.body
        document: Json = answer.json
        return document

    def tasks(self) -> list[Json]:
        """All tasks in short."""
        found: list[Json] = []
        cursor = ""
        while True:
            page = self.client.call("GET", f"/v1/tasks?limit=100{cursor}").json
            found += page["items"]
            if not page["next_cursor"]:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def callbacks(self, task_id: str) -> list[Json]:
        """What came in for a task, also what was refused, the newest first."""
        items: list[Json] = self.client.call("GET", f"/v1/callbacks?task_id={task_id}").json[
            "items"
        ]
        return items

    def reaches(self, task_id: str, status: str, seconds: float = PATIENCE) -> Json:
        """The task, once it has that status."""
        return self._once(task_id, lambda task: task["status"] == status, status, seconds)

    def ends(self, task_id: str, seconds: float = PATIENCE) -> Json:
        """The task, once its status is final."""
        return self._once(task_id, lambda task: task["status"] in FINAL, "its end", seconds)

    def _once(self, task_id: str, is_so: Callable[[Json], bool], what: str, seconds: float) -> Json:
        seen: list[Json] = [{}]

        def look() -> bool:
            seen[0] = self.task(task_id)
            return is_so(seen[0])

        until(look, (what, seen), seconds)
        return seen[0]


def events_of(task: Json) -> list[str]:
    """The words of a task's timeline."""
    return [entry["event"] for entry in task["timeline"]]


def seconds_between(started: str, ended: str) -> float:
    """How long it was from one time to another, both as the API writes them."""
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()


def id_in(url: str) -> str:
    """The id of an image, which is in the token of its address."""
    return url.rpartition("/")[2].split(".")[1]


def keys_of(task: Json) -> set[str]:
    """The keys under which a task's stored images and their thumbnails are in storage."""
    keys = set()
    for image in task["images"]:
        if image["status"] == "stored":
            name = f"{task['task_id']}/{image['index']}-{id_in(image['url'])}"
            extension = _EXTENSIONS[image["content_type"]]
            keys |= {f"images/{name}.{extension}", f"thumbnails/{name}.webp"}
    return keys


def outputs(site: Site) -> set[str]:
    """The keys of all that is in storage but what was uploaded, and partial images."""
    return {key for key in site.objects() if not key.startswith(("inputs/", "partials/"))}


def assert_done_once(site: Site, task_id: str, images: int = 1) -> Json:
    """The task succeeds, with so many images, each stored once, and was paid for once."""
    task = _assert_done_once(site, task_id, images)
    assert {key for key in outputs(site) if task_id in key} == keys_of(task)
    return task


def _assert_done_once(site: Site, task_id: str, images: int) -> Json:
    task = site.ends(task_id)
    assert task["status"] == "succeeded", task
    assert [image["status"] for image in task["images"]] == ["stored"] * images
    assert site.sandbox.submissions(task_id) == 1
    events = events_of(task)
    assert events.count("image_stored") == images, events
    assert events.count("submitting") == 1 + events.count("refused"), events
    assert events.count("succeeded") == 1, events
    assert "image_stored" not in events[events.index("succeeded") :], events
    return task


def assert_nothing_else(site: Site) -> None:
    """In storage is what the tasks say, and nothing else."""
    assert outputs(site) == set().union(*(keys_of(task) for task in site.tasks()))


def assert_all_done_once(site: Site, tasks: Mapping[str, int]) -> None:
    """Each task succeeds with its images, was paid for once, and storage has nothing else."""
    done = [_assert_done_once(site, task_id, images) for task_id, images in tasks.items()]
    assert outputs(site) >= set().union(*map(keys_of, done))
    assert_nothing_else(site)


@contextmanager
def installed(
    resources: Resources,
    database: str,
    storage: str,
    *,
    sandbox: Sandbox | None = None,
    embedded: bool = False,
    working: bool = False,
    settings: dict[str, str] | None = None,
) -> Iterator[Site]:
    """A site of its own, which answers, until the end of the block; one with a worker if `working`."""
    sandbox = sandbox or resources.sandbox
    folder = resources.new_folder(f"{database}-{storage}")
    folder.mkdir()
    with ExitStack() as stack:
        port = stack.enter_context(free_port())
        url = stack.enter_context(_database(resources, database, folder))
        given = {**_storage(resources, storage, folder), **(settings or {})}
        environ = service.environment(port, url, sandbox, **given)
        front = (service.embedded if embedded else service.web)(environ, folder / "front")
        worker = service.worker(environ, folder / "worker")
        started = [front, worker] if working and not embedded else [front]
        stack.enter_context(all_running(started))
        stack.callback(worker.end)
        client = Client(environ["PUBLIC_URL"], _new_api_key(environ))
        stack.callback(client.pool.clear)
        objects = _look_into(resources, environ)
        yield Site(environ, folder, sandbox, client, front, worker, objects, embedded)


@contextmanager
def _database(resources: Resources, database: str, folder: Path) -> Iterator[str]:
    if database == "sqlite":
        yield f"sqlite:///{shutil.copy(resources.migrated_sqlite, folder / 'postback.db')}"
        return
    url = resources.postgres.new_database(resources.migrated_postgres)
    yield url
    resources.postgres.drop_database(url)


def _storage(resources: Resources, storage: str, folder: Path) -> dict[str, str]:
    if storage == "local":
        return {"LOCAL_STORAGE_DIR": str(folder / "storage")}
    return resources.swift.environ(resources.swift.new_bucket())


def _look_into(resources: Resources, environ: dict[str, str]) -> Callable[[], set[str]]:
    if bucket := environ["S3_BUCKET"]:
        return lambda: _objects(resources.swift, bucket)
    return lambda: _files(Path(environ["LOCAL_STORAGE_DIR"]))


def _files(folder: Path) -> set[str]:
    """What is in the folder, without what a killed process left unfinished."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(".partial/")}


def _objects(swift: Swift, bucket: str) -> set[str]:
    pages = swift.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {item["Key"] for page in pages for item in page.get("Contents", [])}


def _new_api_key(environ: dict[str, str], scope: Scope = Scope.ADMIN) -> str:
    parts = services.build(config.load(environ))
    try:
        with parts.db.transaction() as session:
            return keys.create(session, parts.signing, f"acceptance {scope}", {scope})
    finally:
        parts.close()
