"""A submission once more, as a command for a shell."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Of the files that are sent again, by their types.
_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


def curl(public_url: str, task: Mapping[str, Any]) -> str:
    """The request of a task as the API gives it; with files, as a form, once they are fetched."""
    fields = {"provider": task["provider"], **task["request"]}
    files = [item for item in task["inputs"] if item["content_type"]]
    lines = [
        f"curl {shlex.quote(f'{public_url}/v1/images/edits')}",
        '-H "Authorization: Bearer $POSTBACK_API_KEY"',
    ]
    if files:
        names = [_name(item) for item in files]
        fetched = [
            f"curl -fsSL {shlex.quote(item['url'])} -o {name}\n"
            for item, name in zip(files, names, strict=True)
        ]
        return "".join(fetched) + _joined([*lines, *_form(files, names), *_texts(fields)])
    body = shlex.quote(json.dumps(fields, ensure_ascii=False))
    return _joined([*lines, '-H "Content-Type: application/json"', f"-d {body}"])


def _joined(lines: Sequence[str]) -> str:
    return " \\\n  ".join(lines)


def _name(item: Mapping[str, Any]) -> str:
    extension = _EXTENSIONS.get(item["content_type"], "img")
    return f"{item['role']}-{item['index'] + 1}.{extension}"


def _form(files: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[str]:
    for item, name in zip(files, names, strict=True):
        yield f"-F {item['role']}=@{name}"


def _texts(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"--form-string {shlex.quote(f'{name}={text}')}"
