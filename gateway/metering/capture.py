"""The bodies of a request, as they may be kept: cut to a size, and without what opens doors. Pure.

The law: a capture is for finding out what was asked and answered, never for finding a key. What looks like one is masked wherever
it stands, before it is cut; pictures and sounds are left out, for they are most of such a body and nobody reads them. Rather too
much is masked than too little.

Bodies are kept beside their request for those keys only whose `capture` is on.
"""

from __future__ import annotations

import re

import msgspec

MASK = rb"***"

# Where a word begins: also behind an escape, for in JSON a line's first word follows the letter n of \\n.
_BEGIN = rb"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt])|(?<=\\u[0-9A-Fa-f]{4}))"
# Keys by their beginnings (ours, OpenAI's and Anthropic's, GitHub's, Hugging Face's, Google's, AWS's, Slack's), JSON web tokens
# and bearer tokens.
_TOKEN = re.compile(
    _BEGIN
    + rb"(?:(?:rh|sk|pk|rk|gsk|xai|hf|ghp|gho|ghs|github_pat|glpat|xox[abprs])[-_][A-Za-z0-9_\-]{12,}"
    + rb"|AIza[A-Za-z0-9_\-]{30,}|A[KS]IA[A-Z0-9]{12,}|eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*)"
    + rb"|(?<=[Bb]earer )[A-Za-z0-9._~+/=\-]{8,}|(?<=BEARER )[A-Za-z0-9._~+/=\-]{8,}"
)
_PEM = re.compile(rb"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----)[\s\S]*?(?=-----END|\Z)")
_IN_URL = re.compile(rb"(?<=://)[^/\s\"\\@:]{0,64}:[^/\s\"\\@]{1,256}(?=@)")
# What is called so is secret. Not a bare `token`: so are the words of an answer called, where their probabilities are asked for.
_NAMES = (
    rb"(?:api[_-]?key|authorization|cookie|credentials?|passwd|password|passphrase|private[_-]?key|access[_-]?key"
    rb"|secret(?:[_-]?(?:access[_-]?)?key)?|(?:access|api|auth|bearer|csrf|github|hf|id|refresh|security|session)[_-]?token)"
)
# "api_key": "…", also where the JSON is itself a string in JSON, so that quotes stand behind backslashes. Looked for by the colons,
# of which there are few: names whose case may be any would be tried at every byte.
_COLON = re.compile(rb'"\s*:\s*')
_NAME = re.compile(_NAMES + rb"(\\{0,31})\Z", re.IGNORECASE)
_NAME_BYTES = 64
_PLAIN = re.compile(rb'"((?:[^"\\]|\\[\s\S])*)')
_DEEP = re.compile(rb'(\\+)"([\s\S]*?)(?=(?<!\\)\1"|\Z)')
_OTHERWISE = re.compile(rb"\[[^\]]*\]?|-?[0-9][0-9.eE+\-]*")  # a list or a number
# In what programs print of themselves: API_KEY=…, api_key='…', --hf-token …
_AUTHORIZATION = re.compile(rb"(authorization['\"]?\s*[:=]\s*['\"]?)[^'\"\r\n]+", re.IGNORECASE)
_ASSIGNED = re.compile(rb"((?:" + _NAMES + rb"|(?<![a-z])token)['\"]?\s*[:=]\s*['\"]?)[^\s'\",;)\]}]+", re.IGNORECASE)
_FLAGGED = re.compile(
    rb"((?<!\S)--?(?:hft|[a-z][\w-]*(?:key|token|secret|password))\s+['\"]?)[^\s'\"-][^\s'\"]*", re.IGNORECASE
)
_PICTURE = rb"(?:[A-Za-z0-9+/=_\-]|\\+[/nr])"  # in base64 of either alphabet, its slashes and line ends escaped or not
_EMBEDDED = re.compile(
    rb"((?i:data:[a-z]+\\*/[a-z0-9.+\-]+(?:;[a-z0-9.+=\-]{1,64}){0,4}?;base64,))" + _PICTURE + rb"{64,}"
    rb"|(?<=\")" + _PICTURE + rb"{1024,}(?=\\*\")"
)


class Capture(msgspec.Struct, frozen=True, gc=False):
    """The bodies as they went over the wire."""

    request: bytes
    response: bytes
    request_cut: bool = False  # whoever put them aside kept only their beginning
    response_cut: bool = False


def redacted(body: bytes, bytes_max: int) -> tuple[bytes, bool]:
    """What may be kept of it, and whether that is not all."""
    body = _masked(body)
    body = _EMBEDDED.sub(lambda match: (match[1] or b"") + b"[%d bytes left out]" % len(match[0]), body)
    return body[:bytes_max], len(body) > bytes_max


def masked(line: str) -> str:
    """A line that a program printed, or a part of a command line, without what looks like a key in it."""
    said = _masked(line.encode("utf-8", "surrogateescape"))
    said = _AUTHORIZATION.sub(rb"\1" + MASK, said)
    said = _ASSIGNED.sub(rb"\1" + MASK, said)
    return _FLAGGED.sub(rb"\1" + MASK, said).decode("utf-8", "surrogateescape")


def _masked(body: bytes) -> bytes:
    body = _TOKEN.sub(MASK, body)
    body = _PEM.sub(rb"\1" + MASK, body)
    body = _IN_URL.sub(MASK, body)
    return _without_named(body)


def _without_named(body: bytes) -> bytes:
    kept: list[bytes] = []
    at = 0  # up to where it is kept
    for colon in _COLON.finditer(body):
        quote, value = colon.start(), colon.end()
        name = _NAME.search(body, max(at, quote - _NAME_BYTES), quote) if quote >= at else None
        if name is None:
            continue
        if (said := (_DEEP if name[1] else _PLAIN).match(body, value)) is not None:
            kept += (body[at : said.start(said.re.groups)], MASK)
            at = said.end()
        elif (said := _OTHERWISE.match(body, value)) is not None:
            kept += (body[at:value], name[1], b'"', MASK, name[1], b'"')
            at = said.end()
    return b"".join((*kept, body[at:])) if kept else body
