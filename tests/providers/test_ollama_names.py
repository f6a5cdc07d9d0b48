"""How Ollama's names are read."""

from __future__ import annotations

import pytest

from providers.ollama_names import canonical, same


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("llama3.2", "llama3.2:latest"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("llama3.2:", "llama3.2:latest"),
        (" llama3.2 ", "llama3.2:latest"),
        ("me/llama3.2", "me/llama3.2:latest"),
        ("hf.co/org/repo", "hf.co/org/repo:latest"),
        ("hf.co/x/y:Q4", "hf.co/x/y:Q4"),
        ("reg:5000/x", "reg:5000/x:latest"),
        ("reg:5000/ns/x:7b", "reg:5000/ns/x:7b"),
        ("library/llama3.2", "llama3.2:latest"),
        ("registry.ollama.ai/library/llama3.2:1b", "llama3.2:1b"),
        ("registry.ollama.ai/me/x", "me/x:latest"),
        ("hf.co/library/x:1", "hf.co/library/x:1"),
    ],
)
def test_a_name_is_brought_into_the_form_in_which_ollama_lists_it(name: str, listed: str) -> None:
    """A tag is added where there is none, Ollama's own host and namespace are left out; twice is as once."""
    assert canonical(name) == listed
    assert canonical(listed) == listed


def test_names_are_compared_without_regard_to_case_and_to_the_default_tag() -> None:
    """As Ollama does; another tag is another model."""
    assert same("HF.co/X/Y:q4", "hf.co/x/y:Q4")
    assert same("llama3.2", "library/Llama3.2:latest")
    assert not same("llama3.2", "llama3.2:1b")
