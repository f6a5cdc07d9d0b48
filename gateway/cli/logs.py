"""The log of `serve`: stderr, one line for each event, for people or as JSON for programs.

The law: what an engine or a caller wrote cannot begin a line of its own, nor steer a terminal; what looks like a key is masked
wherever it stands. For people only the traceback of an unforeseen error takes more lines, and those are indented; as JSON it is one
field.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from datetime import UTC, datetime

from gateway.metering import request_id

from .words import printable

LEVELS = ("debug", "info", "warning", "error")
FORMS = ("console", "json")

_MASK = "***"
# Keys by their beginnings (ours, OpenAI's and Anthropic's, GitHub's, Hugging Face's, Google's, AWS's, Slack's), bearer tokens, what
# is named as a secret, and the password in an address.
_SECRET = re.compile(
    r"\b(?:rh|sk|pk|rk|gsk|xai|hf|ghp|gho|ghs|github_pat|glpat|xox[abprs])[-_][A-Za-z0-9_\-]{12,}"
    r"|\bAIza[A-Za-z0-9_\-]{30,}|\bAKIA[A-Z0-9]{12,}"
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/=\-]{4,}"
    r"|(?<=://)[^\s/@:\"']*:[^\s/@\"']+(?=@)"
)
_NAMED = re.compile(
    r"((?:api[_-]?key|authorization|cookie|password|passwd|secret|access[_-]?token|refresh[_-]?token|client[_-]?secret)"
    r"['\"]?\s*[:=]\s*b?['\"]?(?:(?:bearer|basic) )?)[^\s'\",;&]+",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """Without what looks like a key. No line of ours holds one; this is for those that libraries and engines write."""
    return _NAMED.sub(rf"\1{_MASK}", _SECRET.sub(_MASK, text))


class Line(logging.Formatter):
    """2026-01-31T12:00:00.123+0100 INFO roundhouse.requests: what happened [req-1f]"""

    def format(self, record: logging.LogRecord) -> str:
        at = time.localtime(record.created)
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', at)}.{int(record.msecs):03d}{time.strftime('%z', at)}"
        text = f"{stamp} {record.levelname} {record.name}: {printable(masked(record.getMessage()))}"
        if number := request_id.current():
            text += f" [{number}]"
        if record.exc_info:
            trace = masked(self.formatException(record.exc_info))
            text += "".join(f"\n    {printable(line)}" for line in trace.splitlines())
        return text


class JsonLine(logging.Formatter):
    """{"time": "2026-01-31T11:00:00.123Z", "level": "info", "logger": "roundhouse.requests", "message": …, "request_id": …}

    All in ASCII, so that no character of somebody else's ends the line or steers the terminal it is looked at in.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked(record.getMessage()),
        }
        if number := request_id.current():
            said["request_id"] = number
        if record.exc_info:
            said["exception"] = masked(self.formatException(record.exc_info))
        return json.dumps(said)


def log_to_stderr(level: str, form: str = "console") -> None:
    """From now on. Ours at this level; the libraries' only what is wrong, or with "debug" what they do.

    Args:
        form: one of FORMS.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if form == "json" else Line())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO if level == "debug" else logging.WARNING)
    logging.getLogger("roundhouse").setLevel(level.upper())
