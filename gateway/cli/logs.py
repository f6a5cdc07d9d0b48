"""The log of `serve`: stderr, one line for each event.

The law: what an engine or a caller wrote cannot begin a line of its own. Only the traceback of an unforeseen error takes
more lines, and those are indented.
"""

from __future__ import annotations

import logging
import sys
import time

from .words import printable

LEVELS = ("debug", "info", "warning", "error")


class Line(logging.Formatter):
    """2026-01-31T12:00:00.123+0100 INFO roundhouse.residency: loaded local/x"""

    def format(self, record: logging.LogRecord) -> str:
        at = time.localtime(record.created)
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', at)}.{int(record.msecs):03d}{time.strftime('%z', at)}"
        text = f"{stamp} {record.levelname} {record.name}: {printable(record.getMessage())}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            text += "".join(f"\n    {printable(line)}" for line in trace.splitlines())
        return text


def log_to_stderr(level: str) -> None:
    """From now on. Ours at this level; the libraries' only what is wrong, or with "debug" what they do."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Line())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO if level == "debug" else logging.WARNING)
    logging.getLogger("roundhouse").setLevel(level.upper())
