"""Wrong settings: every program says which ones, and does not start."""

import shutil
import sys
from pathlib import Path

import pytest

from app.config import Config
from tests.commands.programs import PYTHON, ROOT, run, run_program

WRONG = {
    "PUBLIC_URL": "ftp://postback.test",
    "DATABASE_URL": "mysql://localhost/postback",
    "SYNC_WAIT": "soon",
    "MAX_CALLBACK_BYTES": "-1",
    "PORT": "70000",
    "STORAGE": "s3",
    "RATE_LIMITS": "often",
    "LOG_FORMAT": "xml",
    "WORKER_CONCURRENCY": "0",
    "SECRET_KEY": "twenty-one characters",
}
PROGRAMS = {
    "gunicorn": ("gunicorn",),
    "worker": (*PYTHON, "worker"),
    "serve": (*PYTHON, "serve"),
    "keys": (*PYTHON, "keys", "list"),
}
# They serve others, and must not do so with a key that others know.
OF_PRODUCTION = ("gunicorn", "worker")


@pytest.fixture
def folder(folder: Path) -> Path:
    """An empty folder, but for gunicorn's configuration."""
    shutil.copy(ROOT / "gunicorn.conf.py", folder)
    return folder


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_wrong_setting_is_named(folder: Path, program: str) -> None:
    result = run_program(folder, WRONG, *PROGRAMS[program])

    assert result.returncode != 0
    assert result.stdout == ""
    expected = set(WRONG) - {"STORAGE"} | {"S3_BUCKET"}
    if program not in OF_PRODUCTION:
        expected.remove("SECRET_KEY")
    named = {name for name in WRONG | {"S3_BUCKET": ""} if _names(result.stderr, name)}
    assert named == expected
    assert ("SECRET_KEY: 21 characters, expected at least 22" in result.stderr) == (
        "SECRET_KEY" in expected
    )
    # A secret that is wrong is still one.
    assert WRONG["SECRET_KEY"] not in result.stderr


def _names(text: str, setting: str) -> bool:
    """Whether a line of `text` begins with `setting`, its value or none, and a colon."""
    for line in text.splitlines():
        words = line.strip().removeprefix("app.errors.ConfigError: ")
        if words.startswith((f"{setting}:", f"{setting}='")):
            return ": " in words
    return False


@pytest.mark.parametrize("program", OF_PRODUCTION)
def test_production_starts_neither_with_the_examples_key_nor_without_a_public_url(
    folder: Path, program: str
) -> None:
    shutil.copy(ROOT / ".env.example", folder / ".env")
    result = run_program(folder, {"PUBLIC_URL": ""}, *PROGRAMS[program])

    assert result.returncode != 0
    assert "SECRET_KEY: still the example's" in result.stderr
    assert "PUBLIC_URL: missing" in result.stderr
    # What else the example says is right.
    named = {name.upper() for name in Config.model_fields if _names(result.stderr, name.upper())}
    assert named == {"SECRET_KEY", "PUBLIC_URL"}
    assert not (folder / "instance").exists()


def test_a_file_of_settings_is_read_and_the_environment_goes_before_it(folder: Path) -> None:
    (folder / ".env").write_text("SYNC_WAIT=soon\nPORT=many\n")
    result = run(folder, {"PORT": "9"}, "migrate")

    assert result.returncode == 1
    assert "SYNC_WAIT='soon'" in result.stderr
    assert "PORT" not in result.stderr


def test_postgresql_needs_a_key_of_its_own(folder: Path) -> None:
    result = run(folder, {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nothing"}, "serve")

    assert result.returncode == 1
    assert "SECRET_KEY: missing" in result.stderr


def test_the_servers_own_lines_have_the_same_least_level(
    folder: Path, settings: dict[str, str]
) -> None:
    code = "import runpy; print(runpy.run_path('gunicorn.conf.py')['loglevel'])"
    result = run_program(folder, {**settings, "LOG_LEVEL": "error"}, sys.executable, "-c", code)

    assert (result.returncode, result.stdout, result.stderr) == (0, "error\n", "")
