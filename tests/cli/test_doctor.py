"""`roundhouse doctor`: what it says of healthy and of broken providers and machines, with real servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from config.load import load
from gateway.cli.checkup import Asked
from gateway.cli.doctor import examine
from tests.cli.doctors import SECRET, configured, examined
from tests.cli.gateways import ADMIN_KEY, Served, call, run
from tests.fakes.background import in_background
from tests.fakes.certificates import self_signed
from tests.fakes.ollama import FakeModel, FakeOllama
from tests.fakes.openrouter import KEY, FakeOpenRouter, entry
from tests.fakes.proxy import FakeProxy
from tests.fakes.upstream import Exchange, FakeUpstream


@asynccontextmanager
async def mail_server() -> AsyncGenerator[int]:
    """Its port. It speaks first, and nothing that we know."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        with contextlib.suppress(OSError):
            while await reader.read(4096):
                pass
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


# what is well


def test_healthy_api_is_told_line_by_line(tmp_path: Path) -> None:
    """Address, catalogue, key; for people, with the provider as heading."""
    with in_background(FakeUpstream()) as upstream:
        configured(tmp_path, "api", "openai", f"{upstream.base_url}/v1", f'api_key = "{SECRET}"\n')
        result = call(tmp_path, "doctor", "api")
        assert result.exit_code == 0, result.output
        heading, address, catalogue, key, _, end = result.stdout.splitlines()
        assert (heading, end) == ("api (openai)", "no problems")
        assert address.startswith(f"  ok       address       {upstream.base_url}/v1 answers in ")
        assert catalogue.startswith("  ok       catalogue     1 model in ")
        assert key == "  ok       key           accepted"
        assert {request.method for request in upstream.requests} == {"GET"}
    assert SECRET not in result.output


def test_server_tells_what_it_holds(tmp_path: Path) -> None:
    """And nothing is loaded by looking."""
    with in_background(FakeOllama(FakeModel("a:1b"), FakeModel("b:1b", size_bytes=5))) as ollama:
        configured(tmp_path, "box", "ollama", ollama.base_url)
        found, _ = examined(tmp_path, "box")
        assert found["memory"]["text"] == "nothing is loaded"
        assert found["key"]["state"] == "skipped"
        assert ollama.counts.loads == []
        found, _ = examined(tmp_path, "box", "--try")
        assert found["completion"]["state"] == "ok"
        assert "(the smallest; this loads it)" in found["completion"]["text"]
        assert found["completion"]["text"].startswith("b:1b answered after")
        assert found["stream"]["state"] == "ok"
        found, _ = examined(tmp_path, "box", "--try")
        assert found["memory"]["text"].startswith("b:1b (")
        assert "(in its memory already)" in found["completion"]["text"]


def test_server_without_models_says_how_to_get_one(tmp_path: Path) -> None:
    """A fresh Ollama is no problem."""
    with in_background(FakeOllama()) as ollama:
        configured(tmp_path, "box", "ollama", ollama.base_url)
        found, _ = examined(tmp_path, "box", "--try")
    assert found["catalogue"]["text"] == "no model yet: `roundhouse pull box/MODEL` fetches one"
    assert found["completion"]["state"] == "skipped"


def test_account_is_told_exactly(tmp_path: Path) -> None:
    """What is used, the limit, what is left."""
    free = entry("v/free", "0", "0")
    with in_background(FakeOpenRouter([entry("v/dear"), free, entry("v/embedding", "0", "0")])) as router:
        configured(tmp_path, "router", "openrouter", router.base_url, f'api_key = "{KEY}"\n')
        found, _ = examined(tmp_path, "router", "--try")
        assert found["account"]["text"] == "$0.1015644762 used, limit $5, $4.8984355238 left"
        assert found["completion"]["text"].startswith("v/free answered")
        assert "(free)" in found["completion"]["text"]
        router.key_info["limit_remaining"] = 0
        found, _ = examined(tmp_path, "router")
        assert found["account"]["state"] == "problem"
        configured(tmp_path, "router", "openrouter", router.base_url)
        found, _ = examined(tmp_path, "router", env={"OPENROUTER_API_KEY": ""})
        assert found["catalogue"]["state"] == "ok"
        assert (found["key"]["state"], found["key"]["text"]) == ("problem", "it wants a key, and none is set")


def test_old_catalogue_is_told_as_that(tmp_path: Path) -> None:
    """What stands in for an answer is none."""
    with in_background(FakeOpenRouter([entry("v/a")])) as router:
        configured(tmp_path, "router", "openrouter", router.base_url, f'api_key = "{KEY}"\n')
        assert examined(tmp_path, "router", env={"XDG_STATE_HOME": str(tmp_path)})[1].exit_code == 0
        page = b"<html>maintenance"

        async def lie(exchange: Exchange) -> None:
            await exchange.answer(200, page, {"content-type": "text/html"})

        router.upstream.script(lie)
        found, _ = examined(tmp_path, "router", env={"XDG_STATE_HOME": str(tmp_path)})
    assert found["catalogue"]["state"] == "problem"
    assert found["catalogue"]["text"].startswith("the last one is used, 1 model: ")


def test_written_names_are_not_asked_for(tmp_path: Path) -> None:
    """Whether the key is taken shows only where something needs it."""

    async def lists_nothing(exchange: Exchange) -> None:
        await exchange.answer(404, {"error": {"message": "no such path"}})

    upstream = FakeUpstream()
    upstream.script(lists_nothing)
    with in_background(upstream):
        more = f'api_key = "{SECRET}"\nmodels = ["m"]\n[models.mine]\ntargets = ["api/m", "api/other"]\n'
        configured(tmp_path, "api", "openai", upstream.base_url, more)
        found, _ = examined(tmp_path, "api")
        assert found["catalogue"]["text"] == "1 model configured (it has no list)"
        assert found["key"]["state"] == "skipped"
        assert (found["targets"]["state"], found["targets"]["text"]) == ("problem", "it does not have other")


# whom one cannot reach


def test_dead_address_is_a_problem(tmp_path: Path, dead_port: int) -> None:
    """With the reason and what to do; the checks behind it are skipped. As a process: exit code 1, and no key anywhere."""
    more = f'api_key = "{SECRET}"\nheaders = {{ x-token = "{SECRET}" }}\n'
    configured(tmp_path, "api", "openai", f"http://127.0.0.1:{dead_port}/v1", more)
    done = run(tmp_path, "doctor", "--config", str(tmp_path / "roundhouse.toml"))
    assert done.returncode == 1, done.stderr
    _, _, said = done.stdout.partition("api (openai)\n")
    assert said.splitlines() == [
        f"  problem  address       http://127.0.0.1:{dead_port}/v1: nothing listens at its address",
        "                         → start it, or correct providers.api.base_url",
        "  skipped  key           not reached",
        "  skipped  catalogue     not reached",
        "",
        "1 problem",
    ]
    assert "this machine (" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_name_is_a_problem(tmp_path: Path) -> None:
    """Here one that no name service would be asked for."""
    configured(tmp_path, "api", "openai", "http://a..b/v1")
    found, _ = examined(tmp_path, "api")
    assert "its host name is not known" in found["address"]["text"]
    assert found["address"]["advice"] == "correct providers.api.base_url, or this machine's name resolution"


def test_what_speaks_no_tls_is_told_from_what_is_dead(tmp_path: Path) -> None:
    """And what speaks no HTTP at all."""
    with in_background(mail_server()) as port:
        configured(tmp_path, "api", "openai", f"https://127.0.0.1:{port}/v1")
        found, _ = examined(tmp_path, "api")
        assert found["address"]["advice"].startswith("does it speak https there?")
        configured(tmp_path, "api", "openai", f"http://127.0.0.1:{port}/v1")
        found, _ = examined(tmp_path, "api")
        assert found["address"]["state"] == "problem"
        assert "does not speak HTTP" in found["address"]["advice"]


def test_foreign_certificate_is_told(tmp_path: Path) -> None:
    """Nobody that we know has signed it."""
    context = self_signed(tmp_path)
    with in_background(FakeUpstream(ssl_context=context)) as upstream:
        configured(tmp_path, "api", "openai", f"{upstream.base_url}/v1")
        found, _ = examined(tmp_path, "api")
    assert "its certificate is not accepted" in found["address"]["text"]
    assert found["address"]["advice"].startswith("set providers.api.ca_file")


def test_proxy_is_blamed_for_what_is_its_own(tmp_path: Path) -> None:
    """It wants a password; the upstream was never asked."""
    with in_background(FakeProxy(credentials="user:secret")) as proxy:
        configured(tmp_path, "api", "openai", "https://api.example/v1", f'proxy = "{proxy.url()}"\n')
        found, _ = examined(tmp_path, "api")
    assert "407" in found["address"]["text"]
    assert found["address"]["advice"].startswith("correct HTTPS_PROXY or providers.api.proxy")


async def test_silent_provider_is_given_up_and_delays_no_other(tmp_path: Path) -> None:
    """Everything of one provider ends within its bound; the others are asked at the same time."""

    async def hold(exchange: Exchange) -> None:
        await exchange.received.wait()
        await asyncio.Event().wait()

    async with FakeUpstream() as silent, FakeUpstream() as well:
        silent.script(hold)
        configured(
            tmp_path,
            "silent",
            "openai",
            silent.base_url,
            f'[providers.well]\nkind = "openai"\nbase_url = "{well.base_url}"\n',
        )
        config = load(tmp_path / "roundhouse.toml", {"HOME": str(tmp_path)})
        findings = await examine(config, {}, ["silent", "well"], Asked(by_name=True, within_s=0.3))
        assert silent.open_connections + well.open_connections == 0
    told = {(finding.subject, finding.check): finding for finding in findings}
    assert told["silent", "address"].state == "problem"
    assert "did not answer within 0.3 s" in told["silent", "address"].text
    assert told["well", "catalogue"].state == "ok"


# what is not what it should be


def test_refused_key_is_a_problem(tmp_path: Path) -> None:
    """Also one that the upstream quotes."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(401, {"error": {"message": f"wrong key: {SECRET}"}})

    upstream = FakeUpstream()
    upstream.script(refuse)
    with in_background(upstream):
        configured(tmp_path, "api", "openai", upstream.base_url, f'api_key = "{SECRET}"\n')
        found, _ = examined(tmp_path, "api")
        assert found["key"]["text"] == "it does not take our key"
        assert found["key"]["advice"].startswith("set providers.api.api_key")
        configured(tmp_path, "api", "openai", upstream.base_url, f'api_key = "{SECRET}"\nmodels = ["m"]\n')
        found, _ = examined(tmp_path, "api", "--try")
        assert "answered with status 401: wrong key: ***" in found["completion"]["text"]


def test_web_page_is_no_catalogue(tmp_path: Path) -> None:
    """The address answers; what it says is of no use."""

    async def page(exchange: Exchange) -> None:
        await exchange.answer(200, b"<!doctype html>", {"content-type": "text/html"})

    upstream = FakeUpstream()
    upstream.script(page)
    with in_background(upstream):
        configured(tmp_path, "api", "openai", upstream.base_url)
        found, _ = examined(tmp_path, "api")
    assert found["address"]["state"] == "ok"
    assert "with a web page instead of JSON" in found["catalogue"]["text"]


def test_configured_names_that_are_not_there_are_told(tmp_path: Path) -> None:
    """With or without their tag; what is there is counted."""
    with in_background(FakeOllama(FakeModel("here:latest"))) as ollama:
        routes = '[models.a]\ntargets = ["box/here"]\n'
        configured(tmp_path, "box", "ollama", ollama.base_url, routes)
        assert examined(tmp_path, "box")[0]["targets"]["state"] == "ok"
        configured(tmp_path, "box", "ollama", ollama.base_url, routes + '[models.b]\ntargets = ["box/gone:1b"]\n')
        found, _ = examined(tmp_path, "box")
    assert found["targets"]["text"] == "it does not have gone:1b"
    assert "roundhouse pull box/gone:1b" in found["targets"]["advice"]


def test_memory_that_is_not_told_is_a_problem(tmp_path: Path) -> None:
    """Residency is blind then."""
    with in_background(FakeOllama(FakeModel("a:1b"))) as ollama:

        async def lie(exchange: Exchange) -> None:
            await exchange.answer(500, {"error": "out of order"})

        ollama.lies["/api/ps"] = lie
        configured(tmp_path, "box", "ollama", ollama.base_url)
        found, _ = examined(tmp_path, "box")
    assert found["memory"]["state"] == "problem"
    assert "out of order" in found["memory"]["text"]


# what nobody wrote down


def test_what_is_looked_for_and_not_found_is_no_problem(tmp_path: Path, dead_port: int) -> None:
    """Unless it was asked for by name."""
    (tmp_path / "roundhouse.toml").write_text("[server]\ndiscover = true\nport = 0\n")
    url = f"http://127.0.0.1:{dead_port}"
    env = {"OLLAMA_HOST": url, "OLLAMA_BASE_URL": "", "LM_STUDIO_BASE_URL": url}
    result = call(tmp_path, "doctor", "--json", env=env)
    found = cast("list[dict[str, Any]]", json.loads(result.stdout))
    ollama = [finding for finding in found if finding["subject"] == "ollama"]
    assert [(finding["state"], finding["text"]) for finding in ollama] == [("skipped", f"not found here ({url})")]
    assert examined(tmp_path, "ollama", env=env)[0]["address"]["state"] == "problem"


def test_something_else_at_the_usual_address_is_no_problem(tmp_path: Path) -> None:
    """A web server of somebody's on the port that is looked at."""

    async def page(exchange: Exchange) -> None:
        await exchange.answer(200, b"<!doctype html>", {"content-type": "text/html"})

    upstream = FakeUpstream()
    upstream.script(page)
    with in_background(upstream):
        (tmp_path / "roundhouse.toml").write_text("[server]\ndiscover = true\nport = 0\n")
        env = {"OLLAMA_HOST": upstream.base_url, "OLLAMA_BASE_URL": ""}
        result = call(tmp_path, "doctor", "--json", env=env)
    found = cast("list[dict[str, Any]]", json.loads(result.stdout))
    last = [finding for finding in found if finding["subject"] == "ollama"][-1]
    assert (last["check"], last["state"]) == ("catalogue", "skipped")
    assert "something else listens" in last["text"]


def test_found_server_that_wants_a_key_is_told(tmp_path: Path) -> None:
    """It is there: that is worth a word, though nobody wrote it down."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(401, {"error": "unauthorized"})

    upstream = FakeUpstream()
    upstream.script(refuse)
    with in_background(upstream):
        (tmp_path / "roundhouse.toml").write_text("[server]\ndiscover = true\nport = 0\n")
        env = {"OLLAMA_HOST": upstream.base_url, "OLLAMA_BASE_URL": ""}
        result = call(tmp_path, "doctor", "--json", env=env)
    found = cast("list[dict[str, Any]]", json.loads(result.stdout))
    told = {finding["check"]: finding for finding in found if finding["subject"] == "ollama"}
    assert (told["key"]["state"], told["key"]["text"]) == ("problem", "it wants a key, and none is set")


# this machine


def machine(folder: Path, toml: str) -> dict[str, dict[str, Any]]:
    """What is found on this machine, by check."""
    (folder / "roundhouse.toml").write_text(toml)
    result = call(folder, "doctor", "--json")
    found = cast("list[dict[str, Any]]", json.loads(result.stdout))
    return {finding["check"]: finding for finding in found if finding["subject"] == "this machine"}


def test_machine_is_described(tmp_path: Path) -> None:
    """Folders, memory, GPU, port; nothing is made by looking."""
    server = f'[server]\nport = 0\nmodels_dir = "models"\nstate_dir = "{tmp_path}/state"\n'
    found = machine(tmp_path, f'{server}[memory]\ndevices = {{ ram = "1GiB", gpu7 = "2GiB" }}\n')
    assert "is not there yet and will be made" in found["models folder"]["text"]
    assert found["embedded"]["state"] == "skipped"
    assert found["memory"]["text"].startswith("gpu7: 2.0 GiB may be used, a device that is not seen here")
    assert found["GPU"]["state"] in ("ok", "skipped")
    assert found["port"]["state"] == "skipped"
    assert [path.name for path in tmp_path.iterdir()] == ["roundhouse.toml"]


def test_what_engines_need_and_lack_is_told(tmp_path: Path) -> None:
    """Weights, and programs; and what is there is counted."""
    process = '[providers.p]\nkind = "process"\n'
    found = machine(tmp_path, '[server]\nport = 0\n[models.a]\nsource = "hf:o/r/a.gguf"\n')
    assert found["engines"]["state"] == "problem"
    assert "local/a: its weights are not there" in found["engines"]["text"]
    assert "roundhouse pull --all" in found["engines"]["advice"]
    model = '[models.a]\ntargets = ["p/a"]\ncommand = ["{}", "--port", "${{port}}"]\n'
    found = machine(tmp_path, f"[server]\nport = 0\n{process}{model.format('no-such-program')}")
    assert "there is no program 'no-such-program'" in found["engines"]["text"]
    found = machine(tmp_path, f"[server]\nport = 0\n{process}{model.format('sh')}")
    assert found["engines"]["text"] == "1 model of 'p': all there"


def test_folder_that_is_none_is_told(tmp_path: Path) -> None:
    """A file stands in its place."""
    (tmp_path / "models").touch()
    found = machine(tmp_path, '[server]\nport = 0\nmodels_dir = "models/below"\n')
    assert found["models folder"]["state"] == "problem"
    assert "is no folder" in found["models folder"]["text"]


def test_device_without_room_is_told(tmp_path: Path) -> None:
    """A headroom larger than the machine leaves nothing."""
    found = machine(tmp_path, '[server]\nport = 0\n[memory]\nheadroom = "900TiB"\n')
    assert found["memory"]["state"] == "problem"


def test_port_is_free_or_taken_by_whom(tmp_path: Path, gateway: Served) -> None:
    """Our own gateway is no problem, with or without its key; another program is; so is an address of another machine."""
    port = gateway.url.rpartition(":")[2]
    assert machine(tmp_path, f"[server]\nport = {port}\n")["port"]["text"].endswith(
        "taken by a Roundhouse gateway that runs"
    )
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
    assert machine(tmp_path, f"[server]\nport = {taken}\n")["port"]["text"] == f"127.0.0.1:{taken} is free"
    with in_background(FakeUpstream()) as upstream:
        found = machine(tmp_path, f"[server]\nport = {upstream.port}\n")
    assert (found["port"]["state"], found["port"]["text"]) == (
        "problem",
        f"127.0.0.1:{upstream.port} is taken by another program",
    )
    keys = f'[server]\nhost = "192.0.2.1"\nport = {taken}\napi_keys = ["{ADMIN_KEY}"]\n'
    assert machine(tmp_path, keys)["port"]["state"] == "problem"


# usage


@pytest.mark.parametrize(
    ("toml", "arguments", "said"),
    [
        ("[memory]\nbudget = 'much'\n", (), "memory.budget: expected"),
        ('[models.a]\nsource = "hf:a/b"\n', (), "is no source"),
        ("", ("nobody",), "no provider 'nobody'; there are: local"),
        ("", ("--model", "m"), "give --try, too"),
    ],
)
def test_wrong_usage_and_configuration_end_with_two(
    tmp_path: Path, toml: str, arguments: tuple[str, ...], said: str
) -> None:
    """As everywhere."""
    (tmp_path / "roundhouse.toml").write_text(toml)
    result = call(tmp_path, "doctor", *arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_provider_that_starts_engines_is_no_address(tmp_path: Path) -> None:
    """It is part of this machine."""
    (tmp_path / "roundhouse.toml").write_text("")
    found, _ = examined(tmp_path, "local")
    assert found["engines"]["state"] == "skipped"


def test_provider_that_cannot_be_built_is_a_problem(tmp_path: Path) -> None:
    """Its certificates are not there; the others are examined all the same."""
    configured(tmp_path, "api", "openai", "https://api.example", 'proxy = "none"\nca_file = "none.pem"\n')
    found, _ = examined(tmp_path, "api")
    assert found["address"]["state"] == "problem"
    assert "providers.api" in found["address"]["text"]
