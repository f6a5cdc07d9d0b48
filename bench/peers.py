"""Other gateways, set up as their own documents say for one OpenAI-like upstream, with what they do by themselves left on or off.

Law: each has one process' worth of work on the same core as the others, and logs as little as it can. One that is not installed
is said in a line with the command that gets it; one that does not come up is left out.

Source: docs.litellm.ai/docs/proxy/configs and …/proxy/prod; github.com/Portkey-AI/gateway (custom host by header fields);
`smg launch --help`; `vllm-router --help`; envoyproxy.io (http_connection_manager).
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from . import contenders, rig
from .contenders import KEY, Contender, Upstreams
from .machine import Cores
from .measure import Peer
from .rig import Route

# Under a dot, where neither the tests nor the tools look.
INSTALLED = Path(__file__).resolve().parent.parent / ".cache/peers"
GET = "make -C bench peers"
# Python and Node gateways would answer five thousand for minutes.
_CROWD = 200
_UP_WITHIN_S = 90.0


def _program(name: str, path: Path, get: str = GET) -> str:
    """Raises: Missing."""
    found = str(path) if path.is_file() else shutil.which(path.name)
    if found is None:
        raise rig.Missing(f"no {name}: {get}; measured without it")
    return found


@contextmanager
def _up(
    name: str,
    argv: Sequence[str],
    folder: Path,
    cores: Cores,
    port: int,
    *,
    env: Mapping[str, str] | None = None,
    fields: str = "",
) -> Generator[Contender]:
    """Raises: RuntimeError: it does not come up."""
    process = contenders.start(list(argv), core=cores.proxy, folder=folder, cwd=folder, env=env)
    try:
        try:
            rig.until_listening(port, process, _UP_WITHIN_S)
        except RuntimeError:
            log = (folder / "log").read_text(errors="replace").strip()
            raise RuntimeError(f"{name} does not come up: {log[-500:]}") from None
        fast, slow = Route(port, "echo", fields), Route(port, "slow", fields)
        yield Contender(name, psutil.Process(process.pid), fast, slow, _CROWD)
    finally:
        contenders.stop(process)


@contextmanager
def litellm(folder: Path, cores: Cores, upstreams: Upstreams) -> Generator[Contender]:
    """One worker, without a database."""
    program = _program("LiteLLM", INSTALLED / "litellm/bin/litellm")
    models = "".join(
        f"  - model_name: {name}\n    litellm_params:\n      model: openai/{name}\n"
        f"      api_base: http://127.0.0.1:{upstreams.fast}/v1\n      api_key: none\n"
        for name in ("echo", "slow")
    )
    conf = folder / "litellm.yaml"
    conf.write_text(f"model_list:\n{models}litellm_settings:\n  telemetry: false\n")
    port = rig.free_port()
    argv = [program, "--config", str(conf), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    env = {"LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    with _up("LiteLLM", argv, folder, cores, port, env=env) as contender:
        yield contender


@contextmanager
def portkey(folder: Path, cores: Cores, upstreams: Upstreams) -> Generator[Contender]:
    """Its open-source gateway; the upstream is named by header fields."""
    node = _program("Node.js, for Portkey", Path("node"), "install Node.js")
    server = INSTALLED / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    if not server.is_file():
        raise rig.Missing(f"no Portkey: {GET}; measured without it")
    port = rig.free_port()
    fields = (
        f"x-portkey-provider: openai\r\nx-portkey-custom-host: http://127.0.0.1:{upstreams.fast}/v1\r\n"
        # it refuses private addresses unless they are named (its TRUSTED_CUSTOM_HOSTS)
    )
    env = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost", "NODE_ENV": "production"}
    argv = [node, str(server), f"--port={port}", "--headless"]
    with _up("Portkey", argv, folder, cores, port, env=env, fields=fields) as contender:
        yield contender


@contextmanager
def smg(folder: Path, cores: Cores, upstreams: Upstreams) -> Generator[Contender]:
    """The Rust gateway of the SGLang project."""
    program = _program("smg", INSTALLED / "smg/bin/smg")
    port = rig.free_port()
    argv = [program, "launch", "--backend", "openai", "--worker-urls", f"http://127.0.0.1:{upstreams.fast}"]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(rig.free_port())]
    argv += ["--history-backend", "none", "--log-level", "error"]
    with _up("smg", argv, folder, cores, port) as contender:
        yield contender


@contextmanager
def vllm_router(folder: Path, cores: Cores, upstreams: Upstreams) -> Generator[Contender]:
    """The Rust router of the vLLM project."""
    program = _program("vllm-router", INSTALLED / "vllm-router/bin/vllm-router")
    port = rig.free_port()
    argv = [program, "--worker-urls", f"http://127.0.0.1:{upstreams.fast}", "--policy", "round_robin"]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(rig.free_port())]
    argv += ["--log-level", "error"]
    with _up("vllm-router", argv, folder, cores, port) as contender:
        yield contender


@contextmanager
def envoy(folder: Path, cores: Cores, upstreams: Upstreams) -> Generator[Contender]:
    """A general proxy like nginx: one worker thread, no access log, nothing buffered."""
    program = _program("Envoy", Path("envoy"), "see envoyproxy.io/docs (Installing Envoy)")
    port = rig.free_port()
    conf = folder / "envoy.yaml"
    conf.write_text(_envoy_yaml(port, upstreams.fast))
    argv = [program, "-c", str(conf), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    with _up("Envoy", argv, folder, cores, port) as contender:
        yield contender


def _envoy_yaml(port: int, upstream: int) -> str:
    def address(number: int) -> str:
        return f"{{socket_address: {{address: 127.0.0.1, port_value: {number}}}}}"

    return f"""
static_resources:
  listeners:
  - address: {address(port)}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: upstream, timeout: 0s}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: upstream
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 20000, max_requests: 20000, max_pending_requests: 20000}}]}}
    load_assignment:
      cluster_name: upstream
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {address(upstream)}}}}}]}}]
"""


ALL = tuple(map(Peer, (envoy, smg, vllm_router, portkey, litellm)))
