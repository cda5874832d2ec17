"""Wrong settings: every program says which ones, and does not start."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.commands.programs import PYTHON, ROOT, run, run_program
from tests.factories import SECRET_KEY

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
    "SECRET_KEY": "short",
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
def folder(tmp_path: Path) -> Path:
    """An empty folder, but for gunicorn's configuration."""
    path = tmp_path / "here"
    path.mkdir()
    shutil.copy(ROOT / "gunicorn.conf.py", path)
    return path


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
    # A secret that is wrong is still one.
    assert "'short'" not in result.stderr


def _names(text: str, setting: str) -> bool:
    """Whether a line of `text` begins with `setting`, its value or none, and a colon."""
    for line in text.splitlines():
        words = line.strip().removeprefix("app.errors.ConfigError: ")
        if words.startswith((f"{setting}:", f"{setting}='")):
            return ": " in words
    return False


@pytest.mark.parametrize("program", OF_PRODUCTION)
@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"SECRET_KEY": "change-me-to-a-long-random-value"}, "SECRET_KEY: still the example's"),
        ({"SECRET_KEY": "twenty-one characters"}, "SECRET_KEY: 21 characters, expected at least"),
        ({"PUBLIC_URL": ""}, "PUBLIC_URL: missing"),
    ],
)
def test_production_starts_with_a_good_key_and_a_public_url_only(
    folder: Path, program: str, settings: dict[str, str], setting: str
) -> None:
    good = {"SECRET_KEY": SECRET_KEY, "PUBLIC_URL": "https://postback.test"}
    result = run_program(folder, {**good, **settings}, *PROGRAMS[program])

    assert result.returncode != 0
    assert setting in result.stderr
    assert not (folder / "instance").exists()


def test_the_example_of_a_file_of_settings_names_what_has_to_be_changed(folder: Path) -> None:
    shutil.copy(ROOT / ".env.example", folder / ".env")
    result = run_program(folder, {}, *PROGRAMS["worker"])

    assert result.returncode == 1
    assert "SECRET_KEY: still the example's" in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_a_file_of_settings_is_read_and_the_environment_goes_before_it(folder: Path) -> None:
    (folder / ".env").write_text("SYNC_WAIT=soon\nPORT=many\n")
    result = run(folder, {"PORT": "9"}, "migrate")

    assert result.returncode == 1
    assert "SYNC_WAIT='soon'" in result.stderr
    assert "PORT" not in result.stderr


def test_postgresql_needs_a_key_of_its_own(folder: Path, postgres_url: str) -> None:
    result = run(folder, {"DATABASE_URL": postgres_url}, "serve")

    assert result.returncode == 1
    assert "SECRET_KEY: missing" in result.stderr


def test_the_servers_own_lines_have_the_same_least_level(
    folder: Path, settings: dict[str, str]
) -> None:
    code = "import runpy; print(runpy.run_path('gunicorn.conf.py')['loglevel'])"
    result = run_program(folder, {**settings, "LOG_LEVEL": "error"}, sys.executable, "-c", code)

    assert (result.returncode, result.stdout, result.stderr) == (0, "error\n", "")
