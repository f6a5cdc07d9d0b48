"""How Ollama names models: [HOST/][NAMESPACE/]MODEL[:TAG]. Pure.

Law: two names that Ollama takes for the same model have the same canonical form, but for upper and lower case: those it keeps as
they were written, and compares without (`same`).
"""

from __future__ import annotations

DEFAULT_TAG = "latest"
# What Ollama itself leaves out when it shows a name (its documentation, "Model names").
_DEFAULT_HOST = "registry.ollama.ai/"
_DEFAULT_NAMESPACE = "library/"


def canonical(name: str) -> str:
    """The name as Ollama lists it: "llama3.2" → "llama3.2:latest".

    Only what follows the last slash can hold a tag: in "reg:5000/x" the colon belongs to a port.
    """
    name = name.strip().removeprefix(_DEFAULT_HOST)
    if name.count("/") == 1:
        name = name.removeprefix(_DEFAULT_NAMESPACE)
    above, slash, model = name.rpartition("/")
    base, _, tag = model.partition(":")
    return f"{above}{slash}{base}:{tag or DEFAULT_TAG}"


def same(one: str, other: str) -> bool:
    """Whether both mean one model."""
    return canonical(one).lower() == canonical(other).lower()
