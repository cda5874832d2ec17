"""The OpenAPI document (3.1), made of the route table, the views' docstrings and the rules."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Flask
from werkzeug.routing import Rule

from app.config import Config
from app.models import Scope
from app.providers import RULES
from app.web.auth import ACCESS
from app.web.openapi.operations import JSON, OPERATIONS, Operation, Tag
from app.web.openapi.schemas import ID, SCHEMAS, TEXT, ref
from app.web.openapi.submission import as_form, as_json
from app.web.reading import FORM

Json = dict[str, Any]

# The API's own, which is in its paths, too.
VERSION = "1"
# For people: they are their own description.
PAGES = re.compile(r"static|pages\.(?!public_status)|streams\.page_events")
_VARIABLE = re.compile(r"<(?:([a-z]+)(?:\([^)]*\))?:)?([a-z_]+)>")
_INTRODUCTION = """\
Submit an image edit, get its `task_id` at once, and have the result pushed, streamed or looked up.
Every error has the shape `Error`, and every answer a header `X-Request-Id`."""


@dataclass(frozen=True)
class Route:
    """One method of one path, and its view."""

    path: str
    method: str
    endpoint: str
    text: str
    scope: Scope | None


def routes(app: Flask) -> list[Route]:
    """All that programs may call, in the order of the table of operations."""
    # A view's decorators are applied from the last one up.
    rules = reversed(list(app.url_map.iter_rules()))
    found = [route for rule in rules for route in _routes(app, rule)]
    found.append(
        Route("/callbacks/<token>", "POST", "receiver", "Take a result in from the provider.", None)
    )
    order = list(OPERATIONS)
    return sorted(found, key=lambda route: order.index(route.endpoint))


def document(app: Flask, config: Config) -> Json:
    """The whole document.  Raises `ValueError` for a route without a row in the table."""
    paths: dict[str, Json] = {}
    for route in routes(app):
        paths.setdefault(_path(route.path), {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Postback",
            "version": VERSION,
            "description": _INTRODUCTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": config.public_url}],
        "tags": [{"name": tag.value} for tag in Tag],
        "paths": paths,
        "webhooks": {"event": {"post": _webhook()}},
        "components": {
            "schemas": {**SCHEMAS, **_submissions()},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, `pb_...`; admin may do everything.",
                }
            },
        },
    }


def _routes(app: Flask, rule: Rule) -> Iterator[Route]:
    if PAGES.match(rule.endpoint):
        return
    view = app.view_functions[rule.endpoint]
    text = " ".join((view.__doc__ or "").split())
    for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
        yield Route(rule.rule, method, rule.endpoint, text, ACCESS[view].scope)


def _operation(route: Route) -> Json:
    row = OPERATIONS[route.endpoint]
    takes = _submission() if route.endpoint == "submissions.submit" else row.takes
    described: Json = {
        "tags": [row.tag.value],
        "operationId": _operation_id(route),
        "summary": route.text.rstrip("."),
        "responses": _responses(route, row, takes),
    }
    if parameters := [*_path_parameters(route.path), *_parameters(row)]:
        described["parameters"] = parameters
    if takes:
        described["requestBody"] = {"required": True, "content": _content(takes)}
    if route.scope:
        described["security"] = [{"key": []}]
        described["description"] = f"Needs a key with the scope `{route.scope}`."
    return described


def _submission() -> Mapping[str, Any]:
    return {
        JSON: {"anyOf": [ref(f"{name}-json") for name in RULES]},
        FORM: {"anyOf": [ref(f"{name}-form") for name in RULES]},
    }


def _submissions() -> Json:
    """What each provider takes, by a name for each."""
    as_bodies = {f"{name}-json": as_json(name, rules) for name, rules in RULES.items()}
    return as_bodies | {f"{name}-form": as_form(name, rules) for name, rules in RULES.items()}


def _responses(route: Route, row: Operation, takes: object) -> Json:
    success: Json = {"description": HTTPStatus(row.status).phrase}
    if row.gives:
        success["content"] = _content(row.gives)
    said = {**_expected_errors(route, row, takes), **row.also}
    others = {
        str(status): {**success, "description": text}
        if status in row.alike
        else _answer(status, text)
        for status, text in sorted(said.items())
    }
    return {str(row.status): success, **others}


def _expected_errors(route: Route, row: Operation, takes: object) -> dict[int, str]:
    """What can go wrong with any view that is called like this one."""
    errors = {}
    if takes or row.query or row.headers:
        errors[400] = "A field or parameter is wrong; `param` names it."
    if takes:
        errors |= {413: "The body is too large.", 415: "The body has another type."}
    if route.scope:
        errors |= {401: "No API key, or an unknown one.", 403: f"A key without {route.scope}."}
        errors[429] = "This key calls too often; see Retry-After."
    if "<" in route.path:
        errors[404] = "There is none."
    return errors


def _answer(status: int, text: str) -> Json:
    if status < 400:
        return {"description": text}
    return {"description": text, "content": {JSON: {"schema": ref("Error")}}}


def _parameters(row: Operation) -> Iterator[Json]:
    for place, named in (("query", row.query), ("header", row.headers)):
        for name, schema in named.items():
            yield {"name": name, "in": place, "schema": schema}


def _path_parameters(path: str) -> Iterator[Json]:
    for converter, name in _VARIABLE.findall(path):
        schema = ID if converter == "uuid" else TEXT
        yield {"name": name.strip("_"), "in": "path", "required": True, "schema": schema}


def _path(rule: str) -> str:
    return _VARIABLE.sub(lambda match: f"{{{match[2].strip('_')}}}", rule)


def _operation_id(route: Route) -> str:
    # A view under several paths has an id for each.
    words = re.findall(r"[a-z0-9]+", _VARIABLE.sub(r"\2", route.path))
    return "_".join([route.method.lower(), *words])


def _content(media: Mapping[str, Any]) -> Json:
    return {name: {"schema": schema} if schema else {} for name, schema in media.items()}


def _webhook() -> Json:
    """What is pushed; the headers are those of Standard Webhooks."""
    signed = {
        "webhook-id": "The same for every attempt.",
        "webhook-timestamp": "Unix seconds of this attempt.",
        "webhook-signature": "`v1,` and the signature; several while a secret rotates.",
    }
    return {
        "tags": [Tag.PUSHING.value],
        "operationId": "event",
        "summary": "What an endpoint is told of a task, signed by Standard Webhooks",
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text, "schema": TEXT}
            for name, text in signed.items()
        ],
        "requestBody": {"required": True, "content": {JSON: {"schema": ref("Event")}}},
        "responses": {
            "2XX": {"description": "Delivered."},
            "410": {"description": "Never again: the endpoint is disabled."},
        },
    }
