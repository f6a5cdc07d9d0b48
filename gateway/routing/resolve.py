"""What a model name means: exact name → alias → `provider/name` → 404 with the nearest names. Pure."""

from __future__ import annotations

from difflib import get_close_matches

from gateway.errors import UnknownModel

from .catalog import Catalog, Model

# A name longer than any real one is not compared with ours: difflib's cost grows with the product of the lengths.
COMPARED_MAX = 256


def resolve(catalog: Catalog, name: str) -> Model:
    """The model meant by `name`. Raises: UnknownModel, naming up to three that look like it."""
    model = catalog.by_name.get(name)
    if model is None:
        model = catalog.by_target.get(name)
    if model is None:
        raise UnknownModel(_unknown_text(catalog, name), param="model")
    return model


def _unknown_text(catalog: Catalog, name: str) -> str:
    shown = name if len(name) <= COMPARED_MAX else name[:COMPARED_MAX] + "…"
    names = list(catalog.by_name)
    if not names:
        return f"The model '{shown}' does not exist: no model is configured or found"
    near = get_close_matches(name, names, n=3, cutoff=0.4) if len(name) <= COMPARED_MAX else []
    hint = f"did you mean {', '.join(repr(n) for n in near)}?" if near else "GET /v1/models lists what is there"
    return f"The model '{shown}' does not exist; {hint}"
