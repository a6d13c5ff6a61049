"""Structured logs on standard error: one JSON object per line, or coloured lines for people."""

from __future__ import annotations

import atexit
import faulthandler
import fcntl
import logging
import os
import sys
import threading
from types import TracebackType
from typing import TextIO

import structlog

log = structlog.get_logger()

# A longer line is split at this length.
MAX_LINE_BYTES = 64 * 1024
PIPE_BYTES = 1024 * 1024


def configure_logs(service: str, level: str, form: str) -> None:
    """Send the logs of this process and its libraries through structlog.

    In the JSON format, lines that C libraries write to standard error are logged too.
    """
    out = _standard_error_read(service) if form == "json" else sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        ending: list[structlog.typing.Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    else:
        ending = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        # Not through the logging module, which takes three times as long, since there is one line per call.
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # These libraries log only warnings and errors.
    root.setLevel(logging.WARNING if level != "error" else logging.ERROR)
    # gRPC logs a stack if an answer could not be sent because the caller had left.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_departure)
    logging.captureWarnings(True)
    structlog.contextvars.bind_contextvars(service=service)


def _is_no_departure(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != "ExecuteBatchError"


def _standard_error_read(service: str) -> TextIO:
    """Replace standard error by a pipe, log each line from it, and return the real standard error.

    Last words of the process are not lost: an uncaught exception is logged, faulthandler writes a crash in C to the
    real standard error, and the pipe is read to its end at exit.
    """
    real = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    reading, writing = os.pipe()
    # C code that writes to a full pipe while it holds the interpreter's lock loses the line and does not block.
    os.set_blocking(writing, False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.dup2(writing, 2)
    os.close(writing)
    faulthandler.enable(real)
    reader = threading.Thread(target=_log_lines, args=(reading, service), name="stderr", daemon=True)
    reader.start()

    def end() -> None:
        sys.stderr.flush()
        os.dup2(real.fileno(), 2)  # closes the pipe, so that its reader ends
        reader.join(1)

    atexit.register(end)
    sys.excepthook = _log_exception
    return real


def _log_lines(reading: int, service: str) -> None:
    rest = b""
    while part := os.read(reading, MAX_LINE_BYTES):
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) >= MAX_LINE_BYTES:
            lines, rest = [*lines, rest], b""
        for line in lines:
            _log_line(line, service)
    _log_line(rest, service)


def _log_line(line: bytes, service: str) -> None:
    if text := line.decode(errors="backslashreplace").strip():
        log.warning("stderr", line=text, service=service)


def _log_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        log.critical("crashed", exc_info=(kind, error, traceback))
