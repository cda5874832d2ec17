"""Settings: how they are spelled, and what is said of wrong ones."""

import stat
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from app import config
from app.config import Config, HostPort
from app.errors import ConfigError

REQUIRED = {"PUBLIC_URL": "https://postback.test", "SECRET_KEY": "0123456789abcdefghijkl"}


def load(**settings: str) -> Config:
    return config.load({**REQUIRED, **settings})


def problems(**settings: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(**settings)
    return caught.value.problems


def test_two_settings_are_enough() -> None:
    loaded = config.load(REQUIRED)

    assert loaded.public_url == "https://postback.test"
    assert loaded.storage == "local"
    assert loaded.sqlite
    assert loaded.task_deadline == 3600
    assert loaded.max_callback_bytes == 256 * 2**20
    assert loaded.delivery_schedule == (5, 300, 1800, 7200, 18000, 36000, 36000)


def test_an_empty_value_counts_as_none() -> None:
    assert load(TASK_DEADLINE=" ", S3_BUCKET="") == config.load(REQUIRED)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0.2s", 0.2), ("250ms", 0.25), ("5m", 300), ("1.5h", 5400), ("7 d", 604_800)],
)
def test_a_duration_is_a_number_of_seconds_or_one_with_a_unit(text: str, seconds: float) -> None:
    assert load(TASK_DEADLINE=text).task_deadline == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["0", "-1", "5 minutes", "1e3", "s", "infinity", "1,5"])
def test_any_other_duration_is_refused(text: str) -> None:
    rule = "expected a positive number of seconds, or one with ms, s, m, h or d"
    assert problems(TASK_DEADLINE=text) == [f"TASK_DEADLINE={text!r}: {rule}"]


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("1KiB", 1024), ("3 MiB", 3 * 2**20), ("2GiB", 2**31)]
)
def test_a_size_is_a_number_of_bytes_or_one_with_a_unit(text: str, size: int) -> None:
    assert load(MAX_IMAGE_BYTES=text).max_image_bytes == size


@pytest.mark.parametrize("text", ["0", "1.5MiB", "1MB", "1kib", "-3", "lots"])
def test_any_other_size_is_refused(text: str) -> None:
    (problem,) = problems(MAX_IMAGE_BYTES=text)
    assert problem.startswith(f"MAX_IMAGE_BYTES={text!r}: expected a positive number of bytes")


def test_lists_are_separated_by_commas_and_the_schedule_by_blanks_too() -> None:
    loaded = load(
        SECRET_KEY_FALLBACKS="one , two",
        IMAGE_HOSTS="a.test,*.b.test,",
        DELIVERY_SCHEDULE="5s, 1m 2h",
    )

    assert loaded.secret_key_fallbacks == ("one", "two")
    assert loaded.image_hosts == ("a.test", "*.b.test")
    assert loaded.delivery_schedule == (5, 60, 7200)


def test_private_hosts_are_hosts_with_a_port_or_ranges() -> None:
    text = "localhost:9000, [::1]:80, 10.0.0.0/8, fd00::/8, 192.0.2.1"
    assert load(ALLOW_PRIVATE_HOSTS=text).allow_private_hosts == (
        HostPort("localhost", 9000),
        HostPort("::1", 80),
        IPv4Network("10.0.0.0/8"),
        IPv6Network("fd00::/8"),
        IPv4Network("192.0.2.1/32"),
    )


@pytest.mark.parametrize("text", ["localhost", "http://localhost:80", "localhost:99999", "a:b"])
def test_any_other_private_host_is_refused(text: str) -> None:
    (problem,) = problems(ALLOW_PRIVATE_HOSTS=text)
    assert "expected host:port or an address range such as 10.0.0.0/8" in problem
    assert repr(text) in problem


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_means_psycopg_3(scheme: str) -> None:
    loaded = load(DATABASE_URL=f"{scheme}://me:secret@host/name?sslmode=require")

    assert loaded.database_url == "postgresql+psycopg://me:secret@host/name?sslmode=require"
    assert not loaded.sqlite


@pytest.mark.parametrize(
    "url", ["mysql://host/name", "sqlite://", "sqlite:relative", "postgres://"]
)
def test_any_other_database_is_refused_without_repeating_the_url(url: str) -> None:
    assert problems(DATABASE_URL=url) == [
        "DATABASE_URL: expected sqlite:///path/to/file or postgresql://user:password@host/name"
    ]


def test_a_bucket_makes_storage_s3() -> None:
    assert load(S3_BUCKET="images").storage == "s3"
    assert load(S3_BUCKET="images", STORAGE="local").storage == "local"


def test_s3_needs_a_bucket() -> None:
    assert problems(STORAGE="s3") == ["S3_BUCKET: missing, needed by STORAGE=s3"]


@pytest.mark.parametrize(
    "url", ["postback.test", "ftp://postback.test", "https://", "http://[::1", "https://a.test?x=1"]
)
def test_a_public_url_must_be_one(url: str) -> None:
    (problem,) = problems(PUBLIC_URL=url)
    assert problem.startswith(f"PUBLIC_URL={url!r}: ")


def test_a_public_url_loses_its_last_slash() -> None:
    assert load(PUBLIC_URL="https://postback.test/path/").public_url == "https://postback.test/path"


def test_every_wrong_setting_is_named_at_once() -> None:
    wrong = {
        "SECRET_KEY": "short",
        "TASK_DEADLINE": "soon",
        "PORT": "0",
        "LOG_FORMAT": "xml",
        "RATE_LIMITS": "as often as you like",
    }
    with pytest.raises(ConfigError) as caught:
        config.load(wrong)

    named = {problem.partition("=")[0].partition(":")[0] for problem in caught.value.problems}
    assert named == {*wrong, "PUBLIC_URL"}


def test_a_missing_public_url_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^PUBLIC_URL: missing; Where the provider and the"):
        config.load({"SECRET_KEY": REQUIRED["SECRET_KEY"]})


def test_a_secret_key_must_not_be_short_or_the_examples() -> None:
    assert "5 characters, expected at least 22" in problems(SECRET_KEY="short")[0]
    assert "still the example's" in problems(SECRET_KEY=config.EXAMPLE_SECRET_KEY)[0]


def test_the_example_has_the_key_that_is_refused() -> None:
    example = Path(__file__).parents[2] / ".env.example"
    assert f"SECRET_KEY={config.EXAMPLE_SECRET_KEY}\n" in example.read_text()


def test_secrets_are_neither_shown_nor_repeated_in_errors() -> None:
    secret = "not for anybody's eyes"
    loaded = load(
        SECRET_KEY=secret,
        SECRET_KEY_FALLBACKS=secret,
        ACEDATA_API_KEY=secret,
        AGCLOUD_API_KEY=secret,
        WEBHOOK_SECRET=secret,
        METRICS_TOKEN=secret,
        SENTRY_DSN=secret,
        DATABASE_URL=f"postgresql://me:{secret}@host/name",
    )

    assert secret not in repr(loaded)


def test_an_embedded_service_makes_a_secret_key_once_and_is_its_own_public_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Config.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("PORT", "8123")

    first = config.from_environment(embedded=True)

    assert first.public_url == "http://127.0.0.1:8123"
    assert len(first.secret_key) >= config.SECRET_KEY_LENGTH
    assert config.from_environment(embedded=True) == first
    assert stat.S_IMODE((tmp_path / "instance" / "secret_key").stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="SECRET_KEY: missing"):
        config.from_environment()


def test_the_environment_comes_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # What `load_dotenv` sets goes with the test, because these are taken back to what they were.
    for name in (*REQUIRED, "TASK_DEADLINE", "DATABASE_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    lines = [f"{name}={value}" for name, value in REQUIRED.items()]
    Path(".env").write_text("\n".join([*lines, "TASK_DEADLINE=5m", "PORT=1"]))
    monkeypatch.setenv("PORT", "8200")

    loaded = config.from_environment()

    assert (loaded.public_url, loaded.task_deadline) == (REQUIRED["PUBLIC_URL"], 300)
    assert loaded.port == 8200
