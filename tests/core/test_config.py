"""Settings: how they are spelled, and what is said of wrong ones."""

import stat
from base64 import b64encode
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


def test_two_settings_are_enough_and_an_empty_value_counts_as_none() -> None:
    loaded = config.load(REQUIRED)
    assert (loaded.storage, loaded.sqlite) == ("local", True)
    assert load(TASK_DEADLINE=" ", S3_BUCKET="") == loaded


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("task_deadline", "90", 90),
        ("task_deadline", "0.2s", 0.2),
        ("task_deadline", "250ms", 0.25),
        ("task_deadline", "5m", 300),
        ("task_deadline", "1.5h", 5400),
        ("task_deadline", "7 d", 604_800),
        ("max_image_bytes", "1000", 1000),
        ("max_image_bytes", "1KiB", 1024),
        ("max_image_bytes", "3 MiB", 3 * 2**20),
        ("max_image_bytes", "2GiB", 2**31),
        ("max_image_bytes", "1.5MiB", 1_572_864),
        ("public_url", "https://postback.test/path/", "https://postback.test/path"),
        ("secret_key_fallbacks", f"{22 * 'a'} , {22 * 'b'}", (22 * "a", 22 * "b")),
        ("log_level", "INFO", "info"),
        ("rate_limits", "OFF", "off"),
        ("task_deadline", "5000000d", 36_500 * 86_400),
        ("retention_days", "1000000", 36_500),
        ("retention_days", "0.5", 0.5),
        ("image_hosts", "a.test,*.b.test,", ("a.test", "*.b.test")),
        ("delivery_schedule", "5s, 1m 2h", (5, 60, 7200)),
    ],
)
def test_a_setting_has_its_spellings(name: str, text: str, value: object) -> None:
    assert getattr(load(**{name.upper(): text}), name) == value


DURATION = "a positive number of seconds, or one with ms, s, m, h or d"
SIZE = "a positive number of bytes, or one with KiB, MiB or GiB"


@pytest.mark.parametrize(
    ("name", "texts", "rule"),
    [
        ("TASK_DEADLINE", ["0", "-1", "5 minutes", "1e3", "s", "infinity", "1,5"], DURATION),
        ("MAX_IMAGE_BYTES", ["0", "0.5", "1,5MiB", ".5MiB", "1MB", "1kib", "-3", "lots"], SIZE),
    ],
)
def test_any_other_duration_or_size_is_refused(name: str, texts: list[str], rule: str) -> None:
    for text in texts:
        assert problems(**{name: text}) == [f"{name}={text!r}: expected {rule}"]


@pytest.mark.parametrize("text", ["0", "-0.5", "infinity", "nan", "a week"])
def test_days_are_a_positive_number(text: str) -> None:
    (problem,) = problems(RETENTION_DAYS=text)
    assert problem.startswith(f"RETENTION_DAYS={text!r}: Input should be ")


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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("S3_BUCKET", "No Bucket!"),
        ("S3_PREFIX", "photos/../others"),
        ("IMAGE_HOSTS", "http://a b/"),
        ("DELIVERY_SCHEDULE", ","),
        ("PROVIDER_RATE", "often"),
        ("PROVIDER_RATE", "0 per second"),
        ("RATE_LIMITS", "often"),
        ("RATE_LIMITS", "10/second;0 per hour"),
    ],
)
def test_what_cannot_be_meant_is_refused(name: str, text: str) -> None:
    (problem,) = problems(**{name: text})
    assert problem.startswith(f"{name}={text!r}: expected ")


@pytest.mark.parametrize(
    ("text", "per_second"), [("7/second", 7.0), ("90 per 3 minutes", 0.5), ("off", None)]
)
def test_a_providers_rate_is_told_in_calls(text: str, per_second: float | None) -> None:
    assert load(PROVIDER_RATE=text).provider_rate == per_second


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_means_psycopg_3(scheme: str) -> None:
    loaded = load(DATABASE_URL=f"{scheme}://me:secret@host/name?sslmode=require")

    assert loaded.database_url == "postgresql+psycopg://me:secret@host/name?sslmode=require"
    assert not loaded.sqlite


@pytest.mark.parametrize(
    "url",
    [
        "mysql://host/name",
        "sqlite://",
        "sqlite:///",
        "sqlite:relative",
        "sqlite:///:memory:",
        "postgres://",
        "postgres://host:port/name",
    ],
)
def test_any_other_database_is_refused_without_repeating_the_url(url: str) -> None:
    assert problems(DATABASE_URL=url) == [
        "DATABASE_URL: expected sqlite:///path/to/file or postgresql://user:password@host/name"
    ]


def test_a_bucket_makes_storage_s3_and_s3_needs_one() -> None:
    assert load(S3_BUCKET="images").storage == "s3"
    assert load(S3_BUCKET="images", STORAGE="local").storage == "local"
    for spelled in ("s3", "S3"):
        assert problems(STORAGE=spelled) == ["S3_BUCKET: missing, needed by STORAGE=s3"]


@pytest.mark.parametrize(
    "url",
    [
        "postback.test",
        "ftp://postback.test",
        "https://",
        "http://[::1",
        "https://a.test?x=1",
        "https://a.test:port",
        "https://a.test:99999",
        "https://a b",
    ],
)
def test_a_public_url_must_be_one(url: str) -> None:
    (problem,) = problems(PUBLIC_URL=url)
    assert problem.startswith(f"PUBLIC_URL={url!r}: ")


def test_a_public_url_and_a_secret_key_of_ones_own_are_needed() -> None:
    with pytest.raises(ConfigError, match=r"^PUBLIC_URL: missing; Where the provider and the"):
        config.load({"SECRET_KEY": REQUIRED["SECRET_KEY"]})
    assert "5 characters, expected at least 22" in problems(SECRET_KEY="short")[0]
    assert "still the example's" in problems(SECRET_KEY=config.EXAMPLE_SECRET_KEY)[0]
    # Whoever guesses an old key forges as well as with the current one.
    assert "SECRET_KEY_FALLBACKS: 5 characters" in problems(SECRET_KEY_FALLBACKS="short")[0]


def test_secrets_are_neither_shown_nor_repeated_in_errors() -> None:
    secret = "not for anybody's eyes"
    loaded = load(
        SECRET_KEY=secret,
        SECRET_KEY_FALLBACKS=secret,
        ACEDATA_API_KEY=secret,
        AGCLOUD_API_KEY=secret,
        WEBHOOK_SECRET=f"whsec_{b64encode(secret.encode()).decode()}",
        METRICS_TOKEN=secret,
        SENTRY_DSN="https://not-for-anybodys-eyes@sentry.example.com/7",
        DATABASE_URL=f"postgresql://me:{secret}@host/name",
    )

    assert secret not in repr(loaded)
    assert "whsec_" not in repr(loaded)
    assert "not-for-anybodys-eyes" not in repr(loaded)
    for wrong in (
        "x",
        "https://host/7",
        "https://key@host/",
        "ftp://key@host/7",
        "https://key@[/7",
    ):
        (problem,) = problems(SENTRY_DSN=wrong)
        assert problem == "SENTRY_DSN: expected https://key@host/project, as Sentry shows it"
    for wrong in ("whsec_", "c2hvcnQ=", "whsec_c2hvcnQ=", "whsec_ not base64 at all ====="):
        (problem,) = problems(WEBHOOK_SECRET=wrong)
        assert problem.startswith("WEBHOOK_SECRET: expected whsec_ and at least 16 random bytes")


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
    monkeypatch.setenv("PORT", "wrong")
    with pytest.raises(ConfigError) as caught:
        config.from_environment(embedded=True)
    assert [problem.partition("=")[0] for problem in caught.value.problems] == ["PORT"]
