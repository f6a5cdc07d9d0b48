"""Configurations of the journeys: fake engines as kind `process`, each of a declared size, under a budget of our choosing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tests.fakes.processes import ENGINE


def fakes(
    budget: str,
    models: Mapping[str, str],
    *,
    flags: Mapping[str, Sequence[str]] | None = None,
    residency: str = "min_residency_s = 0",
    keys: Mapping[str, str] | None = None,
) -> str:
    """A configuration in which every model is a fake engine.

    Args:
        models: name → declared size.
        flags: name → flags of its engine.
        keys: name → further lines of its table.
    """
    parts = [f'[memory]\nbudget = "{budget}"\n[residency]\n{residency}\n[providers.fake]\nkind = "process"\n']
    for name, size in models.items():
        command = [*ENGINE, "--port", "${port}", "--model", name, *((flags or {}).get(name, ()))]
        parts.append(
            f'[models.{name}]\ntargets = ["fake/{name}"]\nmemory = "{size}"\ncommand = {json.dumps(command)}\n'
            + (keys or {}).get(name, "")
        )
    return "\n".join(parts)
