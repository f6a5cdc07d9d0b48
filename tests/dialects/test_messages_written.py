"""Requests written for Anthropic's Messages API: what it would refuse is sent otherwise, or not, and the caller hears of it."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gateway.dialects.messages_request import MAX_TOKENS, OPENING, write_request
from gateway.dialects.talk import (
    Audio,
    Choice,
    Document,
    Image,
    Item,
    Message,
    OutputForm,
    Part,
    Reasoning,
    Talk,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.errors import NotTranslatable

from .talks import GRAMMAR
from .test_messages_request import RICHEST, TOOL, USER, talk, unsaid, written


def test_sides_are_put_together_results_first() -> None:
    """Later system messages are the user's words; what has no seal is left out."""
    asked = talk(
        Message("system", (Text("a"),)),
        Message("system", (Text("b"),)),
        USER,
        Reasoning("unsealed"),
        Message("assistant", (Text("I look."),)),
        ToolCall("i", "n", '{"a":1}'),
        Message("system", (Text("later"),)),
        ToolResult("i", (), failed=True),
    )

    assert written(asked)["system"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert written(asked)["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "i", "name": "n", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "i", "is_error": True},
                {"type": "text", "text": "later"},
            ],
        },
    ]
    assert unsaid(asked) == ("reasoning",)


@pytest.mark.parametrize("items", [(Message("system", (Text("s"),)),), (Message("assistant", (Text("Hello!"),)),)])
def test_a_user_begins(items: tuple[Item, ...]) -> None:
    """Anthropic takes no conversation without a turn of the user's."""
    assert written(talk(*items))["messages"][0] == {"role": "user", "content": [{"type": "text", "text": OPENING}]}


@pytest.mark.parametrize("arguments", ["", "nothing", "[1]", '"x"', '{"a":', "[" * 5000])
def test_arguments_that_are_no_object_are_sent_as_an_empty_one(arguments: str) -> None:
    """Anthropic takes nothing else."""
    assert written(talk(ToolCall("i", "n", arguments)))["messages"][1]["content"][0]["input"] == {}


def test_a_free_form_tool_has_one_parameter() -> None:
    """Its grammar is told in words, and what it was given stands in that parameter."""
    tool = Tool("apply_patch", "Patches", free_form=True, grammar=GRAMMAR)
    body = written(talk(ToolCall("i", "apply_patch", "*** é", free_form=True), tools=(tool,)))

    assert body["messages"][1]["content"][0]["input"] == {"input": "*** é"}
    assert body["tools"][0]["input_schema"]["required"] == ["input"]
    assert GRAMMAR["definition"] in body["tools"][0]["description"]


def test_files_are_written() -> None:
    """Texts as they read, pictures in the type that there is, addresses as they are."""
    note = "data:text/markdown;base64," + b64encode("é".encode()).decode()
    parts = (Image("data:image/jpg;base64,/9j/", "high"), Image("https://host/a.png"), Document(note, "a.md"))
    asked = talk(Message("user", parts))

    assert [block["source"] for block in written(asked)["messages"][0]["content"]] == [
        {"type": "base64", "media_type": "image/jpeg", "data": "/9j/"},
        {"type": "url", "url": "https://host/a.png"},
        {"type": "text", "media_type": "text/plain", "data": "é"},
    ]
    assert unsaid(asked) == ("detail",)


@pytest.mark.parametrize(
    "part", [Audio("AAAA", "wav"), Image("data:image/svg+xml,<svg/>"), Document("data:application/zip;base64,AAAA")]
)
def test_what_anthropic_cannot_be_shown_is_refused(part: Part) -> None:
    """Rather than answered without it."""
    with pytest.raises(NotTranslatable):
        write_request(talk(Message("user", (part,))))


SEALED = (USER, Reasoning("t", "seal"), ToolCall("i", "t", "{}"), ToolResult("i", ()))
OPEN = (USER, ToolCall("i", "t", "{}"), ToolResult("i", ()))
FORCED: dict[str, Any] = {"tools": (TOOL,), "choice": Choice("required")}


@pytest.mark.parametrize(
    ("model", "asked", "thinking", "effort"),
    [
        ("claude-opus-5-5", talk(), None, None),
        ("claude-opus-5-5", talk(effort="minimal"), "adaptive", "low"),
        ("claude-opus-5-5", talk(effort="max"), "adaptive", "max"),
        ("claude-opus-5-5", talk(effort="none"), "disabled", None),
        ("claude-opus-5-5", talk(thinking_tokens=0, effort="high"), "disabled", None),
        ("anthropic/claude-4.7-opus", talk(thinking_tokens=10_000), "adaptive", "medium"),
        ("claude-mythos-preview", talk(effort="high", **FORCED), "adaptive", "high"),
        ("claude-opus-4-6", talk(thinking_tokens=2000, effort="low"), 2000, None),
        ("claude-opus-4-6", talk(thinking_tokens=2000, effort="high"), 2000, "high"),
        ("claude-opus-4-6", talk(thinking_tokens=2000, **FORCED), "adaptive", "low"),
        ("claude-sonnet-4-5-20250929", talk(effort="low", max_tokens=None), 4000, None),
        ("claude-sonnet-4-20250514", talk(effort="xhigh", max_tokens=None), 31_999, None),
        ("claude-haiku-4-5", talk(effort="high"), 2048, None),
        ("claude-haiku-4-5", talk(thinking_tokens=100), 1024, None),
        ("claude-haiku-4-5", talk(effort="high", max_tokens=2000), None, None),
        ("claude-haiku-4-5", talk(effort="low", **FORCED), None, None),
        ("claude-haiku-4-5", talk(*OPEN, thinking_tokens=2000), None, None),
        ("claude-haiku-4-5", talk(*SEALED, *OPEN[1:], thinking_tokens=2000), 2000, None),
        (
            "claude-haiku-4-5",
            talk(*OPEN, Message("assistant", (Text("Done"),)), USER, thinking_tokens=2000),
            2000,
            None,
        ),
        ("glm-5", talk(effort="low", max_tokens=None), 4000, None),
    ],
)
def test_thinking_is_asked_for_as_the_model_knows_it(
    model: str, asked: Talk, thinking: object, effort: str | None
) -> None:
    """Adaptive with an effort, or a budget below the limit; nothing that would be refused."""
    body, left_out = write_request(replace(asked, model=model))
    said = msgspec.json.decode(body)
    kind = said.get("thinking", {}).get("type")

    assert said.get("thinking", {}).get("display") == ("summarized" if kind == "adaptive" else None)

    assert (said["thinking"]["budget_tokens"] if kind == "enabled" else kind) == thinking
    assert said.get("output_config", {}).get("effort") == effort
    assert (thinking is None and asked.effort != "") == ("effort" in left_out)


@pytest.mark.parametrize(
    ("model", "asked", "said"),
    [
        ("claude-opus-4-6", {"temperature": 1.7, "top_k": 5}, {"temperature": 1, "top_k": 5}),
        ("claude-opus-4-6", {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5}),
        ("claude-opus-4-6", {"temperature": 0.5, "top_p": 0.9, "top_k": 1, "effort": "low"}, {}),
        ("claude-opus-4-6", {"temperature": 1, "effort": "low"}, {"temperature": 1}),
        ("claude-opus-4-6", {"top_p": 0.97, "effort": "low"}, {"top_p": 0.97}),
        ("claude-opus-5-5", {"temperature": 0.0, "top_p": 0.9, "top_k": 1}, {}),
        ("glm-5", {"temperature": 0.0, "top_p": 0.9}, {"temperature": 0.0, "top_p": 0.9}),
    ],
)
def test_sampling_is_asked_for_as_the_model_takes_it(model: str, asked: dict[str, Any], said: dict[str, Any]) -> None:
    """What it refuses is left out, and named."""
    names = ("temperature", "top_p", "top_k")
    body = written(talk(model=model, **asked))

    assert {name: body[name] for name in names if name in body} == said
    assert set(unsaid(talk(model=model, **asked))) == {name for name in names if name in asked} - set(said)


def test_what_anthropic_has_no_word_for_is_named() -> None:
    """Everything else is said."""
    asked = talk(
        seed=0,
        frequency_penalty=0.0,
        presence_penalty=1.0,
        logit_bias={"1": 1.0},
        verbosity="low",
        stop=("\n", "END"),
        form=OutputForm(),
        choice=Choice("required"),
        max_tokens=None,
        user="u",
        stream=True,
    )
    names = ("seed", "frequency_penalty", "presence_penalty", "logit_bias", "verbosity", "response_format", "stop")

    assert unsaid(asked) == (*names, "tool_choice")
    assert written(asked) == {
        "model": RICHEST,
        "max_tokens": MAX_TOKENS,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u"},
        "stream": True,
    }
