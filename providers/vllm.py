"""vLLM: `vllm serve` as the command of kind `process`, so that the operator writes no flags.

Law: only what differs from `process` stands here; the operator's own `args` come last and so win.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from providers.command import CommandProvider
from providers.contract import EngineSpec
from providers.warden import Warden

# Importing torch, compiling and capturing CUDA graphs takes minutes before the first answer, a cold cache still longer.
LOAD_TIMEOUT_S = 1800.0
_STOP_TIMEOUT_S = 30.0  # it ends its worker processes one after the other


class VllmProvider(CommandProvider):
    """One `vllm serve` per target.

    Source: vLLM documentation, "CLI reference: vllm serve" (--served-model-name, --max-model-len, --max-num-seqs) and
    "OpenAI-compatible server" (GET /health answers 200 once the engine is up).

    Args:
        binary: the program, where it is not `vllm` on the PATH.
    """

    kind = "vllm"

    def __init__(
        self,
        name: str,
        specs: Mapping[str, EngineSpec],
        warden: Warden,
        secret_env: frozenset[str] = frozenset(),
        binary: str | None = None,
    ) -> None:
        preset = {target: with_vllm_command(spec, binary or "vllm") for target, spec in specs.items()}
        super().__init__(name, preset, warden, secret_env)


def with_vllm_command(spec: EngineSpec, binary: str) -> EngineSpec:
    """The spec with the command for it. A command of the operator's own is left alone."""
    if spec.command:
        return spec
    weights = "${source}" if spec.source is not None else "${model}"
    command = (
        *(binary, "serve", weights),
        *("--host", "127.0.0.1"),
        *("--port", "${port}"),
        *("--served-model-name", "${alias}"),
        *("--max-model-len", "${context}"),
        # One is our default, not a wish: vLLM decides better by itself how many sequences it batches.
        *(("--max-num-seqs", "${slots}") if spec.slots > 1 else ()),
    )
    plain = EngineSpec(target="", alias="")
    return msgspec.structs.replace(
        spec,
        command=command,
        load_timeout_s=LOAD_TIMEOUT_S if spec.load_timeout_s == plain.load_timeout_s else spec.load_timeout_s,
        stop_timeout_s=_STOP_TIMEOUT_S if spec.stop_timeout_s == plain.stop_timeout_s else spec.stop_timeout_s,
    )
