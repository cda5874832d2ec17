"""The configuration: one frozen object, read once from the environment and a `.env` file."""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import load_dotenv
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.config.values import (
    AnyCase,
    Bucket,
    Bytes,
    Count,
    DatabaseUrl,
    Days,
    Durations,
    HostPort,
    Hosts,
    HttpUrl,
    Names,
    OptionalSecret,
    PerSecond,
    Prefix,
    PrivateHosts,
    RateLimits,
    Seconds,
    Secret,
    SentryDsn,
    WebhookSecret,
)
from app.errors import ConfigError

__all__ = ["Config", "HostPort", "from_environment", "load"]

INSTANCE = Path("instance")

# 128 bits are 22 characters of base64: a shorter key can be guessed.
SECRET_KEY_LENGTH = 22
EXAMPLE_SECRET_KEY = "change-me-to-a-long-random-value"  # noqa: S105 - .env.example's, refused


class Config(BaseModel):
    """Every setting under its environment name in lower case; durations in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    public_url: HttpUrl
    """Where the provider and the browser reach this service; callback and image URLs start with it."""
    secret_key: Secret
    """Signs tokens and sessions and keys the hashes of API keys; at least 22 characters."""
    secret_key_fallbacks: Annotated[Names, Field(repr=False)] = ()
    """Earlier secret keys, separated by commas: what they signed stays valid."""
    database_url: DatabaseUrl = f"sqlite:///{INSTANCE}/postback.db"
    """SQLite (`sqlite:///path`) or PostgreSQL (`postgresql://user:password@host/name`)."""

    storage: Annotated[Literal["local", "s3"], AnyCase] | None = None
    """Where images are kept; `s3` when `S3_BUCKET` is set, else `local`."""
    s3_bucket: Bucket | None = None
    """The bucket; credentials and region are boto3's own `AWS_*` variables."""
    s3_endpoint_url: HttpUrl | None = None
    """The address of an S3 server that is not Amazon's."""
    s3_prefix: Prefix = ""
    """What every key in the bucket starts with."""
    s3_public_url: HttpUrl | None = None
    """Where the bucket can be read by anybody (a CDN): images redirect there, without signature."""
    local_storage_dir: Path = INSTANCE / "storage"
    """The folder that `local` storage keeps images in."""

    default_provider: Literal["acedata", "agcloud"] = "acedata"
    """Who gets an edit whose request names nobody."""
    acedata_api_key: OptionalSecret = None
    """Our key at Ace Data Cloud."""
    acedata_base_url: HttpUrl = "https://api.acedata.cloud"
    """Where Ace Data Cloud's API is."""
    agcloud_api_key: OptionalSecret = None
    """Our key at AGCloud."""
    agcloud_base_url: HttpUrl = "https://aiandgpu.com"
    """Where AGCloud's API is."""

    max_upload_bytes: Bytes = 832 * 2**20
    """The largest submission, all its files together."""
    max_callback_bytes: Bytes = 256 * 2**20
    """The largest callback body, inflated."""
    max_image_bytes: Bytes = 64 * 2**20
    """The largest image file that is copied into storage."""
    max_image_pixels: Count = 64_000_000
    """The largest image, in pixels, that is decoded; bounds what a decompression bomb can cost."""
    callback_max_age: Seconds = 7 * 86400.0
    """How long a callback URL is valid."""
    task_deadline: Seconds = 3600.0
    """When a task without a result is given up, unless its request names a `deadline`."""
    reconcile_after: Seconds = 60.0
    """How long the provider may be silent before it is asked, then ever less often."""
    sync_wait: Seconds = 300.0
    """How long a submission that waits for its result may wait."""
    resend_window: Seconds = 900.0
    """How long an identical submission joins the unanswered one before it."""
    confirm_callbacks: Annotated[Literal["off", "on"], AnyCase] = "off"
    """Whether a callback counts only when the provider's own lookup agrees."""
    image_hosts: Hosts = ()
    """The only hosts that images are fetched from (`*.example.com` for any under it); empty for any."""
    allow_private_hosts: PrivateHosts = ()
    """`host:port` or address ranges that outbound calls may reach although they are private."""

    webhook_secret: Annotated[WebhookSecret | None, Field(repr=False)] = None
    """Signs what is pushed to a task's own `callback_url`: `whsec_` and base64."""
    delivery_schedule: Durations = (
        5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0,
    )  # fmt: skip
    """The pauses between attempts to deliver an event."""

    retention_days: Days | None = None
    """After how many days an ended task is deleted with its images; empty for never."""
    retention_body_days: Days = 30.0
    """After how many days bodies that came in or were pushed and the rejection log are deleted."""
    worker_concurrency: Count = 8
    """How many jobs one worker runs at a time."""
    provider_concurrency: Count = 16
    """How many calls to one provider run at a time, over all workers."""
    provider_rate: PerSecond = 50.0
    """How many submissions to one provider begin, over all workers; `off` for no limit."""
    lease_seconds: Seconds = 30.0
    """How long a silent worker keeps a job before another one takes it over."""
    rate_limits: RateLimits = "1000 per second"
    """How often one API key may call each web process (Flask-Limiter's grammar); `off` for no limit."""

    trusted_proxies: Annotated[int, Field(ge=0)] = 0
    """How many reverse proxies stand in front; their `X-Forwarded-*` are believed."""
    metrics_token: OptionalSecret = None
    """Who bears it may read `/metrics` from elsewhere than loopback."""
    sentry_dsn: Annotated[SentryDsn | None, Field(repr=False)] = None
    """Where unexpected errors are reported; needs the package `sentry-sdk`."""
    log_format: Annotated[Literal["console", "json"], AnyCase] = "console"
    """Log lines for people or for programs."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = "info"
    """The least important line that is logged."""
    port: Annotated[int, Field(gt=0, lt=65536)] = 8000
    """The port to listen on."""

    @property
    def sqlite(self) -> bool:
        """Whether the database is SQLite."""
        return _is_sqlite(self.database_url)


def from_environment(*, embedded: bool = False) -> Config:
    """The configuration of this process, from `os.environ` and the file `.env` beside it.

    An `embedded` service (`make run`) is its own public URL and, on SQLite, makes its own secret key
    where the environment names none.  Raises `ConfigError`, which names every wrong setting.
    """
    load_dotenv(".env", override=False)
    given = {name: value for name, value in os.environ.items() if value.strip()}
    if embedded:
        port = given.get("PORT", "8000").strip()
        # A wrong one is told of by its own name.
        given.setdefault("PUBLIC_URL", f"http://127.0.0.1:{port if port.isdecimal() else 8000}")
    if embedded and "SECRET_KEY" not in given and _is_sqlite(given.get("DATABASE_URL")):
        given["SECRET_KEY"] = _instance_secret_key()
    return load(given, production=not embedded)


def load(environ: Mapping[str, str], *, production: bool = True) -> Config:
    """The configuration that `environ` describes; an empty value counts as none.

    Raises `ConfigError` with a line for every wrong setting: name, value, rule.
    """
    given = {
        name: value.strip()
        for name in Config.model_fields
        if (value := environ.get(name.upper(), "")).strip()
    }
    given.setdefault("storage", "s3" if "s3_bucket" in given else "local")
    problems = _cross_checks(given, production)
    try:
        config = Config.model_validate(given)
    except ValidationError as error:
        raise ConfigError(problems + [_explain(item) for item in error.errors()]) from None
    if problems:
        raise ConfigError(problems)
    return config


def _cross_checks(given: Mapping[str, str], production: bool) -> list[str]:
    problems = []
    if production:
        fallbacks = re.split(r"\s*,\s*", given.get("secret_key_fallbacks", ""))
        problems += _weak("SECRET_KEY", given.get("secret_key", ""))
        problems += [problem for key in fallbacks for problem in _weak("SECRET_KEY_FALLBACKS", key)]
    if given["storage"].lower() == "s3" and "s3_bucket" not in given:
        problems.append("S3_BUCKET: missing, needed by STORAGE=s3")
    return problems


def _weak(name: str, key: str) -> list[str]:
    """What is wrong with a secret key, without the key; an old one forges as well as the current."""
    advice = "generate one: openssl rand -base64 32"
    if key == EXAMPLE_SECRET_KEY:
        return [f"{name}: still the example's; {advice}"]
    if 0 < len(key) < SECRET_KEY_LENGTH:
        return [f"{name}: {len(key)} characters, expected at least {SECRET_KEY_LENGTH}; {advice}"]
    return []


def _explain(item: Any) -> str:
    field = str(item["loc"][0])
    name = field.upper()
    if item["type"] == "missing":
        return f"{name}: missing; {Config.model_fields[field].description}"
    rule = str(item["msg"]).removeprefix("Value error, ")
    if not Config.model_fields[field].repr:
        return f"{name}: {rule}"
    return f"{name}={item['input']!r}: {rule}"


def _is_sqlite(url: str | None) -> bool:
    return url is None or url.startswith("sqlite")


def _instance_secret_key() -> str:
    """This installation's own key, made at the first start and kept beside the database."""
    INSTANCE.mkdir(exist_ok=True)
    path = INSTANCE / "secret_key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    with os.fdopen(descriptor, "w") as file:
        file.write(key := secrets.token_urlsafe(32))
    return key
