"""The document as rows of tables, for the page that people read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.providers import RULES
from app.web.openapi.submission import model_limits

Json = Mapping[str, Any]

# What any call with a key may be answered with: said once, not with each of them.
EVERYWHERE = frozenset({"401", "403", "429"})

_SHAPE = "#/components/schemas/"


@dataclass(frozen=True)
class Row:
    """A field or parameter: its type in words, and the shape that it links to."""

    name: str
    type: str
    shape: str | None
    required: bool
    note: str


@dataclass(frozen=True)
class Body:
    """What goes in or comes out under one media type: rows, or the shape that has them."""

    media: str
    rows: tuple[Row, ...]
    shape: str | None
    note: str


@dataclass(frozen=True)
class Call:
    """One operation; `names` are a method and a path each."""

    id: str
    names: tuple[str, ...]
    text: str
    access: str
    parameters: tuple[Row, ...]
    takes: tuple[Body, ...]
    gives: tuple[Body, ...]
    answers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Chapter:
    """The operations of one tag."""

    name: str
    calls: tuple[Call, ...]


def chapters(document: Json) -> list[Chapter]:
    """All operations, by tag."""
    calls: dict[str, list[Call]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            chapter = calls[operation["tags"][0]]
            call = _call(f"{method.upper()} {path}", operation)
            if chapter and replace(chapter[-1], id=call.id, names=call.names) == call:
                # The same under another path.
                chapter[-1] = replace(chapter[-1], names=(*chapter[-1].names, *call.names))
            else:
                chapter.append(call)
    for methods in document["webhooks"].values():
        for operation in methods.values():
            calls[operation["tags"][0]].append(_call("POST your endpoint", operation))
    return [Chapter(name, tuple(each)) for name, each in calls.items()]


def shapes(document: Json) -> list[tuple[str, tuple[Row, ...]]]:
    """All shapes that are named, with their fields."""
    named = document["components"]["schemas"].items()
    return [(name, tuple(_rows(schema))) for name, schema in named]


def limits() -> list[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """By provider and model what holds for that model alone; and what goes only with what."""
    return [(provider, list(model_limits(rules).items())) for provider, rules in RULES.items()]


def needs() -> list[tuple[str, list[str]]]:
    """By provider which fields go only with which others."""
    return [(provider, [str(need) for need in rules.needs]) for provider, rules in RULES.items()]


def _call(name: str, operation: Json) -> Call:
    success = next(iter(operation["responses"].values()))
    return Call(
        operation["operationId"],
        (name,),
        operation["summary"],
        operation.get("description", ""),
        tuple(
            Row(each["name"], *_type(each["schema"]), each.get("required", False), _note(each))
            for each in operation.get("parameters", ())
        ),
        tuple(_bodies(operation.get("requestBody", {}).get("content", {}))),
        tuple(_bodies(success.get("content", {}))),
        tuple(
            (status, each["description"])
            for status, each in operation["responses"].items()
            if status not in EVERYWHERE
        ),
    )


def _bodies(content: Json) -> Iterator[Body]:
    for media, described in content.items():
        schema = described.get("schema", {})
        for each in schema.get("anyOf", [schema]):
            yield Body(media, tuple(_rows(each)), _type(each)[1], each.get("description", ""))


def _rows(schema: Json, prefix: str = "") -> Iterator[Row]:
    """The fields of an object, those of objects within under their path."""
    for name, field in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        required = name in schema.get("required", ())
        yield Row(path, *_type(field), required, field.get("description", ""))
        inner = field.get("items", field)
        for each in inner.get("anyOf", [inner]):
            yield from _rows(each, f"{path}[]." if "items" in field else f"{path}.")


def _note(parameter: Json) -> str:
    where = "" if parameter["in"] == "query" else f"In the {parameter['in']}. "
    return where + str(parameter["schema"].get("description", parameter.get("description", "")))


def _type(schema: Json) -> tuple[str, str | None]:
    """A type in words, and the shape that it is."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(_SHAPE)
        return name, name
    either = [_type(each) for each in schema.get("anyOf", schema.get("oneOf", ()))]
    if either:
        return " or ".join(text for text, _ in either), next((s for _, s in either if s), None)
    if schema.get("type") == "array":
        text, shape = _type(schema["items"])
        return f"list of {text}", shape
    return _plain(schema), None


def _plain(schema: Json) -> str:
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"]).lower()
    if schema == {"not": {}} or "not" in schema:
        return "none"
    if "contentMediaType" in schema:
        return "file"
    names = {"integer": "whole number", "string": "text", "boolean": "true or false"}
    formats = {"uuid": "UUID", "date-time": "time", "uri": "URL"}
    kind = str(schema.get("type", "anything"))
    word = formats.get(schema.get("format", ""), names.get(kind, kind))
    if "maximum" in schema:
        return f"{word}, {schema['minimum']} to {schema['maximum']}"
    return f"{word}, up to {schema['maxLength']}" if "maxLength" in schema else word
