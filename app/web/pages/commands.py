"""A submission once more, as a command for a shell."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.models import Role

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
        names = [_name(item, place) for place, item in enumerate(files, 1)]
        fetched = [
            f"curl -fsSL {shlex.quote(item['url'])} -o {name}\n"
            for item, name in zip(files, names, strict=True)
        ]
        return "".join(fetched) + _joined([*lines, *_form(files, names), *_texts(fields)])
    body = shlex.quote(json.dumps(fields, ensure_ascii=False))
    return _joined([*lines, '-H "Content-Type: application/json"', f"-d {body}"])


def _joined(lines: Sequence[str]) -> str:
    return " \\\n  ".join(lines)


def _name(item: Mapping[str, Any], place: int) -> str:
    extension = _EXTENSIONS.get(item["content_type"], "img")
    # The name of an unknown field may hold what no file's name may.
    known = item["role"] in tuple(Role)
    stem = f"{item['role']}-{item['index'] + 1}" if known else f"file-{place}"
    return f"{stem}.{extension}"


def _form(files: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[str]:
    for item, name in zip(files, names, strict=True):
        part = f"{item['role']}=@{name}"
        yield f"-F {shlex.quote(part)}"


def _texts(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"--form-string {shlex.quote(f'{name}={text}')}"
