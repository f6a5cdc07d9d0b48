"""langchain-openai under LangChain's own standard suites, over chat, and over Responses by translation.

What a model here cannot do is switched off by the suite's own properties, each with its reason.
"""

from __future__ import annotations

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from tests.clients.gateways import API_KEY

pytestmark = pytest.mark.filterwarnings(
    # of its own objects: a parsed answer is another type than the field that holds it; the suite tries pydantic's first version
    "ignore:Pydantic serializer warnings:UserWarning",
    "ignore:Received a Pydantic BaseModel V1 schema:UserWarning",
)
# A place to be made for: the unit tests ask nobody.
NOWHERE = "http://127.0.0.1:1/v1"


class _Chat(ChatModelIntegrationTests):
    """What all share."""

    v1 = ""
    model_name = "talker"
    responses = False

    @pytest.fixture(autouse=True)
    def _address(self, v1: str) -> None:
        type(self).v1 = v1

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict:
        return {
            "base_url": self.v1,
            "api_key": API_KEY,
            "model": self.model_name,
            "max_retries": 0,
            "use_responses_api": self.responses,
            "stream_usage": True,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        # the suite fetches its picture from the internet; test_pictures below has one of its own
        return False

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def enable_vcr_tests(self) -> bool:
        # it replays recordings of the real service: there is none of ours
        return False

    @property
    def model_override_value(self) -> str | None:
        return "claude"

    def test_pictures(self, model: BaseChatModel) -> None:
        """In LangChain's form and in OpenAI's."""
        data = "iVBORw0KGgo="
        forms = (
            {"type": "image", "base64": data, "mime_type": "image/png"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        )
        for form in forms:
            done = model.invoke([{"role": "user", "content": [{"type": "text", "text": "look"}, form]}])
            assert done.text == "You said: look (1 pictures)"


class TestChat(_Chat):
    """Over an upstream that has the route."""


class TestClaude(_Chat):
    """Chat, translated into Anthropic's messages."""

    model_name = "claude"

    @property
    def supports_json_mode(self) -> bool:
        # Anthropic's API has schemas, but no "any JSON"
        return False


class TestResponses(_Chat):
    """Responses, translated into chat."""

    responses = True


class TestClaudesResponses(TestClaude):
    """Responses, translated into Anthropic's messages."""

    responses = True


class TestVectors(EmbeddingsIntegrationTests):
    """Embeddings as they are."""

    v1 = ""

    @pytest.fixture(autouse=True)
    def _address(self, v1: str) -> None:
        type(self).v1 = v1

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict:
        # without the check of lengths, which needs OpenAI's own list of tokens from the internet
        return {"base_url": self.v1, "api_key": API_KEY, "model": "vectors", "check_embedding_ctx_length": False}


class TestChatAlone(ChatModelUnitTests):
    """The client with our address and names."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict:
        return {"base_url": NOWHERE, "api_key": API_KEY, "model": "talker"}

    @property
    def init_from_env_params(self) -> tuple[dict, dict, dict]:
        env = {"OPENAI_API_KEY": "a-key", "OPENAI_API_BASE": NOWHERE}
        return env, {"model": "talker"}, {"openai_api_key": "a-key", "openai_api_base": NOWHERE}


class TestVectorsAlone(EmbeddingsUnitTests):
    """The client with our address and names."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict:
        return {"base_url": NOWHERE, "api_key": API_KEY, "model": "vectors"}
