"""Ollama's requests, read: what clients really send, what is left out, what is refused, and anything else that is JSON."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings

from gateway.dialects.ollama_request import is_load_only, read_chat, read_generate
from gateway.dialects.talk import Image, Message, OutputForm, Reasoning, Talk, Text, Tool, ToolCall, ToolResult
from gateway.errors import InvalidRequest, NotTranslatable
from tests.dialects.talks import junk, spoilt

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 30).decode()
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}}


def chat(*messages: dict[str, Any], **more: Any) -> Talk:
    """A chat request, read."""
    said = messages or ({"role": "user", "content": "hi"},)
    return read_chat(json.dumps({"model": "m", "messages": said, **more}).encode())


def generate(**more: Any) -> Talk:
    """A generate request, read."""
    return read_generate(json.dumps({"model": "m", "prompt": "hi", **more}).encode())


def called(name: str, arguments: Any = None, **more: Any) -> dict[str, Any]:
    """An assistant's message with one call, as the Python library sends it."""
    call: dict[str, Any] = {"function": {"name": name, "arguments": arguments}, **more}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def test_a_plain_chat_streams_and_asks_for_counts() -> None:
    """`stream` is true when absent; Ollama always tells counts."""
    talk = chat()
    assert talk == Talk(model="m", items=(Message("user", (Text("hi"),)),), stream=True, usage_asked=True)
    assert not chat(stream=False).stream
    assert chat(stream=None).stream


def test_options_that_others_know_are_kept_and_the_rest_is_named() -> None:
    """Numbers as Go reads them; what belongs to a server's own runner is left out; null says nothing."""
    options = {
        "num_predict": 100.0,
        "temperature": 1,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 42,
        "stop": ["\n", "user:"],
        "presence_penalty": 1.5,
        "frequency_penalty": -1,
        "num_ctx": 8192,
        "repeat_penalty": 1.1,
        "mirostat": None,
    }
    talk = chat(options=options, keep_alive="5m", truncate=True, template=None)
    assert (talk.max_tokens, talk.temperature, talk.top_p, talk.top_k, talk.seed) == (100, 1, 0.9, 40, 42)
    assert (talk.stop, talk.presence_penalty, talk.frequency_penalty) == (("\n", "user:"), 1.5, -1)
    assert talk.left_out == ("options.num_ctx", "options.repeat_penalty", "keep_alive", "truncate")
    assert chat(options={"stop": "x"}).stop == ("x",)


def test_words_for_nothing_in_particular() -> None:
    """No limit, any seed, no format: nothing is said."""
    talk = chat(options={"num_predict": -1, "seed": -1, "stop": None}, format="", think=None, tools=None)
    assert talk == chat()
    assert chat(options=None) == chat()
    assert chat(options={"num_predict": -2}).max_tokens is None


@pytest.mark.parametrize(
    ("think", "effort"),
    [(True, "medium"), (False, "none"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("max", "max")],
)
def test_think(think: bool | str, effort: str) -> None:
    """Thinking in general is asked for at its middle."""
    assert chat(think=think).effort == generate(think=think).effort == effort


def test_format() -> None:
    """JSON in general, or of a schema."""
    assert chat(format="json").form == OutputForm()
    assert generate(format=SCHEMA).form == OutputForm(schema=SCHEMA)


def test_tools() -> None:
    """Functions are offered; what is none is named."""
    talk = chat(tools=[WEATHER, {"function": {"name": "bare"}}, {"type": "web_search"}])
    assert talk.tools == (Tool("weather", "d", SCHEMA), Tool("bare"))
    assert talk.left_out == ("tools[2]",)


def test_pictures_are_told_by_their_first_bytes() -> None:
    """They come before the text, as Ollama puts them; a `data:` prefix is taken, too."""
    kinds = {
        b"\x89PNG\r\n\x1a\n": "png",
        b"\xff\xd8\xff\xe0": "jpeg",
        b"GIF89a": "gif",
        b"RIFF\1\2\3\4WEBPVP8 ": "webp",
        b"BM": "bmp",
        b"\0\0\0\x20ftypavif": "avif",
        b"\0\0\0\x20ftypheic": "heic",
    }
    for first, kind in kinds.items():
        text = base64.b64encode(first + b"\0" * 9).decode()
        (message,) = chat({"role": "user", "content": "what?", "images": [text]}).items
        assert message == Message("user", (Image(f"data:image/{kind};base64,{text}"), Text("what?")))
    prefixed = f"data:image/png;base64,{PNG}"
    broken = PNG[:20] + "\r\n" + PNG[20:]
    (message,) = generate(images=[prefixed, broken]).items
    assert message == Message("user", (Image(prefixed), Image(prefixed), Text("hi")))


@pytest.mark.parametrize("image", ["", "hello", "aGVsbG8=", "https://host/a.png", PNG + "!", PNG[:-1]])
def test_what_is_no_picture_is_refused(image: str) -> None:
    """With its place."""
    with pytest.raises(InvalidRequest) as refused:
        chat({"role": "user", "content": "", "images": [PNG, image]})
    assert refused.value.param == "messages[0].images[1]"


def test_generate_is_a_short_conversation() -> None:
    """A system message where one is given, then the prompt; what says nothing is no reason to refuse."""
    talk = generate(system="be brief", raw=False, template="", suffix="", context=[], keep_alive=0)
    assert talk.items == (Message("system", (Text("be brief"),)), Message("user", (Text("hi"),)))
    assert (talk.left_out, talk.stream) == (("keep_alive",), True)


@pytest.mark.parametrize(
    "field", [{"raw": True}, {"template": "{{ .Prompt }}"}, {"suffix": "}"}, {"context": [1, 2]}, {"logprobs": True}]
)
def test_another_way_of_prompting_is_refused(field: dict[str, Any]) -> None:
    """It would change the answer, and cannot be said elsewhere."""
    with pytest.raises(NotTranslatable) as refused:
        generate(**field)
    assert refused.value.param == next(iter(field))


def test_an_assistants_turn_is_cut_into_items() -> None:
    """Thinking, then text, then calls; arguments stay exact; one that said nothing keeps its turn."""
    arguments = b'{"n": 12345678901234567890123, "x": 1.10}'
    body = (
        b'{"model":"m","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","thinking":"c",'
        b'"tool_calls":[{"id":"t1","function":{"index":0,"name":"f","arguments":' + arguments + b"}}]},"
        b'{"role":"tool","tool_call_id":"t1","content":"d"},{"role":"assistant"}]}'
    )
    assert read_chat(body).items == (
        Message("user", (Text("a"),)),
        Reasoning("c"),
        Message("assistant", (Text("b"),)),
        ToolCall("t1", "f", arguments.decode()),
        ToolResult("t1", (Text("d"),)),
        Message("assistant", ()),
    )


def test_calls_without_ids_get_them_by_their_place() -> None:
    """The same conversation gives the same ids, also when it has grown; given ones are not taken twice."""
    short = [called("f"), {"role": "tool", "tool_name": "f", "content": "1"}]
    long = [*short, called("g", id="call_2"), {"role": "tool", "tool_name": "g", "content": "2"}, called("f")]
    ids = [item.id for item in chat(*long).items if isinstance(item, ToolCall)]
    assert ids == ["call_1", "call_2", "call_3"]
    assert chat(*long).items[:2] == chat(*short).items


def test_results_find_their_calls_by_name_then_by_order() -> None:
    """As Ollama's clients answer: by `tool_name` (or `name`), in any order, or without a word about whose it is."""
    calls = [{"function": {"name": name}} for name in ("f", "g", "f", "h")]
    answers = [{"tool_name": "g"}, {"name": "f"}, {"tool_name": "f"}, {}]
    asking = {"role": "assistant", "content": "", "tool_calls": calls}
    talk = chat(asking, *({"role": "tool", "content": str(n), **said} for n, said in enumerate(answers)))
    results = [item.call_id for item in talk.items if isinstance(item, ToolResult)]
    assert results == ["call_2", "call_1", "call_3", "call_4"]


def test_results_find_their_calls_by_id_where_one_was_given() -> None:
    """An id that no call has (the library has dropped it there) is no hindrance."""
    first, second = called("f", id="a"), called("f", id="b")
    by_id = chat(first, second, {"role": "tool", "content": "", "tool_call_id": "b", "tool_name": "x"})
    assert by_id.items[-1] == ToolResult("b", ())
    dropped = chat(called("f"), {"role": "tool", "content": "1", "tool_call_id": "lost"})
    assert dropped.items[-1] == ToolResult("call_1", (Text("1"),))


def test_a_result_after_the_users_word_belongs_to_a_later_call() -> None:
    """A call that was never answered does not take the result of another."""
    talk = chat(
        called("f"), {"role": "user", "content": "no"}, called("f"), {"role": "tool", "tool_name": "f", "content": "1"}
    )
    assert talk.items[-1] == ToolResult("call_2", (Text("1"),))
    with pytest.raises(InvalidRequest, match="no call before it waits"):
        chat({"role": "tool", "tool_name": "f", "content": "1"})


def test_arguments_in_other_clothes() -> None:
    """As text, as OpenAI has them; absent; and what can be none is refused."""
    assert chat(called("f", '{"a": 1}')).items == (ToolCall("call_1", "f", '{"a": 1}'),)
    assert chat({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}).items[-1] == ToolCall(
        "call_1", "f", "{}"
    )
    with pytest.raises(InvalidRequest) as refused:
        chat(called("f", [1]))
    assert refused.value.param == "messages[0].tool_calls[0].function.arguments"


def test_pictures_of_those_who_have_none_are_left_out_and_named() -> None:
    """A system's or an assistant's; a tool's are kept."""
    talk = chat(
        {"role": "system", "content": "s", "images": [PNG]},
        called("f"),
        {"role": "tool", "content": "", "images": [PNG]},
    )
    assert talk.left_out == ("messages[0].images",)
    assert talk.items[-1] == ToolResult("call_1", (Image(f"data:image/png;base64,{PNG}"),))


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [1]}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        ({"options": []}, "options"),
        ({"options": {"top_k": 1.5}}, "options.top_k"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"seed": True}}, "options.seed"),
        ({"options": {"stop": [1]}}, "options.stop"),
        ({"format": "xml"}, "format"),
        ({"format": True}, "format"),
        ({"think": "hard"}, "think"),
        ({"think": 1}, "think"),
        ({"stream": "yes"}, "stream"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"function": {"name": ""}}]}, "tools[0].function"),
        ({"tools": {}}, "tools"),
    ],
)
def test_what_ollama_refuses_is_refused_with_its_place(more: dict[str, Any], param: str) -> None:
    """Never passed on in the hope that the upstream understands."""
    with pytest.raises(InvalidRequest) as refused:
        chat(**{"messages": [{"role": "user", "content": "hi"}], **more})
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("asked", "wish"),
    [
        ({}, "load"),
        ({"messages": []}, "load"),
        ({"prompt": ""}, "load"),
        ({"prompt": "", "keep_alive": "5m"}, "load"),
        ({"keep_alive": -1}, "load"),
        ({"keep_alive": 0}, "unload"),
        ({"messages": [], "keep_alive": "0"}, "unload"),
        ({"prompt": "", "keep_alive": "0s"}, "unload"),
        ({"keep_alive": "0h0m"}, "unload"),
        ({"keep_alive": 0.0}, "unload"),
        ({"keep_alive": False}, "load"),
        ({"input": []}, "load"),
        ({"messages": None, "prompt": None, "input": None}, "load"),
        ({"prompt": "hi", "keep_alive": 0}, ""),
        ({"prompt": " "}, ""),
        ({"messages": [{"role": "user"}]}, ""),
        ({"input": ["x"]}, ""),
        ({"input": "a text longer than a few characters"}, ""),
        ({"model": ""}, ""),
    ],
)
def test_whether_only_the_models_presence_is_asked_for(asked: dict[str, Any], wish: str) -> None:
    """Nothing to answer means load; with a keep_alive of nothing, unload."""
    assert is_load_only(json.dumps({"model": "m", **asked}).encode()) == wish


GOOD: dict[str, Any] = {
    "model": "m",
    "prompt": "p",
    "messages": [
        {"role": "user", "content": "hi", "images": [PNG]},
        called("f", {"a": 1}),
        {"role": "tool", "tool_name": "f", "content": "1"},
    ],
    "tools": [WEATHER],
    "options": {"top_k": 1, "stop": ["x"]},
    "format": SCHEMA,
}


def swallow(body: bytes) -> None:
    """Read it as everything; only what is ours may come out."""
    for read in (read_chat, read_generate):
        with contextlib.suppress(InvalidRequest, NotTranslatable):
            assert read(body).model
    assert is_load_only(body) in ("", "load", "unload")


@settings(max_examples=150, deadline=None)
@given(junk() | spoilt(json.dumps(GOOD).encode()))
def test_any_json_is_read_or_refused(body: bytes) -> None:
    """What nobody meant, and a good request with one thing wrong in it."""
    swallow(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[" * 9000,
        b'{"model":' + b"[" * 9000,
        b'{"model":"\xff"}',
        b'{"model":"m","prompt":"\xff"}',
        b"null",
        b"7",
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    """Also where it is nested without end, or not UTF-8."""
    swallow(body)
    with pytest.raises(InvalidRequest):
        read_chat(body)
