"""A request for a chat completion as it stands on the wire; what is not here is not read. Pure.

Source: OpenAI's API reference, "Create chat completion".
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class Sound(msgspec.Struct):
    data: str
    format: str


class File(msgspec.Struct):
    file_data: str | None = None
    filename: str | None = None


class Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | ImageUrl | None = None
    input_audio: Sound | None = None
    file: File | None = None


class Called(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] | None = None
    input: str | None = None


class Call(msgspec.Struct):
    id: str
    function: Called | None = None
    custom: Called | None = None


class Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[Call] | None = None
    function_call: Called | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    audio: object = None


class Grammar(msgspec.Struct):
    syntax: str
    definition: str


class Format(msgspec.Struct):
    type: str
    grammar: Grammar | None = None


class Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: Format | None = None  # of a custom tool


class Tool(msgspec.Struct):
    type: str | None = None
    function: Function | None = None
    custom: Function | None = None


class Named(msgspec.Struct):
    name: str


class Allowed(msgspec.Struct):
    mode: Literal["auto", "required"]


class ToolChoice(msgspec.Struct):
    function: Named | None = None
    custom: Named | None = None
    allowed_tools: Allowed | None = None


class Schema(msgspec.Struct):
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct):
    type: str
    json_schema: Schema | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Request(msgspec.Struct):
    """What is read of a request; the names of these fields are the ones that are not left out."""

    model: str
    messages: list[Message]
    tools: list[Tool] | None = None
    functions: list[Function] | None = None
    tool_choice: str | ToolChoice | None = None
    function_call: str | Named | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    web_search_options: object = None
