"""Structured logs on standard error: one JSON object a line, or coloured lines for people."""

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

# A line without an end is taken for whole at this length.
MAX_LINE_BYTES = 64 * 1024
PIPE_BYTES = 1024 * 1024


def configure_logs(service: str, level: str, form: str) -> None:
    """Sends this process's logs, those of libraries too, through structlog.

    In JSON, so does whatever C libraries and others write to standard error by themselves.
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
        # Not through logging, which takes three times as long for a line, and there is one for every call.
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
    # Collections speak up only when something is wrong.
    root.setLevel(logging.WARNING if level != "error" else logging.ERROR)
    # gRPC tells with a stack that an answer could not be sent, if the caller left at that moment.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_departure)
    logging.captureWarnings(True)
    structlog.contextvars.bind_contextvars(service=service)


def _is_no_departure(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != "ExecuteBatchError"


def _standard_error_read(service: str) -> TextIO:
    """Puts a pipe in the place of standard error, logs each line that comes out of it, and returns the real one.

    What the process says as it dies is not lost: an exception that nobody catches is logged by itself, a crash in C is
    written by faulthandler to the real one, and at the end what is in the pipe is read first.
    """
    real = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    reading, writing = os.pipe()
    # Who writes while nobody can read, with the interpreter's lock held, loses a line instead of standing still.
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
        os.dup2(real.fileno(), 2)  # closes the pipe: the reader comes to its end
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
