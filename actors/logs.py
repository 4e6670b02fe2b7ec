"""Logs of every process: one JSON object a line on stderr, or coloured lines on a terminal.

Modules log through the standard library, under ``jamjet``. What a line is about (request, tenant,
execution, node) is told by the context it was logged in: whoever begins something says ``about(...)``,
and everything it awaits or starts says so too.
"""

import contextlib
import logging
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import structlog

ROOT = "jamjet"

_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL,
}

_subject: ContextVar[dict[str, str]] = ContextVar("subject", default={})  # noqa: B039 - never changed in place


def about(**ids: str) -> None:
    """From here on lines are about this alone: any of request_id, tenant_id, execution_id, node_id."""
    _subject.set(ids)


def also_about(**ids: str) -> None:
    """From here on lines are about this too."""
    _subject.set({**_subject.get(), **ids})


def subject() -> dict[str, str]:
    """What a line that is logged here would be about. Not to be changed."""
    return _subject.get()


def level_of(text: str) -> int:
    """The level of a setting's first part, as in ``info,jamjet.http=debug``; unknown is info."""
    return _LEVELS.get(text.split(",")[0].strip().lower(), logging.INFO)


def levels_of(text: str) -> dict[str, int]:
    """The levels that a setting gives to loggers of ours by name, as in ``info,jamjet.http=debug``."""
    named = (part.partition("=") for part in text.split(",")[1:])
    return {
        name.strip(): _LEVELS[level.strip().lower()]
        for name, _, level in named
        if level.strip().lower() in _LEVELS and name.strip().startswith(ROOT)
    }


def configure_process(setting: str, process: str) -> None:
    """Log what ``jamjet`` loggers say in this actor or replica, as the setting's levels ask for.

    The handler is on our own logger: Ray and Serve configure theirs, and the root's, themselves.
    Once is enough; again, it changes the level and the name.
    """
    handler = _handler([_named(process)], on_terminal=False)
    logger = logging.getLogger(ROOT)
    for old in logger.handlers[:]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(level_of(setting))
    for name, level in levels_of(setting).items():
        logging.getLogger(name).setLevel(level)


def configure_logs(level: int) -> None:
    """Send structlog's events and the standard library's records of ``level`` and up to stderr."""
    import structlog

    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = _handler([], on_terminal=sys.stderr.isatty())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # One line a request is the caller's business, not the operator's.
    logging.getLogger("httpx2").setLevel(logging.WARNING)


def _shared() -> "list[structlog.typing.Processor]":
    import structlog

    return [
        structlog.contextvars.merge_contextvars,
        _add_subject,
        _add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _handler(more: "list[structlog.typing.Processor]", *, on_terminal: bool) -> "logging.StreamHandler[Any]":
    import structlog

    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer(_dumps)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                _without_rays,
                *_shared(),
                *more,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if on_terminal else [structlog.processors.format_exc_info]),
                renderer,
            ],
        )
    )
    return handler


def _without_rays(_: Any, __: str, event: Any) -> Any:
    """Ray marks every record of the standard library for its own logs."""
    event.pop("_ray_timestamp_ns", None)
    return event


def _add_subject(_: Any, __: str, event: Any) -> Any:
    for name, value in _subject.get().items():
        event.setdefault(name, value)
    return event


def _add_trace(_: Any, __: str, event: Any) -> Any:
    """The trace that the line is part of, where there is one."""
    from actors import tracing

    trace_id = tracing.trace_id()
    if trace_id is not None:
        event.setdefault("trace_id", trace_id)
    return event


def _named(process: str) -> "structlog.typing.Processor":
    def add(_: Any, __: str, event: Any) -> Any:
        event.setdefault("process", process)
        return event

    return add


def _dumps(value: Any, **_: Any) -> str:
    import orjson

    with contextlib.suppress(TypeError):
        return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    # What is no Unicode, as in a header that a client made up, is escaped.
    import json

    return json.dumps(value, default=repr)
