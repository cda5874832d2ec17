"""Log lines, for people or for programs; those of the libraries look the same."""

import logging
import re
import sys
from typing import Any

import structlog

from app.config import Config

# API keys, and the signed tokens of callback and image URLs: whoever reads one could use it.
_SECRET = re.compile(r"(?:\bpb_|\.[0-9a-f]{32}\.)[\w.-]{16,}")


def configure(config: Config) -> None:
    """Send what this process logs to standard error, as the settings want it."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(config.log_format),
                _redact,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=config.log_level.upper(), force=True)
    # They tell of every call and every migration step; what matters of those is logged here.
    for name in ("botocore", "boto3", "s3transfer", "urllib3", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _renderers(log_format: str) -> list[structlog.typing.Processor]:
    # Tracebacks without local variables: those hold bodies, keys and tokens.
    if log_format == "json":
        transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [
            structlog.processors.ExceptionRenderer(transformer),
            structlog.processors.JSONRenderer(),
        ]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]


def _redact(_logger: object, _name: str, line: Any) -> Any:
    """The last step, on the whole line: the libraries' messages and the errors' are in it too."""
    return _SECRET.sub("[redacted]", line)
