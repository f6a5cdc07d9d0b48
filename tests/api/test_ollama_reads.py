"""Ollama's reading routes over a gateway whose models live in an Ollama, in an engine of ours and at an API elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import pytest_asyncio
from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException
from litestar.testing import AsyncTestClient

from gateway.api.errors import tell
from gateway.api.ollama import VERSION, capabilities, ollama_routes
from gateway.errors import UnknownModel
from gateway.routing.catalog import Catalog, Listing, Model, Target
from gateway.routing.resolve import resolve
from providers.contract import Offer
from tests.fakes.ollama import FakeModel, FakeOllama
from tests.fakes.processes import ENGINE
from tests.fakes.running import Running, running
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
IDLE_S = 600


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncGenerator[FakeOllama, None]:
    """Somebody's Ollama with a model that sees and thinks, and one that embeds."""
    seer = FakeModel(
        "qwen3-vl:4b",
        size_bytes=3 * MIB,
        capabilities=("completion", "tools", "vision", "thinking", "insert"),
        family="qwen3vl",
        context_length=32768,
        parameters="4.4B",
    )
    async with FakeOllama(seer, FakeModel("nomic:latest", capabilities=("embedding",), family="nomic")) as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home(
    upstream: FakeUpstream, server: FakeOllama, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Running, None]:
    """The gateway in front of them."""
    toml = f"""
    [server]
    port = 0
    [memory.devices]
    ram = "400MiB"
    [residency]
    idle_s = {IDLE_S}
    [providers.rig]
    kind = "process"
    command = {json.dumps([*ENGINE, "--port", "${port}"])}
    [providers.up]
    kind = "openai"
    base_url = "{upstream.base_url}"
    [providers.box]
    kind = "ollama"
    base_url = "{server.base_url}"
    [models.smollm2]
    targets = ["rig/smol"]
    memory = "40MiB"
    context = 2048
    aliases = ["small"]
    [models.kept]
    targets = ["rig/kept"]
    memory = "10MiB"
    pinned = true
    [models.far]
    targets = ["up/echo"]
    """
    async with running(tmp_path_factory.mktemp("home"), toml) as found:
        await found.until(lambda: "box/qwen3-vl:4b" in found.parts.directory.catalog.by_name)
        yield found


def told(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, str]]:
    """As the gateway's own application tells errors on these routes: the table's status, and the message alone."""
    if isinstance(error, HTTPException):
        return Response({}, status_code=error.status_code)
    said = tell(error)
    message = cast("dict[str, str]", said.envelope["error"])["message"]
    return Response({"error": message}, status_code=said.status)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(home: Running) -> AsyncGenerator[AsyncTestClient[Litestar], None]:
    """Speaks to the routes alone."""
    parts = home.parts
    routes = ollama_routes(lambda: parts.directory.catalog, parts.residency, parts.listings, lambda: NOW_S)
    app = Litestar(routes, exception_handlers={Exception: told}, openapi_config=None, logging_config=None)
    async with AsyncTestClient(app) as speaking:
        yield speaking


NOW_S = 1_763_812_800.25  # a moment of November 2025
Asker = AsyncTestClient[Litestar]


async def show(client: Asker, name: str) -> dict[str, Any]:
    """What is told of a model that is there."""
    answer = await client.post("/api/show", json={"model": name})
    assert answer.status_code == 200, answer.text
    return cast("dict[str, Any]", answer.json())


async def tags(client: Asker) -> dict[str, dict[str, Any]]:
    """Name → entry of the list."""
    answer = await client.get("/api/tags")
    assert answer.status_code == 200
    return {entry["name"]: entry for entry in answer.json()["models"]}


async def test_version_is_three_numbers_and_high_enough(client: Asker) -> None:
    """Codex asks for 0.13.4, others for 0.14.2; VS Code reads each number by itself; HEAD is answered, too."""
    answer = await client.get("/api/version")
    assert answer.json() == {"version": VERSION}
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    assert tuple(map(int, VERSION.split("."))) >= (0, 14, 2)
    for path in ("/api/version", "/api/tags"):
        assert (await client.head(path)).status_code == 200


async def test_tags_list_every_public_model_in_ollamas_fields(client: Asker, home: Running) -> None:
    """Names are ours; digests are 64 hexadecimal digits, one for each place where something is served, always the same."""
    listed = await tags(client)
    assert list(listed) == [model.name for model in home.parts.directory.catalog.models]
    assert {"smollm2", "far", "box/qwen3-vl:4b"} <= set(listed)
    for name, entry in listed.items():
        assert entry["model"] == name
        assert re.fullmatch(r"[0-9a-f]{64}", entry["digest"])
        assert datetime.fromisoformat(entry["modified_at"]).tzinfo is not None
        assert isinstance(entry["size"], int)
        fields = {"parent_model", "format", "family", "families", "parameter_size", "quantization_level"}
        assert set(entry["details"]) == fields
    targets = {model.targets[0].key for model in home.parts.directory.catalog.models}
    assert len({entry["digest"] for entry in listed.values()}) == len(targets)
    assert await tags(client) == listed
    seer = listed["box/qwen3-vl:4b"]
    assert (seer["size"], seer["details"]["family"], seer["details"]["families"]) == (3 * MIB, "qwen3vl", ["qwen3vl"])
    assert (seer["details"]["parameter_size"], seer["details"]["quantization_level"]) == ("4.4B", "Q4_K_M")
    assert seer["modified_at"] == "2024-05-10T15:06:48Z"


async def test_show_tells_capabilities_and_context(client: Asker) -> None:
    """In Ollama's words, and under the key that clients put together from the architecture."""
    seer = await show(client, "box/qwen3-vl:4b")
    assert seer["capabilities"] == ["completion", "tools", "vision", "thinking", "insert"]
    assert seer["model_info"]["general.architecture"] == "qwen3vl"
    assert seer["model_info"]["qwen3vl.context_length"] == 32768
    assert "license" not in seer
    assert (await show(client, "nomic"))["capabilities"] == ["embedding"]


async def test_show_of_a_model_of_which_nothing_is_said(client: Asker) -> None:
    """It is presumed to complete and to take tools, or clients would hide it; what we know of it is told."""
    shown = await show(client, "smollm2")
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["model_info"]["general.architecture"] == "unknown"
    assert all(isinstance(shown[name], str) for name in ("modelfile", "parameters", "template"))
    assert "FROM smollm2\n" in shown["modelfile"]


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("smollm2:latest", "smollm2"),
        ("small:latest", "smollm2"),
        ("rig/smol:latest", "smollm2"),
        ("nomic", "box/nomic:latest"),
        ("nomic:latest", "box/nomic:latest"),
        ("qwen3-vl", "box/qwen3-vl:4b"),
    ],
)
async def test_names_as_clients_complete_them(client: Asker, asked: str, shown: str) -> None:
    """NAME:latest means NAME where nothing is called so; the former word for the field is understood; so is a body of any type."""
    for field in ("model", "name"):
        answer = await client.post("/api/show", content=json.dumps({field: asked}))
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_info"]["general.basename"] == shown


async def test_latest_does_not_mean_another_tag() -> None:
    """Where there is 4b only, NAME may mean it; NAME:latest is another one, that is not there. An exact name comes first."""
    offers = [Offer(name="qwen:4b"), Offer(name="llama:latest"), Offer(name="llama:1b")]
    catalog = Catalog([Model("llama", (Target("up/x", "up", "x"),))], [Listing("box", offers, tagged=True)])
    assert resolve(catalog, "qwen").name == "box/qwen:4b"
    with pytest.raises(UnknownModel):
        resolve(catalog, "qwen:latest")
    assert resolve(catalog, "llama").name == "llama"
    assert resolve(catalog, "llama:latest").name == "box/llama:latest"


async def test_show_refuses_in_ollamas_form(client: Asker) -> None:
    """404 for a model that is not there, with its name in the text; 400 for a body that names none."""
    unknown = await client.post("/api/show", json={"model": "nobody:latest"})
    assert unknown.status_code == 404
    assert "'nobody:latest'" in unknown.json()["error"]
    for body in (b"", b"[]", b"{}", b'{"model": 1}', b'{"model": ""}', b"\xff", b'{"model": null}', b"[" * 5000):
        refused = await client.post("/api/show", content=body)
        assert (refused.status_code, list(refused.json())) == (400, ["error"]), body
        assert isinstance(refused.json()["error"], str)


async def test_ps_tells_what_is_in_memory_and_until_when(client: Asker, home: Running, server: FakeOllama) -> None:
    """Reading loads nothing; what is loaded has its size, and leaves after its idle time unless it is pinned."""
    before = len(home.happened("load_started"))
    await show(client, "smollm2")
    await tags(client)
    assert len(home.happened("load_started")) == before

    await home.parts.residency.load("rig/smol", 5)
    await home.parts.residency.load("rig/kept", 5)
    server.load_behind("qwen3-vl:4b")
    await home.until(lambda: "box/qwen3-vl:4b" in home.phases())
    answer = await client.get("/api/ps")
    listed = {entry["name"]: entry for entry in answer.json()["models"]}
    assert set(listed) == {"smollm2", "kept", "box/qwen3-vl:4b"}
    small = listed["smollm2"]
    assert (small["model"], small["size"], small["size_vram"]) == ("smollm2", 40 * MIB, 0)
    assert small["digest"] == (await tags(client))["smollm2"]["digest"]
    assert small["context_length"] == 2048
    assert "context_length" not in listed["box/qwen3-vl:4b"]
    now = datetime.fromtimestamp(NOW_S, UTC)
    left = datetime.fromisoformat(small["expires_at"]) - now
    assert timedelta(seconds=IDLE_S - 30) < left <= timedelta(seconds=IDLE_S + 1)
    assert datetime.fromisoformat(listed["kept"]["expires_at"]) - now > timedelta(days=365 * 200)


@pytest.mark.parametrize(
    ("method", "path", "command"),
    [
        ("POST", "/api/pull", "roundhouse pull"),
        ("DELETE", "/api/delete", "roundhouse rm"),
        ("POST", "/api/copy", "aliases"),
        ("POST", "/api/create", "[models.NAME]"),
        ("POST", "/api/push", "push"),
        ("POST", "/api/blobs/sha256:00", "roundhouse pull"),
    ],
)
async def test_what_ollama_does_to_its_disk_is_refused(client: Asker, method: str, path: str, command: str) -> None:
    """With the command that does it, and so that a client shows the text."""
    answer = await client.request(method, path, content=b'{"model": "llama3.2"}')
    assert answer.status_code == 501
    assert command in answer.json()["error"]


async def test_blobs_are_not_there(client: Asker) -> None:
    """Asked for by HEAD, which has no body, it is an error as well."""
    assert (await client.head("/api/blobs/sha256:00")).status_code == 501


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (("chat", "completion"), ["completion"]),
        (("embedding",), ["embedding"]),
        (("chat", "reasoning", "rerank", "structured_output"), ["completion", "thinking"]),
        ((), ["completion", "tools"]),
    ],
)
async def test_capabilities_are_ollamas_words(said: tuple[str, ...], told: list[str]) -> None:
    """Each once; words that Ollama has not are left out."""
    assert capabilities(Model("m", (), offer=Offer(name="m", capabilities=said))) == told
