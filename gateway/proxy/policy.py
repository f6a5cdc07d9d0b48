"""What the operator has said of a model's requests, put into the caller's body: parameters and a system prompt. Pure.

The law: `dropped` goes first, `forced` holds against the caller, `defaults` holds where the caller says nothing; null says nothing.
All are members of the body itself, not of objects in it, and go to every JSON route under the names they were given, but:

- The limit of an answer has a name per API, and each goes only where it is a word: `max_tokens` to chat, completions and messages,
  `max_completion_tokens` to chat, `max_output_tokens` to responses. Who wants a limit everywhere writes the first and the last.
- In chat the first two mean the same, and OpenAI refuses both together. So a default for one is not put beside the caller's other,
  and where one is forced, the caller's other is taken out: it would be a way around it.
- Counting tokens makes no answer, and Anthropic refuses parameters there: only `dropped` and the system prompt apply.

The system prompt comes before the caller's own, with a blank line between, or as the first of its parts; where there is none, it is
put in. Routes without such a thing (completions, embeddings) are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import msgspec

from .edits import Amend, Default, Drop, Edit, Put, edited, members, value_end


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A model's. The values are JSON."""

    defaults: Mapping[str, bytes] = {}
    forced: Mapping[str, bytes] = {}
    dropped: frozenset[str] = frozenset()
    system_prompt: str = ""


_CHAT = b"/v1/chat/completions"
_MESSAGES = b"/v1/messages"
_COUNT = b"/v1/messages/count_tokens"
_RESPONSES = b"/v1/responses"
# Sources: OpenAI's API reference: chat's max_tokens is "deprecated in favor of max_completion_tokens", the Responses API has
# max_output_tokens; Anthropic's: Messages has max_tokens, Count Message tokens has none. Both refuse what they do not know.
_LIMITS: Mapping[str, tuple[bytes, ...]] = {
    "max_tokens": (_CHAT, b"/v1/completions", _MESSAGES),
    "max_completion_tokens": (_CHAT,),
    "max_output_tokens": (_RESPONSES,),
}
_SAME_IN_CHAT = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


def apply(policy: Policy, route: bytes, body: bytes) -> bytes:
    """The body as it is to be sent; the same object where nothing is to be changed.

    Args:
        route: the path the caller asked for, whose API the body speaks; with a query or without.
        body: a JSON object that `peek` has accepted.
    """
    route = route.partition(b"?")[0]
    edits = _parameters(policy, route)
    prompt = _prompt(policy, route)
    if edits.keys() & prompt.keys():  # the operator gives the very thing the prompt goes into
        body, edits = edited(body, edits), {}
    return edited(body, {**edits, **prompt})


def _parameters(policy: Policy, route: bytes) -> dict[str, Edit]:
    edits: dict[str, Edit] = dict.fromkeys(policy.dropped, Drop())
    if route == _COUNT:
        return edits
    same = _SAME_IN_CHAT if route == _CHAT else {}
    for name, value in policy.defaults.items():
        if route in _LIMITS.get(name, (route,)):
            unless = (same[name],) if name in same else ()
            edits[name] = Put(value) if name in policy.dropped else Default(value, unless)
    for name, value in policy.forced.items():
        if route in _LIMITS.get(name, (route,)):
            edits[name] = Put(value)
            if name in same and same[name] not in policy.forced:
                edits[same[name]] = Drop()
    return edits


# ------------------------------------------------------------ the system prompt

_LEADS = (b'"system"', b'"developer"')
_EMPTY_LIST = re.compile(rb"\[[ \t\r\n]*\]")
_FIRST = re.compile(rb"\[[ \t\r\n]*(?=\{)")


def _prompt(policy: Policy, route: bytes) -> dict[str, Edit]:
    """Where it goes on this route, and how."""
    prompt = policy.system_prompt.strip("\n")  # TOML's text in three quotes ends with one that is not meant
    if not prompt:
        return {}
    match route:
        case b"/v1/chat/completions" | b"/api/chat":
            return {"messages": Amend(partial(_before_messages, prompt))}
        case b"/v1/messages" | b"/v1/messages/count_tokens":
            return {"system": Amend(partial(_before_text, prompt))}
        case b"/v1/responses":
            return {"instructions": Amend(partial(_before_text, prompt))}
        case b"/api/generate":
            return {"system": Amend(partial(_before_text, prompt))}
        case _:
            return {}


def _before_text(prompt: str, written: bytes | None) -> bytes | None:
    """`written`: a string, a list of parts, null or nothing. Of anything else None: the upstream may refuse it."""
    if written is None or written in (b"null", b'""'):
        return msgspec.json.encode(prompt)
    if written[:1] == b'"':
        return msgspec.json.encode(prompt + "\n\n")[:-1] + written[1:]
    if written[:1] == b"[":
        return _first_of(written, msgspec.json.encode({"type": "text", "text": prompt}))
    return None


def _before_messages(prompt: str, written: bytes | None) -> bytes | None:
    if written is None or written[:1] != b"[":
        return None
    if (match := _FIRST.match(written)) is not None:
        start = match.end()
        end = value_end(written, start)
        message = written[start:end]
        if any(key == "role" and message[value:last] in _LEADS for key, _, value, last in members(message)):
            led = edited(message, {"content": Amend(partial(_before_text, prompt))})
            if led is not message:
                return written[:start] + led + written[end:]
    return _first_of(written, msgspec.json.encode({"role": "system", "content": prompt}))


def _first_of(items: bytes, item: bytes) -> bytes:
    """A list with this item before the others."""
    comma = b"" if _EMPTY_LIST.match(items) else b","
    return items[:1] + item + comma + items[1:]
