"""The embedded llama.cpp server as a process of its own: `python -P llama_launcher.py --json '{…}'`.

Law: it imports nothing of ours, tells its parent through a pipe that it is ready and where, and never outlives it.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ALL_LAYERS = 9999  # more than any model has
_ERRORS_AND_WARNINGS = 2  # llama.cpp's -lv: 3 adds several lines for every request


class Unusable(Exception):
    """What was asked for cannot be; the message is the last line of the log."""


def _die_with_parent(parent: int) -> None:
    """Be killed when the thread that started us ends. The warden would see to it too, some milliseconds later."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _parameters(xllamacpp: Any, asked: dict[str, Any]) -> Any:
    """`asked` as llama.cpp's parameters. The wheel has no type information, so they are untyped here."""
    p = xllamacpp.CommonParams()
    p.model.path = asked["source"]
    p.model_alias = {asked["alias"]}
    p.hostnames = ["127.0.0.1"]
    p.port = 0  # the kernel chooses, while binding: nobody can come between
    p.api_keys = [os.environ.pop("ROUNDHOUSE_ENGINE_KEY")]  # any local process, any web page could ask it otherwise
    p.ui = False
    p.endpoint_metrics = True
    p.n_parallel = asked["slots"]
    p.n_ctx = asked["context"] * asked["slots"]  # a total, split evenly because kv_unified is off
    p.kv_unified = False
    p.n_gpu_layers = _ALL_LAYERS if asked["gpu"] else 0
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = asked["threads"]
    # What is in memory is decided by residency: nothing here may shrink itself to fit, or grow beyond the footprint.
    p.fit_params = False
    p.cache_ram_mib = 0  # a second cache of prompts, 8 GiB by default
    p.cache_idle_slots = False  # needs it
    p.n_ctx_checkpoints = asked["checkpoints"]  # copies of window and recurrent state, 32 a slot by default
    p.verbosity = _ERRORS_AND_WARNINGS
    if asked["embedding"]:
        p.embedding = True
        # An encoder sees its whole input at once: it must fit one micro batch.
        p.n_batch = p.n_ubatch = asked["context"]
    for setting in asked["settings"]:
        _set(p, setting)
    return p


def _set(p: Any, setting: str) -> None:
    """One of the operator's own `args`: "name=value", a field of llama.cpp's common_params."""
    name, equals, text = setting.partition("=")
    present = getattr(p, name, None) if name.isidentifier() and not name.startswith("_") else None
    if not equals or not isinstance(present, bool | int | float | str):
        raise Unusable(
            f"args: '{setting}' is no setting of the embedded llama.cpp; write name=value, as pooling_type=1"
        )
    try:
        value = text in ("1", "true") if isinstance(present, bool) else type(present)(text)
        setattr(p, name, value)
    except (TypeError, ValueError) as error:
        raise Unusable(f"args: '{setting}': {error}") from error


def _end(_number: int, _frame: object) -> None:
    """At once: there is nothing to save, and the kernel takes memory back faster than destructors do."""
    os._exit(0)


def main() -> None:
    """Load, say so, wait for SIGTERM."""
    parser = argparse.ArgumentParser(description="Serve one model with the embedded llama.cpp.")
    parser.add_argument("--json", required=True, help="what to load, as LlamaCppProvider writes it")
    asked: dict[str, Any] = json.loads(parser.parse_args().json)
    _die_with_parent(asked["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # After the lines that tie us to our parent: this loads a 100 MB library.
        xllamacpp: Any = importlib.import_module("xllamacpp")
        server = xllamacpp.Server(_parameters(xllamacpp, asked))
    except (Unusable, ImportError, RuntimeError) as error:
        print(f"llama.cpp: {error}", file=sys.stderr)  # noqa: T201 - the log
        os._exit(1)
    # Until here SIGTERM had its default effect: while C++ loads, no Python handler would run.
    signal.signal(signal.SIGTERM, _end)
    os.write(asked["ready_fd"], json.dumps({"ready": server.listening_address}).encode() + b"\n")
    os.close(asked["ready_fd"])
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
