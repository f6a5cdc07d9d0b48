"""Blocks of Anthropic's Messages API, of which its turns and answers are made, read and written. Pure.

The law: a tool's input passes letter by letter. Blocks that only Anthropic's own servers can make sense of are left out, and named.

Blocks of a turn that stand together are one message; every tool result, call and thought is an item of its own. Text documents and
search results become text.

Source: platform.claude.com/docs: api/messages; build-with-claude: vision, pdf-support, search-results, thinking.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal, TypeVar, cast

import msgspec

from gateway.errors import InvalidRequest, NotTranslatable

from .talk import Document, Image, Item, Json, Message, Part, Reasoning, Text, ToolCall, ToolResult

# Claude Code puts a text into its system prompt that only Anthropic's own accounting reads. It is another one with every request:
# a local model would have to read its whole prompt anew each time.
ACCOUNTING = "x-anthropic-billing-header:"

Block = dict[str, Json]  # as it is written
Body = str | list[msgspec.Raw]
Role = Literal["user", "assistant", "system"]
_T = TypeVar("_T")


class _Kind(msgspec.Struct):
    type: str


class _Source(msgspec.Struct):
    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    content: Body | None = None


class _Text(msgspec.Struct):
    text: str


class _Image(msgspec.Struct):
    source: _Source


class _Document(msgspec.Struct):
    source: _Source
    title: str | None = None
    context: str | None = None


class _SearchResult(msgspec.Struct):
    source: str
    title: str
    content: list[_Text]


class _Thought(msgspec.Struct):
    thinking: str | None = None
    signature: str | None = None


class _Hidden(msgspec.Struct):
    data: str


class _Call(msgspec.Struct):
    id: str
    name: str
    input: dict[str, msgspec.Raw] | None = None


class Given(msgspec.Struct):
    """A tool's input, letter by letter."""

    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Result(msgspec.Struct):
    tool_use_id: str
    content: Body | None = None
    is_error: bool | None = None


_SAID_BY = {  # the blocks we read, and whose they are
    "text": ("user", "assistant", "system"),
    "image": ("user",),
    "document": ("user",),
    "search_result": ("user",),
    "tool_result": ("user",),
    "tool_use": ("assistant",),
    "thinking": ("assistant",),
    "redacted_thinking": ("assistant",),
}

_AT = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")


# ------------------------------------------------------------------ reading


def decode(data: bytes | msgspec.Raw, form: type[_T], at: str = "") -> _T:
    """A piece of a request.

    Args:
        at: where it stands there.
    Raises: InvalidRequest.
    """
    try:
        return msgspec.json.decode(data, type=form)
    except msgspec.ValidationError as error:
        said = str(error)
        inside, missing = _AT.search(said), _MISSING.search(said)
        names = [at, inside[1] if inside else "", missing[1] if missing else ""]
        param = ".".join(filter(None, names)).replace(".[", "[")
        what = "it is missing" if missing else said[: inside.start()] if inside else said
        raise InvalidRequest(f"'{param}': {what}" if param else f"The body: {what}", param=param or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply", code="invalid_json") from None


def turn_items(role: Role, body: Body, at: str, left_out: list[str]) -> Iterator[Item]:
    """What a turn says. Raises: InvalidRequest, NotTranslatable.

    Args:
        at: where `body` stands in the request.
        left_out: the places of blocks that are left out are added to it.
    """
    if isinstance(body, str):
        yield Message(role, (Text(body),))
        return
    pieces = [piece for i, raw in enumerate(body) for piece in _block(raw, role, f"{at}[{i}]", left_out)]
    for together, group in groupby(pieces, lambda piece: isinstance(piece, Part)):
        if together:
            yield Message(role, cast("tuple[Part, ...]", tuple(group)))
        else:
            yield from cast("Iterable[Item]", group)


def _block(raw: msgspec.Raw, role: str, at: str, left_out: list[str]) -> Iterable[Item | Part]:
    kind = decode(raw, _Kind, at).type
    if kind not in _SAID_BY:
        left_out.append(at)
        return ()
    if role not in _SAID_BY[kind]:
        raise InvalidRequest(f"'{at}': a block of type {kind} has no place in a message of role {role}", param=at)
    match kind:
        case "thinking":
            thought = decode(raw, _Thought, at)
            return (Reasoning(thought.thinking or "", thought.signature or ""),)
        case "redacted_thinking":
            return (Reasoning("", decode(raw, _Hidden, at).data, hidden=True),)
        case "tool_use":
            call = decode(raw, _Call, at)
            given = decode(raw, Given, at).input if call.input is not None else b"{}"
            return (ToolCall(call.id, call.name, bytes(given).decode()),)
        case "tool_result":
            result = decode(raw, _Result, at)
            parts = _result_parts(result.content or [], f"{at}.content", left_out)
            return (ToolResult(result.tool_use_id, tuple(parts), failed=bool(result.is_error)),)
        case "text" if role == "system" and decode(raw, _Text, at).text.startswith(ACCOUNTING):
            left_out.append(at)
            return ()
        case _:
            return _parts(raw, kind, at, left_out)


def _result_parts(body: Body, at: str, left_out: list[str]) -> Iterator[Part]:
    """Of a tool's result, or of a document that is made of blocks."""
    if isinstance(body, str):
        yield Text(body)
        return
    for i, raw in enumerate(body):
        kind = decode(raw, _Kind, f"{at}[{i}]").type
        if kind in ("text", "image", "document", "search_result"):
            yield from _parts(raw, kind, f"{at}[{i}]", left_out)
        else:
            left_out.append(f"{at}[{i}]")


def _parts(raw: msgspec.Raw, kind: str, at: str, left_out: list[str]) -> Iterable[Part]:
    match kind:
        case "text":
            return (Text(decode(raw, _Text, at).text),)
        case "search_result":
            found = decode(raw, _SearchResult, at)
            return (Text("\n".join((found.title, found.source, *(part.text for part in found.content)))),)
        case "image":
            return (Image(_address(decode(raw, _Image, at).source, at)),)
        case _:
            return _document(decode(raw, _Document, at), at, left_out)


def _document(document: _Document, at: str, left_out: list[str]) -> Iterable[Part]:
    source, about = document.source, [said for said in (document.title, document.context) if said]
    if source.type == "text":
        return (Text("\n".join((*about, source.data or ""))),)
    if source.type == "content":
        return (*map(Text, about), *_result_parts(source.content or [], f"{at}.source.content", left_out))
    if document.context:
        left_out.append(f"{at}.context")
    return (Document(_address(source, at), document.title or ""),)


def _address(source: _Source, at: str) -> str:
    match source.type:
        case "base64":
            return f"data:{source.media_type or ''};base64,{source.data or ''}"
        case "url":
            return source.url or ""
        case "file":
            raise NotTranslatable("A file that was uploaded to Anthropic is not here; send it as base64", param=at)
        case kind:
            raise InvalidRequest(f"'{at}.source.type' is {kind!r}; expected base64 or url", param=f"{at}.source.type")


# ------------------------------------------------------------------ writing


def written_item(item: Item, unsaid: list[str]) -> list[Block]:
    """Its blocks. Raises: InvalidRequest, NotTranslatable.

    Args:
        unsaid: the names of what cannot be said are added to it.
    """
    match item:
        case Message():
            if item.role != "user" and not all(isinstance(part, Text) for part in item.parts):
                raise NotTranslatable(f"Anthropic takes only text in a message of role {item.role}", param="messages")
            return written_parts(item.parts, unsaid)
        case Reasoning() if not item.seal:
            unsaid.append("reasoning")
            return []
        case Reasoning():
            return [thought_block(item)]
        case ToolCall():
            return [call_block(item)]
        case ToolResult():
            block: Block = {"type": "tool_result", "tool_use_id": item.call_id}
            parts = written_parts(item.parts, unsaid)
            if parts:
                block["content"] = parts
            if item.failed:
                block["is_error"] = True
            return [block]


def thought_block(thought: Reasoning) -> Block:
    """As an assistant's turn holds it. What is hidden has no text."""
    if thought.hidden and not thought.text:
        return {"type": "redacted_thinking", "data": thought.seal}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.seal}


def call_block(call: ToolCall) -> Block:
    """As an assistant's turn holds it. What a free-form tool is given stands in its one parameter, `input`."""
    given = {"input": call.arguments} if call.free_form else _as_object(call.arguments)
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


def _as_object(arguments: str) -> msgspec.Raw:
    """Letter by letter as the model wrote them; `{}` where that is not a JSON object."""
    written = arguments.encode()
    try:
        msgspec.json.decode(written, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return msgspec.Raw(b"{}")
    return msgspec.Raw(written)


def written_parts(parts: Iterable[Part], unsaid: list[str]) -> list[Block]:
    blocks: list[Block] = []
    for part in parts:
        match part:
            case Text():
                if part.text.strip():
                    blocks.append({"type": "text", "text": part.text})
            case Image():
                if part.detail:
                    unsaid.append("detail")
                media, data = _split(part.url)
                media = "image/jpeg" if media == "image/jpg" else media  # no such type, but many write it
                blocks.append({"type": "image", "source": _source(part.url, media, data)})
            case Document():
                blocks.append(_written_document(part))
            case _:
                raise NotTranslatable("Anthropic's API takes no sound", param="messages")
    return blocks


def _written_document(part: Document) -> Block:
    media, data = _split(part.url)
    source = _source(part.url, media, data)
    if data and media.startswith("text/"):
        try:
            source = {"type": "text", "media_type": "text/plain", "data": b64decode(data).decode()}
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidRequest(f"The file {part.name!r} is not text in base64", param="messages") from None
    elif data and media != "application/pdf":
        raise NotTranslatable(f"Anthropic takes PDF and text, not {media or 'a file without a type'}", param="messages")
    return {"type": "document", "source": source, **({"title": part.name} if part.name else {})}


def _split(url: str) -> tuple[str, str]:
    """Media type and base64 of a data URL; nothing of another."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:"):
        return "", ""
    if not head.endswith(";base64"):
        raise NotTranslatable("A data URL must be written in base64", param="messages")
    return head[len("data:") :].partition(";")[0], data


def _source(url: str, media: str, data: str) -> Block:
    return {"type": "base64", "media_type": media, "data": data} if data else {"type": "url", "url": url}
