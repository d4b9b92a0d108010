"""Sources that are a git repository: the files of one commit, each known by the hash that git gives its content."""

import asyncio
import hashlib
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from dulwich.client import get_transport_and_path
from dulwich.config import ConfigDict
from dulwich.errors import NotGitRepository
from dulwich.object_store import iter_tree_contents
from dulwich.objects import Blob, ObjectID, TreeEntry
from dulwich.objectspec import parse_commit
from dulwich.refs import Ref
from dulwich.repo import Repo

from nightloom.corpus import SourceSettings
from nightloom.documents import DocumentRef, Listing, Quarantined, document_id
from nightloom.errors import DocumentError, SourceError, SourceUnavailable
from nightloom.left_out import LeftOut
from nightloom.sources.http import LIMITS, DownloadLimits
from nightloom.sources.listing import LINKS, MEND, Selection, listing_of, metadata_of, not_text

Result = TypeVar("Result")

SSH = "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15"
"""Never asks for a password, which nobody would type at night."""

READ_SECONDS = b"60"
LARGE_FILE_POINTER = b"version https://git-lfs.github.com/spec/"
SHOWN_NAMES = 20
SUBMODULES = "the rule that a submodule is a source of its own"


async def take_git(
    source: SourceSettings, folder: Path, validators: Mapping[str, str], limits: DownloadLimits = LIMITS
) -> Listing:
    """List the files of a commit, and write those that are not as the index has them to the folder.

    Of a repository elsewhere, that one commit is fetched first.

    Raises:
        SourceUnavailable: The repository does not answer.
        SourceError: There is no such repository, or no such commit in it.
    """
    return await asyncio.to_thread(_list_commit, source, folder, validators, limits)


def git_names(source: SourceSettings) -> list[tuple[str, str]]:
    """URI and name of every file of a repository on this disk.

    Raises:
        SourceError: There is no such repository, or no such commit in it.
    """
    return git_files(source)[0]


def git_files(source: SourceSettings) -> tuple[list[tuple[str, str]], tuple[LeftOut, ...]]:
    """URI and name of every file of a repository on this disk, and what is left out.

    Raises:
        SourceError: As `git_names`.
    """
    chosen = Selection(source)
    with closing(_local(source, source.git_folder or Path())) as repository:
        names = [name for name, _ in _files(source, repository, source.ref, chosen)]
    taken = [(f"{source.name}/{name}", name) for name in names if chosen.takes(name) and not not_text(name)]
    return taken, chosen.left_out.found


def check_git(source: SourceSettings) -> str:
    """Ask a repository elsewhere for its branches and tags, and return the commit that a night would take.

    Raises:
        SourceUnavailable: It does not answer.
        SourceError: There is no such repository, or no such branch or tag in it.
    """
    client, path = get_transport_and_path(source.git or "", config=_config(), ssh_command=SSH, quiet=True)
    found = _asked(source, lambda: client.get_refs(path.encode()))
    return _commit(source, found.refs).decode()


def _list_commit(
    source: SourceSettings, folder: Path, validators: Mapping[str, str], limits: DownloadLimits
) -> Listing:
    local, commit = source.git_folder, source.ref
    repository = _local(source, local) if local else None
    if repository is None:
        repository, commit = _fetched(source, folder)
    chosen = Selection(source)
    with closing(repository):
        taken = (
            _taken(source, repository, name, entry, folder, validators, limits)
            for name, entry in _files(source, repository, commit, chosen)
            if chosen.takes(name)
        )
        return listing_of(taken, chosen.left_out)


def _files(source: SourceSettings, repository: Repo, commit: str, chosen: Selection) -> list[tuple[str, TreeEntry]]:
    """Every file of a commit; symbolic links and submodules are none, and are counted as left out."""
    try:
        tree = parse_commit(repository, commit).tree
        entries = list(iter_tree_contents(repository.object_store, tree))
    except (KeyError, ValueError):
        raise _no_commit(source, repository.refs.as_dict()) from None
    files = [
        (entry.path.decode("utf-8", "surrogateescape"), entry)
        for entry in entries
        if entry.path is not None and entry.mode is not None and stat.S_ISREG(entry.mode)
    ]
    links = sum(entry.mode is not None and stat.S_ISLNK(entry.mode) for entry in entries)
    for rule, unit, count in ((LINKS, "links", links), (SUBMODULES, "submodules", len(entries) - len(files) - links)):
        if count:
            chosen.left_out.add(rule, unit, count=count)
    return files


def _taken(
    source: SourceSettings,
    repository: Repo,
    name: str,
    entry: TreeEntry,
    folder: Path,
    validators: Mapping[str, str],
    limits: DownloadLimits,
) -> DocumentRef | Quarantined:
    uri, blob = f"{source.name}/{name}", (entry.sha or b"").decode()
    shown = not_text(uri)
    if shown:
        return Quarantined(shown, shown, "its name is not valid UTF-8; rename the file", source.label)
    metadata = metadata_of(source)
    if validators.get(document_id(uri)) == blob:
        return DocumentRef(uri, name, source.label, None, None, 0, validator=blob, metadata=metadata)
    file = folder / document_id(uri)
    try:
        content, size_bytes = _write(repository, blob, file, limits)
    except DocumentError as error:
        return Quarantined(uri, name, str(error), source.label)
    return DocumentRef(uri, name, source.label, content, file, size_bytes, validator=blob, metadata=metadata)


def _write(repository: Repo, blob: str, file: Path, limits: DownloadLimits) -> tuple[str, int]:
    """Write a blob; git's own format has it in memory as a whole."""
    try:
        found = repository.object_store[ObjectID(blob.encode())]
    except KeyError:
        raise DocumentError(f"the repository lacks its content ({blob}); fetch it with all objects") from None
    if not isinstance(found, Blob) or found.raw_length() > limits.size_bytes:
        raise DocumentError(f"larger than {limits.size_bytes} bytes")
    data = found.as_raw_string()
    if data.startswith(LARGE_FILE_POINTER):
        raise DocumentError("its content is in Git LFS, which is not read; take it from where it is stored")
    file.write_bytes(data)
    return hashlib.sha256(data).hexdigest(), len(data)


def _local(source: SourceSettings, folder: Path) -> Repo:
    try:
        return Repo(str(folder))
    except NotGitRepository as error:
        raise SourceError(f"source {source.label!r}: {error}; {MEND} git") from None


def _fetched(source: SourceSettings, folder: Path) -> tuple[Repo, str]:
    """A repository of our own that holds the one commit, and the commit."""
    client, path = get_transport_and_path(source.git or "", config=_config(), ssh_command=SSH, quiet=True)
    place = folder / f"{document_id(source.git or '')}.git"
    shutil.rmtree(place, ignore_errors=True)  # what an earlier attempt left
    repository = Repo.init_bare(str(place), mkdir=True)
    wanted: list[ObjectID] = []

    def want(refs: Mapping[Ref, ObjectID], depth: int | None = None) -> list[ObjectID]:  # noqa: ARG001  as it is called
        wanted[:] = [_commit(source, refs)]
        return wanted

    _asked(source, lambda: client.fetch(path, repository, determine_wants=want, depth=1))
    return repository, wanted[0].decode()


def _asked(source: SourceSettings, do: Callable[[], Result]) -> Result:
    try:
        return do()
    except NotGitRepository as error:
        raise SourceError(f"source {source.label!r}: no repository there: {error}; {MEND} git") from None
    except (SourceError, MemoryError):
        raise
    except Exception as error:
        raise SourceUnavailable(f"{source.git}: {_innermost(error)}") from error


def _innermost(error: Exception) -> str:
    """What an error says, without the frames that urllib3 and dulwich put around it."""
    inner = error.__cause__ or error
    while isinstance(reason := getattr(inner, "reason", None), Exception):
        inner = reason
    return f"{type(inner).__name__}: {inner}"


def _config() -> ConfigDict:
    """Nobody's own settings, and a limit in seconds for each read."""
    config = ConfigDict()
    config.set((b"http",), b"timeout", READ_SECONDS)
    return config


def _commit(source: SourceSettings, refs: Mapping[Ref, ObjectID | None] | Mapping[Ref, ObjectID]) -> ObjectID:
    """What `ref` means among the names that a repository has."""
    ref = source.ref.encode()
    for name in (ref, b"refs/heads/" + ref, b"refs/tags/" + ref):
        commit = refs.get(Ref(name))
        if commit:
            return commit
    if re.fullmatch(r"[0-9a-f]{40}", source.ref):
        return ObjectID(ref)
    raise _no_commit(source, refs)


def _no_commit(source: SourceSettings, refs: Mapping[Ref, ObjectID | None] | Mapping[Ref, ObjectID]) -> SourceError:
    names = sorted(name.decode("utf-8", "replace").split("/", 2)[2] for name in refs if name.count(b"/") > 1)
    has = ", ".join(names[:SHOWN_NAMES]) or "no branch at all"
    return SourceError(f"source {source.label!r}: no {source.ref!r} in {source.git}; it has {has}; {MEND} ref")
