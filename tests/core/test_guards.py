"""Conventions that fail when they are broken."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import config, jobs, providers, services, web
from app.config import Config
from app.jobs import Kind, OnLost
from app.web.openapi.document import PAGES
from app.web.openapi.operations import OPERATIONS
from app.worker import HANDLERS

ROOT = Path(__file__).parents[2]
APP = ROOT / "app"
SOURCES = sorted(APP.rglob("*.py"))
LONGEST_FUNCTION = 60
LONGEST_FILE = 300
# The sandbox is slow on request, and the demonstration waits for processes.
MAY_SLEEP = (APP / "sandbox", APP / "demo.py")

REQUIRED = {"PUBLIC_URL": "https://postback.test", "SECRET_KEY": "0123456789abcdefghijkl"}
# | `NAME` | default | sentence |
SETTING = re.compile(r"\| `([A-Z0-9_]+)` \|([^|]*)\|(.*)\|")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def documented_settings() -> dict[str, tuple[str, str]]:
    """Default and sentence of each setting in the README's table."""
    rows = SETTING.findall((ROOT / "README.md").read_text())
    return {name: (default.strip().strip("`"), text.strip()) for name, default, text in rows}


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_job_has_a_policy_and_a_handler_that_fit(kind: Kind) -> None:
    policy, handler = jobs.POLICIES[kind], HANDLERS[kind]
    # What may not simply be repeated says what happens instead; what costs money may not.
    asks = policy.on_lost is OnLost.RECONCILE
    assert (handler.lost is not None) == asks
    assert asks or kind is not Kind.SUBMIT
    # Nobody claims from a queue that has no places.
    places = jobs.places(config.load(REQUIRED))
    assert jobs.lane_of(jobs.queue_of(kind, "somebody")) in places


def test_every_provider_goes_by_its_name() -> None:
    built = providers.build(config.load(REQUIRED))
    assert [provider.name for provider in built.values()] == list(built)


@pytest.mark.parametrize("name", list(Config.model_fields))
def test_every_setting_is_in_the_readme_with_its_default(name: str) -> None:
    field = Config.model_fields[name]
    settings = documented_settings()
    assert name.upper() in settings, f"README.md has no row for {name.upper()}"
    default, text = settings[name.upper()]

    assert text == " ".join((field.description or "").split())
    assert text.endswith(".")
    if field.is_required():
        assert default == "required"
    elif default:
        loaded = config.load({**REQUIRED, name.upper(): default})
        assert getattr(loaded, name) == field.default
    else:
        assert field.default in {None, "", ()}


def test_the_readme_has_no_setting_that_is_none() -> None:
    assert {name.lower() for name in documented_settings()} <= set(Config.model_fields)


def test_the_example_sets_only_what_there_is() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    names = {match[1] for line in lines if (match := re.match(r"#? ?([A-Z0-9_]+)=", line))}
    unknown = {name for name in names if name.lower() not in Config.model_fields}
    assert {name for name in unknown if not name.startswith("AWS_")} == set()


def test_every_view_for_programs_has_its_row_in_the_documentation(tmp_path: Path) -> None:
    given = {**REQUIRED, "LOCAL_STORAGE_DIR": str(tmp_path)}
    app = web.create_app(services.build(config.load(given)))
    views = {rule.endpoint for rule in app.url_map.iter_rules() if not PAGES.match(rule.endpoint)}
    # app/web/openapi/operations.py
    assert sorted(views - set(OPERATIONS)) == []


def test_no_function_is_long() -> None:
    long = [
        f"{named(path)}: {function.name} has {lines} lines"
        for path in SOURCES
        for function in functions(path)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > LONGEST_FUNCTION
    ]
    assert long == []


def test_no_file_is_long() -> None:
    long = {
        named(path): lines
        for path in SOURCES
        if (lines := len(path.read_text().splitlines())) > LONGEST_FILE
    }
    assert long == {}


def bare_sleeps(path: Path) -> Iterator[int]:
    """The lines that sleep without a comment beside them, or within the two lines above."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if re.search(r"\bsleep\(", line) and "#" not in "".join(lines[max(0, number - 3) : number]):
            yield number


def test_nobody_sleeps_without_a_reason_beside_it() -> None:
    checked = [
        path for path in SOURCES if not any(path.is_relative_to(exempt) for exempt in MAY_SLEEP)
    ]
    assert [f"{named(path)}:{line}" for path in checked for line in bare_sleeps(path)] == []
