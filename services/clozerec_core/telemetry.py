"""Structured logs, one JSON object a line, and the names that they use.

Logs go to standard error: standard output belongs to commands whose result is a line. Request ids, where there is a
request, come from `request_context.py` and appear in every line that the request causes.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

from clozerec_core.request_context import ids_for_logs

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

SERVING = "serving"
DRAINING = "draining"
STOPPED = "stopped"
METRICS_SERVED = "metrics_served"
BUNDLE_OPENED = "bundle_opened"
AUDIT = "audit"
OPEN_TO_EVERYBODY = "open_to_everybody"
FILE_RELOADED = "file_reloaded"
FILE_REFUSED = "file_refused"
REQUEST_FAILED = "request_failed"
CALLS_SHED = "calls_shed"
LIBRARY_SAID = "library_said"
UNEXPECTED_ERROR = "unexpected_error"


def configure_logging(level: LogLevel = "info", log_format: LogFormat = "json") -> None:
    """Set up structlog for this process; call it once, in `main()`."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            _with_request_ids,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_LibraryLines()], force=True)


def _with_request_ids(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Asked when a line is written, so that requests without one pay nothing."""
    event.update(ids_for_logs())
    return event


def get_audit_logger() -> structlog.typing.FilteringBoundLogger:
    """Writes whatever the log level is."""
    everything = structlog.make_filtering_bound_logger(logging.NOTSET)
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr), wrapper_class=everything, component="audit"
    )
    return logger


class _LibraryLines(logging.Handler):
    """What libraries say through the standard library, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        log = get_logger(record.name)
        log.log(record.levelno, LIBRARY_SAID, message=record.getMessage(), exc_info=record.exc_info)


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines name the part of the system that speaks."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return logger
