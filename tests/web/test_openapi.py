"""`/openapi.json` and `/docs`: the interface as it is, from the same description as the checks."""

import re
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from werkzeug.test import TestResponse

from app.providers import RULES
from app.web.openapi.document import PAGES, routes
from app.web.openapi.operations import OPERATIONS
from app.web.openapi.submission import as_json
from tests.core.test_provider_rules import CASES, FREE_MODELS, request
from tests.factories import make_task, submission
from tests.web.sites import Site, json_of

Json = dict[str, Any]

FREE = {("size", model) for model in (*FREE_MODELS, "git-image-2")}


@pytest.fixture
def document(sqlite_site: Site) -> Json:
    return json_of(sqlite_site.client.get("/openapi.json"))


def test_the_document_is_valid_and_has_every_route_with_its_access(
    sqlite_site: Site, document: Json
) -> None:
    OpenAPIV31SpecValidator(document).validate()
    app = sqlite_site.flask
    served = {rule.endpoint for rule in app.url_map.iter_rules() if not PAGES.match(rule.endpoint)}
    # No row for a view that is not there; that each has one, a guard looks after.
    assert set(OPERATIONS) <= served | {"receiver"}
    for route in routes(app):
        path = re.sub(r"<(?:\w+:)?(\w+?)_?>", r"{\1}", route.path)
        operation = document["paths"][path][route.method.lower()]
        assert operation["summary"], route
        assert ("security" in operation) == (route.scope is not None)
    ids = [
        each["operationId"] for methods in document["paths"].values() for each in methods.values()
    ]
    assert len(ids) == len(set(ids))


class Shapes:
    """The shapes of the document, to hold answers against."""

    def __init__(self, document: Json) -> None:
        self._document = document

    def check(self, path: str, response: TestResponse, method: str = "get") -> Json:
        """The answer, which must have the shape that is promised for that path and status."""
        promised = self._document["paths"][path][method]["responses"][str(response.status_code)]
        schema = promised["content"]["application/json"]["schema"]
        whole = {**schema, "components": self._document["components"]}
        validator = OAS31Validator(whole, format_checker=OAS31Validator.FORMAT_CHECKER)
        payload = json_of(response)
        assert [error.message for error in validator.iter_errors(payload)] == []
        return payload


def test_answers_have_the_shapes_that_are_promised(sqlite_site: Site, document: Json) -> None:
    site, shapes = sqlite_site, Shapes(document)
    task = make_task(site.parts, n=2, metadata={"a": "b"})
    site.finish(task, usage={"input_tokens": 1})

    submitted = site.call("POST", "/v1/images/edits", json=submission())
    assert shapes.check("/v1/images/edits", submitted, "post")["success"]
    wrong = site.call("POST", "/v1/images/edits", json=submission(n=11))
    assert shapes.check("/v1/images/edits", wrong, "post")["error"]["param"] == "n"
    full = shapes.check("/v1/tasks/{id}", site.get(f"/v1/tasks/{task.id}"))
    # Nothing is told that the document keeps to itself.
    assert set(full) == set(document["components"]["schemas"]["Task"]["properties"])
    assert shapes.check("/v1/tasks", site.get("/v1/tasks?limit=1"))["next_cursor"]
    for path in ("/v1/callbacks", "/v1/stats"):
        shapes.check(path, site.get(path))
    shapes.check("/v1/tasks/{id}", site.get("/v1/tasks/none"))
    canceled = site.call("POST", f"/v1/tasks/{task.id}/cancel")
    shapes.check("/v1/tasks/{id}/cancel", canceled, "post")
    shapes.check("/readyz", site.client.get("/readyz"))

    made = site.call("POST", "/v1/endpoints", json={"url": "http://127.0.0.1:9/hook"})
    id_ = shapes.check("/v1/endpoints", made, "post")["id"]
    for action, name in (("test", "test"), ("rotate-secret", "rotate-secret")):
        acted = site.call("POST", f"/v1/endpoints/{id_}/{action}")
        shapes.check(f"/v1/endpoints/{{id}}/{name}", acted, "post")
    for path in ("/v1/endpoints", "/v1/endpoints/{id}", "/v1/endpoints/{id}/deliveries"):
        shapes.check(path, site.get(path.replace("{id}", id_)))


@pytest.mark.parametrize(("provider", "model", "name", "inside", "outside"), CASES)
def test_the_schema_says_what_the_rules_check(
    provider: str, model: str, name: str, inside: list[Any], outside: list[Any]
) -> None:
    schema = OAS31Validator(as_json(provider, RULES[provider]))

    for value in inside:
        assert schema.is_valid(request(model, name, value)), value
    for value in outside:
        said = not schema.is_valid(request(model, name, value))
        # Multiples, pixels and ratios it has only words for.
        assert said or (name, model) in FREE, value


@pytest.mark.parametrize("provider", RULES)
def test_the_schema_says_what_goes_only_with_what(provider: str) -> None:
    schema = OAS31Validator(as_json(provider, RULES[provider]))
    for wrong in (
        {"response_format": "b64_json", "n": 2} if provider == "acedata" else {"partial_images": 1},
        {"output_compression": 50},
        {"background": "transparent", "output_format": "jpeg", "model": "gpt-image-1"},
    ):
        assert not schema.is_valid(submission(**wrong)), wrong
    right = {"output_compression": 50, "output_format": "webp", "sparkle": 11}
    assert schema.is_valid(submission(**right))


def test_the_page_shows_all_of_it_to_anybody(sqlite_site: Site, document: Json) -> None:
    page = sqlite_site.client.get("/docs")
    text = page.get_data(as_text=True)

    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in text
    for name in document["components"]["schemas"]:
        assert f'id="shape-{name}"' in text
    # Links within the page lead somewhere.
    linked = set(re.findall(r'href="#([^"]+)"', text))
    assert linked <= set(re.findall(r'id="([^"]+)"', text))
    for rule in (
        "dall-e-2",
        "text of 1 to 1000 characters",
        "<code>task_id</code> at once",
        "background=transparent needs",
    ):
        assert rule in text
