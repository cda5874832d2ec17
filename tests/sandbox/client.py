"""A client of the sandbox: real HTTP, and no trouble taken over."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import urllib3
from PIL import Image

EDITS = "/openai/images/edits"
ANY_TOKEN = "a-key"


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def image(self) -> Image.Image:
        """The body, decoded as an image."""
        image = Image.open(io.BytesIO(self.body))
        image.load()
        return image


class Client:
    """Calls the sandbox at `url` with a bearer token."""

    def __init__(self, url: str, token: str | None = ANY_TOKEN) -> None:
        self.url = url
        self.photo = f"{url}/photos/chelsea.png"
        self.token = token or ""
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.pool = urllib3.PoolManager(retries=False, timeout=20.0)

    def call(self, method: str, path: str, **given: Any) -> Answer:
        """The answer to one request; redirects are answers."""
        url = path if path.startswith("http") else f"{self.url}{path}"
        response = self.pool.request(method, url, headers=self._headers, redirect=False, **given)
        return Answer(response.status, response.headers, response.data)

    def submit(self, prompt: str = "grayscale", path: str = EDITS, **fields: Any) -> Answer:
        """The answer to an edit of the photograph, or of the `image` among the fields.

        `async_` is the field `async`, which Python cannot name.
        """
        given = {name.rstrip("_"): value for name, value in fields.items()}
        return self.call("POST", path, json={"image": self.photo, "prompt": prompt, **given})

    def upload(
        self,
        files: list[tuple[str, bytes]],
        prompt: str = "grayscale",
        path: str = EDITS,
        request_id: str | None = None,
        **fields: str,
    ) -> Answer:
        """The answer to an edit of uploaded files, each under its field's name."""
        parts: list[tuple[str, Any]] = [
            (name, ("upload", data, "application/octet-stream")) for name, data in files
        ]
        parts += [*fields.items(), ("prompt", prompt)]
        # Not left to urllib3, which would not add its boundary to the headers that are given.
        body, content_type = urllib3.encode_multipart_formdata(parts)
        named = {"X-Request-Id": request_id} if request_id else {}
        headers = {**self._headers, **named, "Content-Type": content_type}
        response = self.pool.request("POST", f"{self.url}{path}", body=body, headers=headers)
        return Answer(response.status, response.headers, response.data)

    def look_up(self, **fields: Any) -> Any:
        """What the task endpoint answers."""
        return self.call("POST", "/openai/tasks", json=fields).json

    def task(self, trace_id: str = "mine") -> Any:
        """The newest task of that trace id."""
        return self.look_up(action="retrieve", trace_id=trace_id)

    def link(self, prompt: str = "grayscale", **fields: Any) -> str:
        """The link to the first image of an edit that was waited for."""
        return str(self.submit(prompt, **fields).json["data"][0]["url"])

    def state(self) -> Any:
        """What happened."""
        return self.call("GET", "/sandbox/state").json

    def result(self, prompt: str = "grayscale", **fields: Any) -> Image.Image:
        """The image of an edit that was waited for."""
        return self.fetch(self.submit(prompt, **fields)).image

    def fetch(self, answer: Answer, index: int = 0) -> Answer:
        """What the link to an image in a result leads to."""
        return self.call("GET", answer.json["data"][index]["url"])
