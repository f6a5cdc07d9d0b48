"""The accessibility check of a page: see a11y.js."""

from __future__ import annotations

from pathlib import Path

from .devtools import Tab

_SCRIPT = Path(__file__).with_name("a11y.js").read_text()


def check(tab: Tab) -> list[str]:
    """What is wrong with the page as it stands."""
    found: list[str] = tab.run(_SCRIPT)
    return found
