"""What a submission may be, as JSON Schema, made of the very rules that it is checked against."""

from typing import Any

from app.edits import OUR_RULES
from app.providers.rules import (
    Choice,
    Flag,
    ImageFiles,
    Integer,
    Kind,
    Needs,
    Rules,
    Schema,
    Text,
)

NOTES = {
    "image": "What to edit.",
    "mask": "Transparent where to edit.",
    "prompt": "What is to be done.",
    "model": "One that is not known here is passed on.",
    "n": "How many images to make; there may come fewer.",
    "quality": "How much care, and money, to spend.",
    "size": "Of the images to make.",
    "background": "Of the images to make.",
    "input_fidelity": "How closely to keep to the input.",
    "output_format": "Of the images to make.",
    "output_compression": "In percent.",
    "moderation": "How strictly the provider moderates.",
    "user": "Your own user, told to the provider.",
    "provider": "Who does it; else the path's, or DEFAULT_PROVIDER.",
    "trace_id": "Your own reference, which tasks can be searched for.",
    "metadata": "Your own labels. In a form: JSON text, or a field metadata[name] for each.",
    "deadline": "Seconds until the task is given up.",
    "callback_url": "Where the result is pushed to; the answer then comes at once.",
    "async": "Whether the answer comes at once, with the task's id.",
    "stream": "Whether the answer is a stream of Server-Sent Events.",
    "partial_images": "How many to stream while the provider is at work.",
    "response_format": "How images come in an answer that waits for them; url unless said.",
}
# What their schema says whole needs no words.
_PLAIN = (Choice, Flag, Integer, Text)


def as_json(provider: str, rules: Rules) -> Schema:
    """The body of a submission to `provider` as JSON."""
    return {
        "type": "object",
        "title": provider,
        "description": f"What {provider} takes. Unknown fields are passed on as they are.",
        "required": [name for name in rules.required if name not in _files_only(rules)],
        "properties": _properties(rules),
        "allOf": [*_by_model(rules), *map(_needs, rules.needs)],
    }


def as_form(provider: str, rules: Rules) -> Schema:
    """The same as a form, whose files are what JSON has URLs for, or has nothing for."""
    fields = _properties(rules)
    for name, files in rules.files.items():
        url = [fields[name]] if name in fields and name not in _files_only(rules) else []
        note = {"description": _described(name, files)}
        fields[name] = (
            {"anyOf": [files.schema(), *url], **note} if url else {**files.schema(), **note}
        )
    return {
        "type": "object",
        "title": provider,
        "description": f"What {provider} takes. Unknown fields and files are passed on as they are.",
        "required": list(rules.required),
        "properties": fields,
    }


def model_limits(rules: Rules) -> dict[str, dict[str, str]]:
    """For people: by model what holds for it alone, by field."""
    limits: dict[str, dict[str, str]] = {}
    for named in (rules.models, rules.model_files):
        for model, kinds in named.items():
            for name, kind in kinds.items():
                said = limits.setdefault(model, {})
                said[name] = f"{said[name]}; or {kind}" if name in said else str(kind)
    return limits


def _properties(rules: Rules) -> dict[str, Schema]:
    return {
        name: {**kind.schema(), **_widened(rules, name), "description": _described(name, kind)}
        for name, kind in {**rules.fields, **OUR_RULES.fields}.items()
    }


def _widened(rules: Rules, name: str) -> Schema:
    """The words of a field, with those that only some models have, if there are any."""
    general = rules.fields[name].schema().get("enum") if name in rules.fields else None
    more = [
        word
        for kinds in rules.models.values()
        if general and name in kinds
        for word in kinds[name].schema().get("enum", ())
        if word not in general
    ]
    return {"enum": [*(general or ()), *more]} if more else {}


def _described(name: str, rule: Kind | ImageFiles) -> str:
    words = str(rule)
    sentence = "" if isinstance(rule, _PLAIN) else f"{words[:1].upper()}{words[1:]}."
    return " ".join(text for text in (NOTES.get(name), sentence) if text)


def _files_only(rules: Rules) -> set[str]:
    return {name for name, kind in rules.fields.items() if kind.schema() == {"not": {}}}


def _by_model(rules: Rules) -> list[Schema]:
    named = [
        {
            "if": {"required": ["model"], "properties": {"model": _model(model)}},
            "then": {"properties": {name: kind.schema() for name, kind in kinds.items()}},
        }
        for model, kinds in rules.models.items()
    ]
    return named + [_others(rules, name) for name in rules.fields if _widened(rules, name)]


def _others(rules: Rules, name: str) -> Schema:
    """That the words of some models are theirs alone."""
    having = [_model(model) for model, kinds in rules.models.items() if name in kinds]
    theirs = {"required": ["model"], "properties": {"model": {"anyOf": having}}}
    return {"if": {"not": theirs}, "then": {"properties": {name: rules.fields[name].schema()}}}


def _model(name: str) -> Schema:
    if "*" not in name:
        return {"const": name}
    pattern = name.replace(".", r"\.").replace("*", ".*")
    return {"type": "string", "pattern": f"^{pattern}$"}


def _needs(need: Needs) -> Schema:
    condition: dict[str, Any] = {"required": [need.field]}
    if need.value is not None:
        condition["properties"] = {need.field: {"const": need.value}}
    consequence: dict[str, Any] = {"properties": {need.other: {"enum": list(need.others)}}}
    if need.default not in need.others:
        consequence["required"] = [need.other]
    return {"if": condition, "then": consequence, "description": str(need)}
