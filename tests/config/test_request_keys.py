"""What may be said of requests: a model's parameters and its system prompt, and how large an upload may be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from config.load import ConfigError, load
from config.schema import Config


def read(folder: Path, toml: str, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration these lines give."""
    path = folder / "roundhouse.toml"
    path.write_text(toml)
    return load(path, {"HOME": "/home/someone", **(environ or {})})


def test_parameters_become_json(tmp_path: Path) -> None:
    """Whatever TOML and JSON both can say, with variables put in."""
    toml = """
    [models.m]
    source = "embedded"
    dropped = ["logit_bias", "clé", "logit_bias"]
    system_prompt = \"\"\"
    Be brief, ${WHO}.
    \"\"\"
    [models.m.defaults]
    temperature = 0.20
    seed = 123456789012345678901234567890
    stop = ["a\\"b", "é", "${WHO}"]
    [models.m.forced]
    "odd name" = true
    options = { model = "x", stream = [ { a = 1 }, [] ] }
    """
    model = read(tmp_path, toml, {"WHO": "you"}).models["m"]
    assert {name: json.loads(value) for name, value in model.defaults.items()} == {
        "temperature": 0.2,
        "seed": 123456789012345678901234567890,
        "stop": ['a"b', "é", "you"],
    }
    assert model.defaults["temperature"] == b"0.2"
    assert model.forced == {"odd name": b"true", "options": b'{"model":"x","stream":[{"a":1},[]]}'}
    assert model.dropped == ("logit_bias", "clé", "logit_bias")
    assert model.system_prompt.strip() == "Be brief, you."


def test_nothing_is_done_to_requests_when_nothing_is_said(tmp_path: Path) -> None:
    """The bytes are the caller's."""
    model = read(tmp_path, '[models.m]\nsource = "embedded"').models["m"]
    assert (model.defaults, model.forced, model.dropped, model.system_prompt) == ({}, {}, (), "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("defaults = 1", "defaults: expected a table: parameter = value, got 1"),
        ('defaults = ["a"]', "defaults: expected a table: parameter = value, got a list"),
        ('forced.model = "x"', "forced.model: expected a parameter's name, and neither model nor stream, got \"x\""),
        ("defaults.stream = true", "defaults.stream: expected a parameter's name, and neither model nor stream, got true"),
        ('forced."" = 1', 'forced."": expected a parameter\'s name, and neither model nor stream, got 1'),
        ("forced.since = 2026-11-22", "forced.since: expected what JSON can say: no date or time, no nan, no inf, got 2026-11-22"),
        ("forced.a.b = [07:30:00]", "forced.a: expected what JSON can say: no date or time, no nan, no inf, got a table"),
        ("defaults.top_p = nan", "defaults.top_p: expected what JSON can say: no date or time, no nan, no inf, got nan"),
        ("defaults.x = [-inf]", "defaults.x: expected what JSON can say: no date or time, no nan, no inf, got a list"),
        ('dropped = "a"', 'dropped: expected a list of parameters\' names, got "a"'),
        ('dropped = ["a", ""]', 'dropped[1]: expected a non-empty string, got ""'),
        ('dropped = ["a", "stream"]', "dropped[1]: expected a parameter's name, and neither model nor stream, got \"stream\""),
        ("system_prompt = 1", "system_prompt: expected a string, got 1"),
        ("forced.a = 1\ndefaults.a = 2", 'forced: expected parameters that are not in defaults, too, got "a"'),
        ('forced.a = 1\ndropped = ["a"]', 'dropped: expected parameters that are not in forced, too, got "a"'),
        ('forced.x = ["${NO}"]', "forced.x[0]: expected the environment variable NO to be set, got no variable of that name"),
    ],
)  # fmt: skip
def test_value_is_refused_with_its_key_when_it_is_wrong(tmp_path: Path, line: str, words: str) -> None:
    """One line: file, key, what was expected, what was found."""
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, f'[models.m]\nsource = "embedded"\n{line}')
    assert str(refused.value) == f"{tmp_path / 'roundhouse.toml'}: models.m.{words}"


def test_parameters_may_be_said_of_a_model_that_is_elsewhere(tmp_path: Path) -> None:
    """They are about its requests, not about an engine."""
    toml = '[providers.c]\nkind = "openai"\nbase_url = "http://x"\n[models.m]\ntargets = ["c/m"]\n'
    assert read(tmp_path, toml + "forced.seed = 1").models["m"].forced == {"seed": b"1"}


def test_upload_may_be_larger_than_a_body(tmp_path: Path) -> None:
    """It streams through: an hour of speech fits."""
    server = read(tmp_path, "").server
    assert server.max_body_bytes < 115_000_000 < server.max_upload_bytes == 512 * 1024**2
    assert read(tmp_path, '[server]\nmax_upload_bytes = "2GiB"').server.max_upload_bytes == 2 * 1024**3
    with pytest.raises(ConfigError, match=r"server\.max_upload_bytes: expected a size such as"):
        read(tmp_path, "[server]\nmax_upload_bytes = 0")
