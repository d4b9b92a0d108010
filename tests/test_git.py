"""Git repositories, on this disk and over HTTP: the files of a commit, and only those that changed."""

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from wsgiref.simple_server import make_server

import pytest
from dulwich import porcelain
from dulwich.objects import ObjectID
from dulwich.refs import HEADREF, Ref
from dulwich.repo import Repo
from dulwich.server import BackendRepo, DictBackend
from dulwich.web import WSGIRequestHandlerLogger, WSGIServerLogger, make_wsgi_chain

from nightloom.corpus import SourceSettings
from nightloom.corpus_file import load_corpus
from nightloom.documents import Listing
from nightloom.errors import SourceError, SourceUnavailable
from nightloom.sources import document_names, reach, take, unknown_before_a_night
from nightloom.sources.git import check_git, take_git
from nightloom.sources.http import DownloadLimits
from tests.builders import write_tree

MAIN = Ref(b"refs/heads/main")
FILES: dict[str, bytes | str] = {"a.md": b"# A", "guide/b.txt": b"B", "guide/é \n'\".txt": b"odd", "drafts/c.md": b"C"}


class Repository:
    """A repository with a work tree, and a bare one beside it that sources read."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.tree.mkdir()
        self.work = porcelain.init(str(self.tree))
        self.bare = folder / "docs.git"
        porcelain.init(str(self.bare), bare=True)

    def commit(self, files: Mapping[str, bytes | str], *, gone: tuple[str, ...] = ()) -> str:
        """Commit files to the branch main, and push them."""
        write_tree(self.tree, files)
        for name in gone:
            (self.tree / name).unlink()
        self.work.get_worktree().stage([*files, *gone])
        self.work.refs.set_symbolic_ref(HEADREF, MAIN)
        return self.push()

    def push(self) -> str:
        sha = self.work.get_worktree().commit(
            message=b"a change", author=b"A <a@example.com>", committer=b"A <a@example.com>"
        )
        with Repo(str(self.bare)) as bare:
            self.work.fetch(bare)
            bare.refs[MAIN] = sha
            bare.refs.set_symbolic_ref(HEADREF, MAIN)
        return sha.decode()

    def name(self, ref: bytes, sha: str) -> None:
        with Repo(str(self.bare)) as bare:
            bare.refs[Ref(ref)] = ObjectID(sha.encode())


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path)
    made.commit(FILES)
    return made


@pytest.fixture
def over_http(repository: Repository) -> Iterator[str]:
    """The address of the bare repository behind a real server."""
    opened = Repo(str(repository.bare))
    repositories: dict[str, BackendRepo] = {"/docs.git": opened}
    server = make_server(
        "127.0.0.1",
        0,
        make_wsgi_chain(DictBackend(repositories)),
        handler_class=WSGIRequestHandlerLogger,
        server_class=WSGIServerLogger,
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/docs.git"
    server.shutdown()
    server.server_close()
    thread.join()
    opened.close()


def git_source(git: Path | str, **keys: Any) -> SourceSettings:
    return SourceSettings.model_validate({"git": str(git), "name": "docs", **keys})


async def taken(source: SourceSettings, folder: Path, validators: dict[str, str] | None = None) -> Listing:
    folder.mkdir()  # noqa: ASYNC240  of the test
    return await take_git(source, folder, validators or {})


def contents(listing: Listing) -> dict[str, bytes | None]:
    return {ref.item: ref.path.read_bytes() if ref.path else None for ref in listing.documents}


async def test_a_repository_is_taken_and_only_what_changed_is_taken_again(
    repository: Repository, tmp_path: Path
) -> None:
    source = git_source(repository.bare, tags=["git"])
    first = await taken(source, tmp_path / "one")
    assert contents(first) == FILES
    assert {ref.uri for ref in first.documents} == {f"docs/{name}" for name in FILES}
    assert first.documents[0].metadata == (("tags", "git"),)
    assert {len(ref.validator) for ref in first.documents} == {40}

    repository.commit({"a.md": b"# Another", "copy.txt": b"B"}, gone=("drafts/c.md",))
    second = await taken(source, tmp_path / "two", {ref.id: ref.validator for ref in first.documents})
    assert contents(second) == {
        "a.md": b"# Another",
        "copy.txt": b"B",
        "guide/b.txt": None,
        "guide/é \n'\".txt": None,
    }
    assert [ref.content is None for ref in second.documents] == [False, False, True, True]
    assert len(list((tmp_path / "two").iterdir())) == 2


async def test_a_work_tree_gives_what_is_committed_and_not_what_lies_there(
    repository: Repository, tmp_path: Path
) -> None:
    (repository.tree / "a.md").write_bytes(b"not committed")
    assert contents(await taken(git_source(repository.tree), tmp_path / "one")) == FILES


async def test_include_exclude_and_ref(repository: Repository, tmp_path: Path) -> None:
    before = repository.commit({})
    repository.name(b"refs/tags/v1", before)
    repository.commit({"a.md": b"# Another"})
    chosen = {"include": ["**/*.md"], "exclude": ["drafts/"]}
    for ref, text in (("HEAD", b"# Another"), ("main", b"# Another"), ("v1", b"# A"), (before, b"# A")):
        found = await taken(git_source(repository.bare, ref=ref, **chosen), tmp_path / ref)
        assert contents(found) == {"a.md": text}


async def test_links_and_submodules_are_no_documents(repository: Repository, tmp_path: Path) -> None:
    (repository.tree / "link.txt").symlink_to("/etc/hostname")
    worktree = repository.work.get_worktree()
    worktree.stage(["link.txt"])
    index = repository.work.open_index()
    index[b"module"] = dataclasses.replace(index[b"a.md"], mode=0o160000)  # type: ignore[type-var]
    index.write()
    repository.push()
    assert contents(await taken(git_source(repository.bare), tmp_path / "one")) == FILES


async def test_a_file_that_cannot_be_taken_is_quarantined_with_the_reason(
    repository: Repository, tmp_path: Path
) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    repository.commit({"large.md": b"x" * 1_001, "pointer.bin": pointer})
    (tmp_path / "one").mkdir()
    found = await take_git(git_source(repository.bare), tmp_path / "one", {}, DownloadLimits(size_bytes=1_000))
    assert contents(found) == FILES
    reasons = {entry.item: entry.reason for entry in found.quarantined}
    assert reasons["large.md"] == "larger than 1000 bytes"
    assert "Git LFS" in reasons["pointer.bin"]


# --- over HTTP


async def test_a_repository_over_http_is_taken_like_one_on_disk(
    repository: Repository, over_http: str, tmp_path: Path
) -> None:
    repository.commit({"a.md": b"# Another"})
    for ref in ("HEAD", "main"):
        found = await taken(git_source(over_http, ref=ref), tmp_path / ref)
        assert contents(found) == FILES | {"a.md": b"# Another"}
    again = tmp_path / "again"
    again.mkdir()
    second = await take(git_source(over_http), again, {ref.id: ref.validator for ref in found.documents})
    assert {ref.content for ref in second.documents} == {None}
    third = await take(git_source(over_http), again, {})
    assert len(third.documents) == len(FILES), "a second attempt in the same folder goes as well"


async def test_a_branch_that_is_not_there_is_refused_with_those_that_are(
    repository: Repository, over_http: str, tmp_path: Path
) -> None:
    for number, git in enumerate((str(repository.bare), over_http)):
        with pytest.raises(SourceError, match=r"no 'nowhere' in .*; it has main; .*mend its ref"):
            await taken(git_source(git, ref="nowhere"), tmp_path / str(number))
    with pytest.raises(SourceError, match="no 'nowhere'"):
        check_git(git_source(over_http, ref="nowhere"))


async def test_a_repository_that_is_not_there_is_refused_and_one_that_is_down_may_come_back(
    over_http: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for number, git in enumerate((f"{tmp_path}/nowhere", f"{tmp_path}/empty", over_http.replace("docs", "none"))):
        with pytest.raises(SourceError, match="mend its git"):
            await taken(git_source(git), tmp_path / str(number))
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1") as down:
        await taken(git_source("http://127.0.0.1:9/docs.git"), tmp_path / "down")
    assert "Connection refused" in str(down.value)
    assert "Max retries" not in str(down.value), "it is not tried again by the library"


async def test_what_is_known_of_a_repository_before_a_night(
    repository: Repository, over_http: str, tmp_path: Path
) -> None:
    sources = [{"git": str(repository.bare), "exclude": ["drafts/"]}, {"git": over_http, "name": "elsewhere"}]
    corpus = load_corpus(None, {"name": "docs", "sources": sources}, {})
    local, remote = corpus.sources
    commit = repository.commit({"new.md": "new"})
    assert await reach(local) == "4 files in docs; 1 file left out by exclude: 1 .md"
    assert await reach(remote) == f"commit {commit[:12]} of elsewhere"
    assert sorted(document_names(corpus))[:2] == [("docs/a.md", "a.md"), ("docs/guide/b.txt", "guide/b.txt")]
    assert len(document_names(corpus)) == 4
    assert unknown_before_a_night(corpus) == ["elsewhere"]
