"""
Structured logs: one line per event on standard output, readable in development, JSON in production.

Called once by each command that runs for long. Nothing logs a push target, a token or a message's text.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

# These tell request bodies, SQL values and the like at DEBUG: push targets and tokens among them.
_TOO_TALKATIVE = ("google", "urllib3", "django.db.backends", "asyncio", "httpx")


def configure(*, level: str, as_json: bool) -> None:
    """Send everything, structlog's events and the standard library's records, through one formatter."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_last(as_json)))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _TOO_TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLevelName(level)))
    # An answer that tells a client of its mistake is none of the operator's business.
    logging.getLogger("django.request").addFilter(_is_our_fault)
    # The pool tells of every connection that it lends.
    logging.getLogger("psycopg").setLevel(logging.WARNING)


def _is_our_fault(record: logging.LogRecord) -> bool:
    return int(getattr(record, "status_code", 500)) >= 500


def _last(as_json: bool) -> list[Any]:
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if as_json:
        return [remove, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # Plain tracebacks: the colourful ones print local variables, and with them secrets.
    plain = structlog.dev.plain_traceback
    return [remove, structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=plain)]
