"""llama.cpp: the embedded server and the operator's own binary."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from providers.contract import EngineSpec, ProcessExit, Request
from providers.cores import cores_available, share
from providers.engine import ProcessEngine
from providers.errors import LoadFailed
from providers.llama_cpp import LlamaCppProvider, first_error
from providers.sweep import OWNER, find_marked, mark
from providers.warden import Warden
from tests.fakes.processes import ENGINE, alive, until
from tests.providers.test_gguf import DATA_BYTES, LLAMA, TENSORS, gguf, written

HOW_TO_GET = "no model to load: `roundhouse pull` fetches one, or set ROUNDHOUSE_TEST_GGUF to a GGUF file"


@pytest.fixture
def model() -> Path:
    """A small real model."""
    named = os.environ.get("ROUNDHOUSE_TEST_GGUF")
    if named:
        return Path(named)
    found = sorted(Path("~/.local/share/roundhouse/models").expanduser().glob("*.gguf"), key=lambda p: p.stat().st_size)
    if not found:
        pytest.skip(HOW_TO_GET)
    return found[0]


@pytest.fixture
async def warden() -> AsyncIterator[Warden]:
    """It kills what a failed test leaves."""
    made = Warden()
    yield made
    await made.aclose()


def left(warden: Warden) -> set[int]:
    """The processes of all engines."""
    return find_marked(mark(OWNER, warden.owner))


def ignore(_end: ProcessExit) -> None:
    """Nobody asks."""


def spec(source: Path, **fields: Any) -> EngineSpec:
    """As the model "org/small:1"."""
    plain: dict[str, Any] = {"target": "llama/small", "alias": "org/small:1", "source": source, "context": 512}
    return EngineSpec(**plain | fields)


async def chat(engine: ProcessEngine, **body: Any) -> dict[str, Any]:
    """One short answer."""
    body = {"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 3} | body
    request = Request(
        method=b"POST",
        path=b"/v1/chat/completions",
        headers=[(b"content-type", b"application/json")],
        body=json.dumps(body).encode(),
    )
    response = await engine.send(request)
    try:
        return json.loads(await response.read(1 << 20))
    finally:
        response.close()


@pytest.mark.engine
async def test_embedded_engine_answers_under_its_public_name(warden: Warden, model: Path) -> None:
    """The answer names the model as the caller does, not the file; nothing is left after the stop."""
    ends: list[ProcessExit] = []
    provider = LlamaCppProvider("llama", {}, warden)
    engine = await provider.load(spec(model, slots=2), ends.append)
    answer = await chat(engine)
    assert answer["model"] == "org/small:1"
    assert answer["usage"]["completion_tokens"] >= 1
    await engine.stop()
    assert left(warden) == set()
    await until(lambda: bool(ends))
    assert [(end.exit_code, end.asked) for end in ends] == [(0, True)]


@pytest.mark.engine
async def test_embedded_engine_is_nobody_else_s_when_it_listens(warden: Warden, model: Path) -> None:
    """Another process, or a web page that found the port, is refused: access is the gateway's to give."""
    engine = await LlamaCppProvider("llama", {}, warden).load(spec(model), ignore)
    (port,) = {c.laddr.port for c in psutil.Process(engine.pid).net_connections() if c.status == psutil.CONN_LISTEN}
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json={"messages": []})
    await engine.stop()
    assert answer.status_code == 401


@pytest.mark.engine
async def test_estimate_is_close_when_measured(warden: Warden, model: Path) -> None:
    """Neither is the budget overrun nor half of it wasted: the whole process within a quarter of the estimate."""
    provider = LlamaCppProvider("llama", {}, warden)
    wanted = spec(model, context=2048)
    engine = await provider.load(wanted, ignore)
    await chat(engine, messages=[{"role": "user", "content": "and " * 150}])
    measured = psutil.Process(engine.pid).memory_full_info().pss
    await engine.stop()
    assert provider.estimate(wanted)["ram"] == pytest.approx(measured, rel=0.25)


@pytest.mark.engine
async def test_nothing_is_left_when_the_embedded_load_is_cancelled(warden: Warden, model: Path) -> None:
    """Also while C++ holds the process and no Python handler would run."""
    loading = asyncio.ensure_future(LlamaCppProvider("llama", {}, warden).load(spec(model), ignore))
    await until(lambda: bool(left(warden)))
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert left(warden) == set()


@pytest.mark.engine
async def test_load_fails_at_once_when_the_embedded_engine_is_killed(warden: Warden, model: Path) -> None:
    """Its death is the event, not the time limit."""
    loading = asyncio.ensure_future(LlamaCppProvider("llama", {}, warden).load(spec(model), ignore))
    await until(lambda: bool(left(warden)))
    os.kill(next(iter(left(warden))), signal.SIGKILL)
    with pytest.raises(LoadFailed) as caught:
        await asyncio.wait_for(loading, 5)
    assert caught.value.exit_code == -signal.SIGKILL


@pytest.mark.engine
async def test_embedded_engine_dies_with_the_thread_that_started_it(warden: Warden, model: Path) -> None:
    """Even where the warden is killed first: the kernel kills it."""
    provider_script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from providers.contract import EngineSpec\n"
        "from providers.llama_cpp import LlamaCppProvider\n"
        "from providers.warden import Warden\n"
        "async def main():\n"
        "    warden = Warden()\n"
        "    spec = EngineSpec(target='l/s', alias='s', source=Path(sys.argv[1]), context=256)\n"
        "    engine = await LlamaCppProvider('l', {}, warden).load(spec, lambda end: None)\n"
        "    print(warden.pid, engine.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, "-c", provider_script, str(model), stdout=asyncio.subprocess.PIPE
    )
    assert gateway.stdout is not None
    warden_pid, engine_pid = map(int, (await gateway.stdout.readline()).split())
    os.kill(gateway.pid, signal.SIGSTOP)  # so that it starts no other warden
    os.kill(warden_pid, signal.SIGKILL)
    gateway.kill()
    await gateway.wait()
    await until(lambda: not alive(engine_pid))


async def test_failure_tells_the_cause_when_llama_cpp_refuses_the_file(warden: Warden, tmp_path: Path) -> None:
    """The header is in order, the model is not: the engine's own first error, its code, no folder."""
    path = written(tmp_path, gguf(LLAMA | {"general.architecture": "nonsense"}, TENSORS, DATA_BYTES))
    with pytest.raises(
        LoadFailed, match=r"exited with code 1 before it was ready.*unknown model architecture"
    ) as caught:
        await LlamaCppProvider("llama", {}, warden).load(spec(path), ignore)
    assert caught.value.exit_code == 1
    assert caught.value.log_lines
    assert str(tmp_path) not in caught.value.message
    assert left(warden) == set()


async def test_failure_names_the_setting_when_args_are_not_understood(warden: Warden, tmp_path: Path) -> None:
    """Flags are for llama-server; the embedded one takes settings."""
    path = written(tmp_path, gguf(LLAMA, TENSORS, DATA_BYTES))
    with pytest.raises(LoadFailed, match=r"'--flash-attn' is no setting of the embedded llama\.cpp; write name=value"):
        await LlamaCppProvider("llama", {}, warden).load(spec(path, args=("--flash-attn",)), ignore)


@pytest.mark.parametrize("wrong", ["absent", "truncated", "unnamed"])
async def test_no_process_is_started_when_the_weights_are_no_use(warden: Warden, tmp_path: Path, wrong: str) -> None:
    """Both the estimate and the load say so."""
    said = {"absent": "cannot be read: model.gguf", "truncated": "truncated", "unnamed": "set its source"}[wrong]
    path = tmp_path / "model.gguf"
    if wrong == "truncated":
        path.write_bytes(gguf(LLAMA, TENSORS, 100))
    wanted = EngineSpec(target="llama/x", alias="x") if wrong == "unnamed" else spec(path)
    provider = LlamaCppProvider("llama", {}, warden)
    with pytest.raises(LoadFailed, match=said):
        await asyncio.to_thread(provider.estimate, wanted)
    with pytest.raises(LoadFailed, match=said) as caught:
        await provider.load(wanted, ignore)
    assert caught.value.exit_code is None
    assert warden.pid is None


async def test_own_binary_gets_the_flags_of_llama_server(warden: Warden, tmp_path: Path) -> None:
    """The context in total, capped to what the model was trained on; health decides when it is up."""
    path = written(tmp_path, gguf(LLAMA, TENSORS, DATA_BYTES))
    binary = tmp_path / "llama-server"
    binary.write_text(
        f"#!{sys.executable}\nimport os, sys\nprint('argv', *sys.argv[1:], flush=True)\n"
        "port = sys.argv[sys.argv.index('--port') + 1]\n"
        f"os.execv({ENGINE[0]!r}, [*{ENGINE!r}, '--port', port])\n"
    )
    binary.chmod(0o755)
    provider = LlamaCppProvider("llama", {}, warden, binary=str(binary))
    engine = await provider.load(spec(path, context=4096, slots=2, threads=3, args=("--mlock",)), ignore)
    (line,) = [line for line in engine.log_lines() if line.startswith("argv")]
    await engine.stop()
    flags = line.split()[1:]
    assert flags[:4] == ["-m", str(path), "-a", "org/small:1"]
    assert flags[flags.index("-c") + 1] == "4096"
    assert flags[flags.index("-np") + 1] == "2"
    assert flags[flags.index("-t") + 1] == "3"
    assert flags[flags.index("-ngl") + 1] == "0"
    assert flags[-1] == "--mlock"


async def test_catalogue_tells_what_the_headers_say(warden: Warden, tmp_path: Path) -> None:
    """Chat needs a template, an encoder embeds, and a file that cannot be read is not offered."""
    bare = {name: item for name, item in LLAMA.items() if name != "tokenizer.chat_template"}
    encoder = LLAMA | {"llama.pooling_type": 1}
    files = {"chat": LLAMA, "bare": bare, "encoder": encoder}
    specs = {
        f"llama/{name}": spec(written(tmp_path, gguf(content), f"{name}.gguf"), target=f"llama/{name}", context=9999)
        for name, content in files.items()
    }
    specs["llama/gone"] = spec(tmp_path / "gone.gguf", target="llama/gone")
    offers = await LlamaCppProvider("llama", specs, warden).catalogue()
    assert {offer.name: offer.capabilities for offer in offers} == {
        "chat": ("completion", "chat"),
        "bare": ("completion",),
        "encoder": ("embedding",),
    }
    assert {offer.context_length for offer in offers} == {2048}


def test_estimate_is_per_device(tmp_path: Path) -> None:
    """On a GPU the weights and the cache leave RAM, the process stays."""
    provider = LlamaCppProvider("llama", {}, Warden())
    path = written(tmp_path, gguf(LLAMA, TENSORS, DATA_BYTES))
    in_ram, on_gpu = provider.estimate(spec(path)), provider.estimate(spec(path, device="gpu0"))
    assert set(in_ram) == {"ram"}
    assert set(on_gpu) == {"gpu0", "ram"}
    assert provider.estimate(spec(path, slots=4))["ram"] > in_ram["ram"]
    assert provider.estimate(spec(path, context=1024))["ram"] > in_ram["ram"]
    assert provider.estimate(spec(path, declared={"ram": 5})) == {"ram": 5}


def test_estimate_follows_the_file_when_it_is_replaced(tmp_path: Path) -> None:
    """A header is remembered, but not beyond its file."""
    provider = LlamaCppProvider("llama", {}, Warden())
    path = written(tmp_path, gguf(LLAMA, TENSORS, DATA_BYTES))
    before = provider.estimate(spec(path))["ram"]
    written(tmp_path, gguf(LLAMA, TENSORS, DATA_BYTES + 10_000_000))
    assert provider.estimate(spec(path))["ram"] - before == 10_000_000


def test_cause_is_the_first_error_when_llama_cpp_names_it_often() -> None:
    """Its callers only say that they failed."""
    lines = (
        "0.00.033.722 E llama_model_load: error loading model: tensor 'x' is corrupted",
        "0.00.033.760 E llama_model_load_from_file_impl: failed to load model",
        "llama.cpp: Failed to init server",
    )
    assert first_error(lines) == "error loading model: tensor 'x' is corrupted"
    assert first_error(("", "llama.cpp: no")) == "llama.cpp: no"


def test_cores_are_shared_between_residents() -> None:
    """Equal parts, never none; the operator's word is kept."""
    assert cores_available() >= 1
    assert [share(0, running, 8) for running in (0, 1, 3, 20)] == [8, 4, 2, 1]
    assert share(5, 3, 2) == 5
