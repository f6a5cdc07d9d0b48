"""The dashboard's pure modules, tested where they run: `node --test` over *.test.mjs here; and rules for all its files."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = HERE.parents[1] / "gateway" / "dashboard"
SCRIPTS = sorted(FILES.rglob("*.js"))
TESTS = sorted(HERE.glob("*.test.mjs"))
# From here on .js files with `import` in them are modules without a package.json that says so.
NODE_MIN = (20, 19)
LINES_MAX = 400
FORBIDDEN = {
    "innerHTML": r"\.(inner|outer)HTML\b|insertAdjacentHTML|document\.write",
    "eval": r"\beval\(|new Function\(|setTimeout\(\s*[\"'`]",
    "inline style": r"setAttribute\(\s*[\"']style[\"']",
    "another host": r"https?://(?!www\.w3\.org/2000/svg)",
}


def _node() -> str:
    """The path of a Node.js that is new enough, or the test is skipped."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed: the dashboard's modules are not tested here")
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(part) for part in said.strip().removeprefix("v").split(".")[:2])
    if version < NODE_MIN:
        pytest.skip(f"Node.js {said.strip()} is older than {'.'.join(map(str, NODE_MIN))}")
    return node


def test_pure_modules() -> None:
    """Money, scales, statistics, layouts, lists, streams: each file's own tests pass."""
    done = subprocess.run(
        [_node(), "--test", *map(str, TESTS)], capture_output=True, text=True, check=False, timeout=60
    )
    failed = done.stdout.split("\nnot ok")[1:]
    assert done.returncode == 0, "\n".join(failed)[:4000] or done.stdout[-4000:] + done.stderr[-1000:]
    assert re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE), "no test was found"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(FILES).as_posix())
def test_scripts_keep_the_rules(path: Path) -> None:
    """Short, with a head that says its duty, and without what a strict content security policy or good sense forbids."""
    written = path.read_text()
    assert written.startswith(("//", "/*")), "the head that says what it is for is missing"
    assert written.count("\n") <= LINES_MAX
    for what, pattern in FORBIDDEN.items():
        assert not re.search(pattern, written), f"{what} is not allowed here"
