"""LlamaIndex's OpenAI-like models: chat, completion, tools, objects and embeddings."""

from __future__ import annotations

import pytest
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from tests.clients.gateways import API_KEY

BOTH = pytest.mark.parametrize("model", ["talker", "claude"])
SAID = [ChatMessage(role="user", content="hello")]


class Person(BaseModel):
    """What is asked for."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"sun in {city}"


def llm(v1: str, model: str, *, chat: bool = True) -> OpenAILike:
    """Without retries."""
    return OpenAILike(
        model=model,
        api_base=v1,
        api_key=API_KEY,
        is_chat_model=chat,
        is_function_calling_model=chat,
        context_window=4096,
        max_retries=0,
    )


@BOTH
def test_chat(v1: str, model: str) -> None:
    """Whole, and streamed."""
    done = llm(v1, model).chat(SAID)
    pieces = list(llm(v1, model).stream_chat(SAID))

    assert done.message.content == pieces[-1].message.content == "You said: hello"
    assert "".join(piece.delta or "" for piece in pieces) == "You said: hello"


@BOTH
async def test_asynchronous(v1: str, model: str) -> None:
    """The same."""
    done = await llm(v1, model).achat(SAID)
    pieces = [piece.delta or "" async for piece in await llm(v1, model).astream_chat(SAID)]

    assert done.message.content == "".join(pieces) == "You said: hello"


def test_completion(v1: str) -> None:
    """The old route, whole and streamed."""
    done = llm(v1, "writer", chat=False).complete("Once")
    pieces = list(llm(v1, "writer", chat=False).stream_complete("Once"))

    assert done.text == "".join(piece.delta or "" for piece in pieces) == "You said: Once"


@BOTH
def test_tools(v1: str, model: str) -> None:
    """Called for two places, and told back by its own loop."""
    tool = FunctionTool.from_defaults(get_weather)
    asked = "the weather in Paris and in New York"
    speaker = llm(v1, model)
    done = speaker.chat_with_tools([tool], user_msg=asked, allow_parallel_tool_calls=True)
    calls = speaker.get_tool_calls_from_response(done)

    assert [call.tool_kwargs for call in calls] == [{"city": "Paris"}, {"city": "New York"}]
    results = [
        ChatMessage(
            role="tool", content=str(tool(**call.tool_kwargs)), additional_kwargs={"tool_call_id": call.tool_id}
        )
        for call in calls
    ]
    history = [ChatMessage(role="user", content=asked), done.message, *results]
    told = speaker.chat_with_tools([tool], chat_history=history)
    assert told.message.content == "The tools say: sun in Paris; sun in New York"


@BOTH
def test_an_object(v1: str, model: str) -> None:
    """By a tool that must be called."""
    done = llm(v1, model).structured_predict(Person, PromptTemplate("'{name}' is 41"), name="Ann")

    assert done == Person(name="Ann", age=41)


@BOTH
def test_pictures(v1: str, model: str) -> None:
    """As a block."""
    picture = ImageBlock(image=b"\x89PNG\r\n\x1a\n", image_mimetype="image/png")
    done = llm(v1, model).chat([ChatMessage(role="user", blocks=[TextBlock(text="look"), picture])])

    assert done.message.content == "You said: look (1 pictures)"


async def test_embeddings(v1: str) -> None:
    """One, many, and asynchronous."""
    embedder = OpenAILikeEmbedding(model_name="vectors", api_base=v1, api_key=API_KEY, max_retries=0)
    one = embedder.get_query_embedding("one")
    many = embedder.get_text_embedding_batch(["one", "two"])

    assert len(one) == 8
    assert one == many[0] == await embedder.aget_text_embedding("one")
