"""The house's own rules, held by a machine: arrows, purity, lengths, broad excepts. Limits without a test are wishes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("config", "providers", "gateway")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "bench").glob("*.py"))

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500

# room → what of ours it may import. The longest matching prefix counts.
ARROWS: dict[str, tuple[str, ...]] = {
    "config": ("config",),
    "providers": ("config", "providers"),
    "gateway/errors": (),
    "gateway/residency": ("config", "providers.contract", "providers.errors", "gateway.errors", "gateway.residency"),
    "gateway/routing": ("config", "providers.contract", "providers.errors", "gateway.errors", "gateway.routing"),
    "gateway/storage": ("config", "gateway.errors", "gateway.storage"),
    "gateway/access": ("config", "gateway.errors", "gateway.storage", "gateway.access"),
    "gateway/metering": ("config", "gateway.errors", "gateway.storage", "gateway.metering"),
    "gateway/server": ("gateway.server", "providers.transport_heads"),
    "gateway/dialects": ("gateway.errors", "gateway.dialects"),
    "gateway/proxy": (
        "config",
        "providers.contract",
        "providers.errors",
        "gateway.errors",
        "gateway.proxy",
        "gateway.dialects",
        "gateway.residency",
        "gateway.routing",
        "gateway.access",
        "gateway.metering",
    ),
    "gateway/api": (
        "config",
        "providers.contract",
        "providers.errors",
        "providers.pricing",
        "providers.price_filter",
        "gateway.__init__",
        "gateway.errors",
        "gateway.api",
        "gateway.proxy",
        "gateway.dialects",
        "gateway.residency",
        "gateway.routing",
        "gateway.access",
        "gateway.metering",
        "gateway.storage",
    ),
    "gateway": ("config", "providers", "gateway"),
}
# nobody sees the composition root but those who start it
ROOT_SEEN_BY = {"gateway/app.py", "gateway/serving.py"}

PURE = (
    "config/forms.py",
    "config/keys.py",
    "gateway/access/estimate.py",
    "gateway/access/limits.py",
    "gateway/access/principal.py",
    "gateway/access/tenants.py",
    "gateway/metering/counts.py",
    "gateway/metering/genai.py",
    "gateway/access/terms.py",
    "config/presets.py",
    "providers/llama_routes.py",
    "providers/ollama_names.py",
    "providers/openai_models.py",
    "providers/openrouter_stream.py",
    "providers/openrouter_wire.py",
    "providers/price_filter.py",
    "providers/pricing.py",
    "providers/placement.py",
    "providers/transport_heads.py",
    "gateway/residency/core.py",
    "gateway/residency/events.py",
    "gateway/residency/planning.py",
    "gateway/residency/policy.py",
    "gateway/residency/refusals.py",
    "gateway/residency/room.py",
    "gateway/residency/state.py",
    "gateway/residency/views.py",
    "gateway/routing/resolve.py",
    "gateway/routing/catalog.py",
    "gateway/routing/select.py",
    "gateway/routing/health.py",
    "gateway/residency/progress.py",
    "gateway/metering/activity.py",
    "gateway/metering/capture.py",
    "gateway/metering/entry.py",
    "gateway/metering/ledger_questions.py",
    "gateway/metering/ledger_rows.py",
    "gateway/metering/rates.py",
    "gateway/metering/usage.py",
    "gateway/residency/timeline.py",
    "gateway/residency/words.py",
    "gateway/proxy/edits.py",
    "gateway/proxy/headers.py",
    "gateway/proxy/meter.py",
    "gateway/proxy/multipart.py",
    "gateway/proxy/peek.py",
    "gateway/proxy/policy.py",
    "gateway/proxy/progress.py",
    "gateway/proxy/routes.py",
    "gateway/proxy/silence.py",
    "gateway/proxy/sse.py",
    "gateway/proxy/ways.py",
    "gateway/proxy/wording.py",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "gateway/dialects").glob("*.py")),
)
IMPURE_MODULES = {
    "asyncio",
    "time",
    "random",
    "os",
    "socket",
    "threading",
    "subprocess",
    "pathlib",
    "datetime",
    "logging",
}

# Where an exception of any kind may be caught: the boundaries, each with its reason beside the line.
BROAD_EXCEPT = {
    "providers/transport_answer.py": 1,  # thrown into the sink's coroutine, which raises it again
    "providers/transport_connection.py": 1,  # a sink's error, carried from the socket's callback to the pumping task
    "gateway/api/data.py": 1,  # the last handler of the data routes
    "gateway/api/edge.py": 1,  # refusals before the framework
    "gateway/server/exchange.py": 1,  # the application's bugs, and its way to cut an answer
    "gateway/residency/manager.py": 2,  # a loader's bug, a stop's bug
    "gateway/routing/listings.py": 1,  # one provider's bug must not end the others' refreshing
    "gateway/preload.py": 1,  # a pinned model that cannot be loaded does not stop the start
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "common", "services", "misc"}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module, dotted and absolute, with its line; names imported from a package count as its modules."""
    package = path.relative_to(ROOT).parent.as_posix().split("/")
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                deeper = ROOT / Path(*module.split(".")) / f"{alias.name}.py"
                folder = ROOT / Path(*module.split(".")) / alias.name
                yield (f"{module}.{alias.name}" if deeper.exists() or folder.is_dir() else module), node.lineno


def _ours(module: str) -> bool:
    return module.split(".")[0] in ROOMS


def _allowed(path: Path) -> tuple[str, ...]:
    name = _name(path).removesuffix(".py")
    room = max((room for room in ARROWS if name == room or name.startswith(room + "/")), key=len)
    return ARROWS[room]


def _within(module: str, allowed: str) -> bool:
    if allowed == "gateway.__init__":
        return module == "gateway"
    return module == allowed or module.startswith(allowed + ".")


def broken_arrows(path: Path) -> list[str]:
    """Imports of ours that point the wrong way."""
    allowed = _allowed(path)
    return [
        f"{_name(path)}:{line} imports {module}"
        for module, line in _imports(path)
        if _ours(module) and not any(_within(module, room) for room in allowed)
    ]


def too_long(path: Path, limit: int = FUNCTION_LINES_MAX) -> list[str]:
    """Functions over the limit."""
    return [
        f"{_name(path)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > limit
    ]


def broad_excepts(path: Path) -> list[int]:
    """Lines that catch any exception and do not raise it again at their end."""
    return [
        node.lineno
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
        and not (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None)
    ]


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_arrows_run_one_way(path: Path) -> None:
    """No room imports what stands behind it."""
    assert broken_arrows(path) == []


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_the_composition_root_is_seen_by_its_starters_only(path: Path) -> None:
    """`gateway.app` is imported only by what starts the gateway."""
    seen = [line for module, line in _imports(path) if module == "gateway.app"]
    assert not seen or _name(path) in ROOT_SEEN_BY or _name(path).startswith("gateway/cli/")


@pytest.mark.parametrize("name", PURE)
def test_pure_files_stay_pure(name: str) -> None:
    """No clock, no input or output, no asyncio, no randomness."""
    path = ROOT / name
    foreign = {module.split(".")[0] for module, _ in _imports(path)} & IMPURE_MODULES
    assert foreign == set()


@pytest.mark.parametrize("path", FILES + TEST_FILES, ids=_name)
def test_functions_and_files_are_short(path: Path) -> None:
    """A function fits on a screen, a file has one duty."""
    assert too_long(path) == []
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES_MAX


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_broad_excepts_stand_at_named_boundaries_only(path: Path) -> None:
    """As many as are listed here with their reason, no more."""
    assert len(broad_excepts(path)) <= BROAD_EXCEPT.get(_name(path), 0)


def test_no_room_for_leftovers() -> None:
    """A file is named after its duty."""
    assert [_name(path) for path in FILES if FORBIDDEN_NAMES & set(path.with_suffix("").parts)] == []


def test_this_test_sees_what_it_forbids(tmp_path: Path) -> None:
    """The checks find a long function and a swallowed exception, and let a mere clean-up pass."""
    swallows = "try:\n    f()\nexcept Exception:\n    pass\n"
    cleans_up = "try:\n    f()\nexcept BaseException:\n    f()\n    raise\n"
    bad = tmp_path / "bad.py"
    bad.write_text(swallows + cleans_up)

    assert broad_excepts(bad) == [3]
    assert too_long(ROOT / "gateway" / "app.py", limit=10) != []
