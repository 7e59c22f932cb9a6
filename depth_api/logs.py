"""The API's log: JSON lines on stderr, one for each request and for what goes wrong."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from depth_core.display import shown_text

log: structlog.stdlib.BoundLogger = structlog.get_logger("depthline.api")


def configure_logs() -> None:
    """JSON lines on stderr, those of uvicorn and SQLAlchemy included. For the program; a library's caller has its own."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
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
                structlog.processors.format_exc_info,
                _redacted,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _redacted(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Removes credentials from the URLs of a line, traces included, and escapes control characters."""
    return {name: _redact(value) for name, value in event.items()}


def _redact(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    return "\n".join(map(shown_text, (value if isinstance(value, str) else repr(value)).splitlines()))
