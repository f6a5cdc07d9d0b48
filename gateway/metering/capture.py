"""The bodies of a request, as they may be kept: cut to a size, and without what opens doors. Pure.

The law: a capture is for finding out what was asked and answered, never for finding a key. What looks like one is masked wherever
it stands, before it is cut; pictures and sounds are left out, for they are most of such a body and nobody reads them.

Bodies are kept beside their request for those keys only whose `capture` is on.
"""

from __future__ import annotations

import re

import msgspec

MASK = rb"***"

# Keys by their beginnings (ours, OpenAI's and Anthropic's, GitHub's, Hugging Face's, Google's, AWS's, Slack's), and bearer tokens.
_TOKEN = re.compile(
    rb"\b(?:rh|sk|pk|rk|gsk|xai|hf|ghp|gho|ghs|github_pat|glpat|xox[abprs])[-_][A-Za-z0-9_\-]{12,}"
    rb"|\bAIza[A-Za-z0-9_\-]{30,}|\bAKIA[A-Z0-9]{12,}|(?<=[Bb]earer )[A-Za-z0-9._~+/=\-]{8,}"
)
# "api_key": "…", also where the JSON is itself a string in JSON
_NAMED = re.compile(
    rb'((?:api[_-]?key|authorization|password|passwd|secret|access[_-]?token|refresh[_-]?token|client[_-]?secret)\\*"\s*:\s*\\*")'
    rb'[^"\\]+',
    re.IGNORECASE,
)
_EMBEDDED = re.compile(
    rb"(data:[a-z]+/[a-z0-9.+\-]+;base64,)[A-Za-z0-9+/=\\]{64,}|(?<=\")[A-Za-z0-9+/]{1024,}={0,2}(?=\")"
)


class Capture(msgspec.Struct, frozen=True, gc=False):
    """The bodies as they went over the wire."""

    request: bytes
    response: bytes
    request_cut: bool = False  # whoever put them aside kept only their beginning
    response_cut: bool = False


def redacted(body: bytes, bytes_max: int) -> tuple[bytes, bool]:
    """What may be kept of it, and whether that is not all."""
    body = _TOKEN.sub(MASK, body)
    body = _NAMED.sub(rb"\1" + MASK, body)
    body = _EMBEDDED.sub(lambda match: (match[1] or b"") + b"[%d bytes left out]" % len(match[0]), body)
    return body[:bytes_max], len(body) > bytes_max
