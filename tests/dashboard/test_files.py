"""The dashboard's files as they lie there: fit for a strict CSP, none missing, small; and their modules do as they say."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "gateway" / "dashboard"
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
HERE = Path(__file__).parent

LINES_MAX = 400
# What crosses the wire once, compressed; and what the first page needs before it can be seen.
WHOLE_BYTES_MAX = 120 * 1024
FIRST_PAGE_BYTES_MAX = 120 * 1024

_IMPORT = re.compile(
    r"""(?:^|\s)(?:import|export)\s[^"';]*?from\s*["']([^"']+)["']|^\s*import\s*["']([^"']+)["']|import\(["'`]([^"'`$]+)["'`]\)""",
    re.M,
)
_COMMENT = re.compile(r"^\s*//.*$|/\*.*?\*/", re.M | re.S)
_FORBIDDEN = {
    "evaluates text": r"\beval\(|new Function\(|setTimeout\(\s*[\"'`]",
    "writes markup": r"\.innerHTML\b|\.outerHTML\b|insertAdjacentHTML|document\.write|\.srcdoc\b",
    "sets a style attribute": r"setAttribute\(\s*[\"']style[\"']",
    "names another host": r"[\"'`]https?://(?!www\.w3\.org/(?:2000/svg|1999/xlink))[\w.-]+\.[a-z]{2,}",
}  # fmt: skip


def _name(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


def imports(path: Path) -> list[str]:
    """What a script imports by a fixed name."""
    text = _COMMENT.sub("", path.read_text(encoding="utf-8"))
    return [next(filter(None, found)) for found in _IMPORT.findall(text)]


def faults(text: str) -> list[str]:
    """What a strict CSP would stop, or must not be there."""
    bare = _COMMENT.sub("", text)
    return [fault for fault, pattern in _FORBIDDEN.items() if re.search(pattern, bare)]


def test_the_page_has_no_inline_code_and_names_nobody_else() -> None:
    """No inline script, style or handler, and every file it asks for lies here."""
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    scripts = re.findall(r"<script\b([^>]*)>(.*?)</script>", page, re.S)

    assert all("src=" in attributes and not body.strip() for attributes, body in scripts)
    assert not re.search(r"<style\b|\sstyle=|\son\w+=|javascript:|https?://|//\w", page)
    asked = re.findall(r'(?:src|href)="(dashboard/[^"]+)"', page)
    assert asked
    assert [name for name in asked if not (FOLDER / name.removeprefix("dashboard/")).is_file()] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=_name)
def test_a_script_keeps_to_the_rules(path: Path) -> None:
    """No markup from data, no evaluation, no other host; short, and its first line says its duty; what it imports exists."""
    text = path.read_text(encoding="utf-8")

    assert faults(text) == []
    assert text.startswith(("// ", "/* ", "/** ")), "the first line says what the file is for"
    assert len(text.splitlines()) <= LINES_MAX
    assert [name for name in imports(path) if not name.startswith(".") or not (path.parent / name).is_file()] == []


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".css"], ids=_name)
def test_a_style_sheet_asks_for_nothing(path: Path) -> None:
    """No import, no foreign font or picture."""
    assert not re.search(r"@import|url\((?!\s*[\"']?data:)", path.read_text(encoding="utf-8"))


def _needed(path: Path, seen: set[Path]) -> set[Path]:
    if path not in seen:
        seen.add(path)
        for name in imports(path):
            _needed((path.parent / name).resolve(), seen)
    return seen


def test_it_stays_small() -> None:
    """All of it compressed, and the first page as it is."""
    whole = sum(len(gzip.compress(path.read_bytes(), 6)) for path in FILES)
    first = _needed(FOLDER / "app.js", set()) | _needed(FOLDER / "pages" / "now.js", set())
    sheets = [path for path in FILES if path.suffix in (".css", ".html", ".svg")]

    assert whole <= WHOLE_BYTES_MAX
    assert sum(path.stat().st_size for path in (*first, *sheets)) <= FIRST_PAGE_BYTES_MAX


def test_every_page_of_the_router_exists() -> None:
    """Each name in the router has its module, and each of them mounts."""
    text = (FOLDER / "app.js").read_text(encoding="utf-8")
    listed = re.search(r"const PAGES = \{(.*?)\}", text, re.S)
    assert listed is not None
    for name in re.findall(r"^\s*(\w+):", listed[1], re.M):
        page = (FOLDER / "pages" / f"{name}.js").read_text(encoding="utf-8")
        assert re.search(r"export (?:async )?function mount\(", page), name


def test_this_test_sees_what_it_forbids(tmp_path: Path) -> None:
    """The patterns find what they are for, and let comments and our own namespace pass."""
    script = tmp_path / "a.js"
    script.write_text(
        'import { a } from "./b.js";\nimport {\n  c,\n} from "../d.js";\nawait import("./e.js");\n// import "no.js"\n'
    )

    assert imports(script) == ["./b.js", "../d.js", "./e.js"]
    assert faults("node.innerHTML = data") == ["writes markup"]
    assert faults('node.setAttribute("style", x)') == ["sets a style attribute"]
    assert faults('fetch("https://cdn.example.com/x.js")') == ["names another host"]
    assert faults('// innerHTML is not used\nconst SVG = "http://www.w3.org/2000/svg";') == []


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the pure modules are tested with it")
@pytest.mark.parametrize("path", sorted(HERE.glob("*.test.mjs")), ids=lambda path: path.name)
def test_a_module_does_what_it_says(path: Path) -> None:
    """The pure modules' own tests, under node's runner."""
    node = shutil.which("node") or "node"
    done = subprocess.run(
        [node, "--test", str(path)], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
