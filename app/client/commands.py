"""The commands `submit` and `tasks`."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import click
from dotenv import load_dotenv

from app.client.api import Api, Json
from app.edits import OUR_RULES
from app.errors import InvalidFieldError, PostbackError
from app.models import ImageStatus, TaskStatus
from app.providers import RULES
from app.providers.base import File
from app.providers.rules import Flag, Kind

# What has a place of its own on the command line.
_PLACED = {"image", "mask", "prompt"}
_SHOWN_PROMPT = 60

_HELP = """Submit an edit: images (files or URLs), and last what is to be done with them.

Prints the task's id or, with --wait, the paths of the files that come of it.  Any other field of
the API can be given as an option, too: --sparkle 11.
"""


class UnfinishedError(PostbackError):
    """The task ended without an image."""

    permanent = True


def _submit(
    arguments: Sequence[str],
    url: str | None,
    api_key: str | None,
    wait: bool,
    out: Path | None,
    **given: Any,
) -> None:
    api = _api(url, api_key)
    texts, places = _split(arguments)
    texts |= {name: text for name, text in given.items() if text is not None}
    mask = texts.pop("mask", None)
    if "prompt" not in texts and places:
        texts["prompt"] = places.pop()
    urls = [place for place in places if place.startswith(("http://", "https://"))]
    files = [_file("image", place) for place in places if place not in urls]
    files += [_file("mask", mask)] if mask else []
    # A task's id is always asked for at once, also without the option.
    fields = {**({"image": urls} if urls else {}), **texts, "async": "true"}
    if out is not None:
        # Before anything is paid.
        _make(out)
    task_id = api.submit(fields, files)
    if not wait and out is None:
        click.echo(task_id)
        return
    click.echo(f"Task {task_id}", err=True)
    for path in _download(api, _wait(api, task_id), out or Path()):
        click.echo(path)


def _tasks(
    id_: str | None, url: str | None, api_key: str | None, status: str | None, limit: int
) -> None:
    """List the newest tasks, or show one as JSON."""
    api = _api(url, api_key)
    if id_ is not None:
        click.echo(json.dumps(api.task(id_), indent=2, ensure_ascii=False))
        return
    for task in api.tasks(status=status, limit=limit):
        words = " ".join(str(task["prompt"] or "").split())
        prompt = words if len(words) <= _SHOWN_PROMPT else f"{words[: _SHOWN_PROMPT - 3]}..."
        line = [task["task_id"], task["created_at"], f"{task['status']:9}", task["model"] or "-"]
        click.echo("  ".join([*line, prompt]))


def _api(url: str | None, api_key: str | None) -> Api:
    load_dotenv(".env", override=False)
    url = url or os.environ.get("POSTBACK_URL")
    api_key = api_key or os.environ.get("POSTBACK_API_KEY")
    if not api_key:
        rule = "give --api-key or set POSTBACK_API_KEY; python -m app keys create makes one"
        raise InvalidFieldError("api_key", f"no API key: {rule}")
    if url and not url.startswith(("http://", "https://")):
        rule = "expected an address such as https://postback.example.com"
        raise InvalidFieldError("url", f"POSTBACK_URL or --url: {rule}, not {url!r}")
    return Api(url or f"http://127.0.0.1:{os.environ.get('PORT') or 8000}", api_key)


def _split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Fields without an option of their own (`--name value`, `--name=value`), and all the rest."""
    texts: dict[str, str] = {}
    places: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if not argument.startswith("--"):
            places.append(argument)
            continue
        name, equals, text = argument[2:].partition("=")
        if not equals:
            text = left.pop(0) if left else "true"
        texts[name.replace("-", "_")] = text
    return texts, places


def _file(field: str, place: str) -> File:
    path = Path(place)
    if not path.is_file():
        raise InvalidFieldError(field, f"{field}: there is no file {place!r}")

    def reopen() -> BinaryIO:
        return path.open("rb")

    # What it is, the service sees for itself.
    return File(field, path.name, "application/octet-stream", path.stat().st_size, reopen)


def _wait(api: Api, task_id: str) -> Json:
    """The task when it has ended, telling meanwhile how far it is."""
    started = time.monotonic()
    task: Json = {}
    shown = ""
    try:
        for task in api.until_it_ends(task_id):
            seconds = f"{time.monotonic() - started:.0f} s"
            if sys.stderr.isatty():
                click.echo(f"\r{task['status']:9}  {seconds:>6}", err=True, nl=False)
            elif task["status"] != shown:
                click.echo(f"{task['status']} after {seconds}", err=True)
            shown = task["status"]
    except KeyboardInterrupt:
        message = f"The task goes on: python -m app tasks {task_id}"
        raise UnfinishedError(f"\n{message}") from None
    finally:
        if sys.stderr.isatty():
            click.echo(err=True)
    return task


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"out: the folder {str(folder)!r} cannot be made: {error.strerror}"
        raise InvalidFieldError("out", message) from None


def _download(api: Api, task: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    if task["status"] != TaskStatus.SUCCEEDED:
        error = task["error"] or {"code": task["status"], "message": "there is no result"}
        raise UnfinishedError(f"the task is {task['status']}: {error['message']} ({error['code']})")
    for image in task["images"]:
        if image["status"] != ImageStatus.STORED:
            why = image.get("error") or {"message": "it is not there"}
            click.echo(f"image {image['index']}: {why['message']}", err=True)
            continue
        extension = image["url"].rpartition(".")[2]
        path = folder / f"{task['task_id']}-{image['index']}.{extension}"
        try:
            api.download(image["url"], path)
        except OSError as error:
            reason = f"{str(path)!r} cannot be written: {error.strerror}"
            raise UnfinishedError(f"{reason}; the image is at {image['url']}") from None
        yield path


def _field_options() -> list[click.Parameter]:
    """An option for each field that there are rules for, its help made of them."""
    kinds: dict[str, list[Kind]] = {}
    for rules in (OUR_RULES, *RULES.values()):
        for name, kind in rules.fields.items():
            kinds.setdefault(name, []).append(kind)
    return [_option(name, each) for name, each in kinds.items() if name not in _PLACED]


def _option(name: str, kinds: Sequence[Kind]) -> click.Option:
    names = [f"--{name.replace('_', '-')}", name]
    text = "; or ".join(dict.fromkeys(map(str, kinds)))
    if isinstance(kinds[0], Flag):
        return click.Option(names, flag_value="true", default=None, help=text)
    return click.Option(names, metavar="VALUE", help=text)


def _connection_options() -> list[click.Parameter]:
    return [
        click.Option(["--url"], help="Where the service is; else $POSTBACK_URL, or this machine."),
        click.Option(
            ["--api-key"], help="A key with the scopes submit and read; else $POSTBACK_API_KEY."
        ),
    ]


submit = click.Command(
    "submit",
    help=_HELP,
    short_help="Submit an edit, and wait for its files.",
    callback=_submit,
    context_settings={
        "ignore_unknown_options": True,
        "max_content_width": 100,
        # Fields may be written as the API has them, too.
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
    params=[
        click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED, metavar="IMAGE... PROMPT"),
        click.Option(["--mask"], metavar="FILE", help="A PNG that is transparent where to edit."),
        click.Option(
            ["--prompt"], metavar="TEXT", help="What is to be done, if it is not the last argument."
        ),
        click.Option(
            ["--wait"], is_flag=True, help="Wait until the files are there, and fetch them."
        ),
        click.Option(
            ["--out"],
            type=click.Path(file_okay=False, path_type=Path),
            help="The folder for the files; implies --wait.",
        ),
        *_connection_options(),
        *_field_options(),
    ],
)

tasks = click.Command(
    "tasks",
    help=_tasks.__doc__,
    callback=_tasks,
    params=[
        click.Argument(["id_"], required=False, metavar="[ID]"),
        click.Option(
            ["--status"], type=click.Choice([each.value for each in TaskStatus]), help="Only those."
        ),
        click.Option(["--limit"], type=click.IntRange(1, 100), default=20, show_default=True),
        *_connection_options(),
    ],
)
