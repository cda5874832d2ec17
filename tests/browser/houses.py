"""A running service of the tests' own, and what happens in it."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import urllib3

from app import config, keys, services
from app.models import FINAL, Scope
from app.services import Services
from tests.acceptance.waiting import until
from tests.servers import service
from tests.servers.service import Part, Sandbox, environment, free_port

Json = dict[str, Any]


@dataclass
class House:
    """A service in one process; `parts` look at its database behind its back."""

    url: str
    part: Part
    parts: Services
    sandbox: Sandbox
    admin: str
    viewer: str

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """A call of the API that must succeed."""
        headers = {"Authorization": f"Bearer {self.admin}"}
        answer = urllib3.request(method, self.url + path, json=body, headers=headers, retries=False)
        assert answer.status < 300, answer.data
        return dict(answer.json()) if answer.data else {}

    def submit(self, prompt: str = "sepia", **fields: Any) -> str:
        """Submit an edit of the sandbox's photograph; our task id."""
        given = {"image": self.sandbox.photo, "prompt": prompt, "async": True, **fields}
        return str(self.call("POST", "/v1/images/edits", given)["task_id"])

    def task(self, task_id: str) -> Json:
        """All there is to know of a task now."""
        return self.call("GET", f"/v1/tasks/{task_id}")

    def finished(self, prompt: str = "sepia", **fields: Any) -> str:
        """Submit an edit, and wait until it has ended."""
        task_id = self.submit(prompt, **fields)
        until(lambda: self.task(task_id)["status"] in FINAL, task_id)
        return task_id

    def post_back(self, task_id: str, body: bytes) -> None:
        """Post something to the task's callback address."""
        task = self.task(task_id)
        token = self.parts.signing.callback_token(task["provider"], UUID(task_id))
        headers = {"Content-Type": "application/json"}
        url = f"{self.url}/callbacks/{token}"
        urllib3.request("POST", url, body=body, headers=headers, retries=False)

    def new_key(self, name: str, *scopes: Scope) -> str:
        """One more API key."""
        with self.parts.db.transaction() as session:
            return keys.create(session, self.parts.signing, name, scopes)


@contextmanager
def house(sandbox: Sandbox, migrated: Path, folder: Path, **settings: str) -> Iterator[House]:
    """A service with a database and a storage of its own, until the end of the block.

    It may call every port of this machine: the sandbox, and who is told of what happens.
    """
    path = shutil.copy(migrated, folder / "postback.db")
    with ExitStack() as stack:
        port = stack.enter_context(free_port())
        environ = environment(
            port,
            f"sqlite:///{path}",
            sandbox,
            LOCAL_STORAGE_DIR=str(folder / "storage"),
            **{"AGCLOUD_BASE_URL": sandbox.url, "AGCLOUD_API_KEY": "sandbox", **settings},
        )
        environ["ALLOW_PRIVATE_HOSTS"] = "127.0.0.0/8"
        parts = services.build(config.load(environ))
        stack.callback(parts.close)
        part = stack.enter_context(service.running(service.embedded(environ, folder / "service")))
        built = House(environ["PUBLIC_URL"], part, parts, sandbox, "", "")
        built.admin = built.new_key("ops", Scope.ADMIN)
        built.viewer = built.new_key("viewer", Scope.READ)
        yield built
