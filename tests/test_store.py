"""Stores of objects through fsspec: a real S3 server on loopback, memory, and zip files."""

import logging
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest
from moto.server import ThreadedMotoServer

from nightloom.corpus import SourceSettings
from nightloom.documents import Listing
from nightloom.errors import SourceError, SourceUnavailable
from nightloom.sources import take
from nightloom.sources.http import DownloadLimits
from nightloom.sources.store import Store, count_objects, take_store

QUICK = DownloadLimits(attempts=2, pause_seconds=0.01)
FILES = {"a.md": b"# A", "guide/b.txt": b"B", "guide/old/c.txt": b"C"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server that knows no bucket yet."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket of the test's own with some objects; the store's secrets are in the environment."""
    monkeypatch.setenv("STORE_KEY", "access-key")
    monkeypatch.setenv("STORE_SECRET", "correct-horse")
    files = fsspec.filesystem("s3", endpoint_url=s3, key="access-key", secret="correct-horse")
    name = f"bucket-{abs(hash(request.node.name))}"
    files.mkdir(name)
    write(files, f"{name}/docs", FILES)
    return files, name, s3


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    write(files, "/docs", FILES)
    yield files
    files.rm("/docs", recursive=True)


def write(files: Any, root: str, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        files.pipe(f"{root}/{name}", content)


def s3_source(name: str, address: str, **keys: Any) -> SourceSettings:
    keys = {
        "store": f"s3://{name}/docs",
        "options": {"endpoint_url": address},
        "options_env": {"key": "STORE_KEY", "secret": "STORE_SECRET"},
        **keys,
    }
    return SourceSettings.model_validate(keys)


async def taken(source: SourceSettings, folder: Path, validators: dict[str, str] | None = None) -> Listing:
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240  of the test
    return await take_store(source, folder, validators or {}, QUICK)


def contents(listing: Listing) -> dict[str, bytes | None]:
    return {ref.item: ref.path.read_bytes() if ref.path else None for ref in listing.documents}


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


async def test_a_bucket_is_taken_and_only_what_changed_is_taken_again(bucket: Any, tmp_path: Path) -> None:
    files, name, address = bucket
    source = s3_source(name, address, tags=["s3"])
    first = await taken(source, tmp_path / "one")
    assert contents(first) == FILES
    assert [ref.uri for ref in first.documents] == [f"s3://{name}/docs/{item}" for item in FILES]
    assert all(ref.path and len(ref.path.name) == 32 for ref in first.documents), "names from hashes"
    assert dict(first.documents[0].metadata).keys() == {"modified", "tags"}

    validators = {ref.id: ref.validator for ref in first.documents}
    files.pipe(f"{name}/docs/guide/b.txt", b"another B")
    files.rm(f"{name}/docs/guide/old/c.txt")
    second = await taken(source, tmp_path / "two", validators)
    assert contents(second) == {"a.md": None, "guide/b.txt": b"another B"}
    assert [ref.content is None for ref in second.documents] == [True, False]
    assert len(list((tmp_path / "two").iterdir())) == 1, "nothing of the unchanged one was fetched"


async def test_a_large_object_of_a_bucket_comes_in_several_pieces(bucket: Any, tmp_path: Path) -> None:
    files, name, address = bucket
    files.pipe(f"{name}/docs/large.txt", b"0123456789" * 600_000)
    found = await taken(s3_source(name, address, include=["large.txt"]), tmp_path / "one")
    assert contents(found) == {"large.txt": b"0123456789" * 600_000}


async def test_include_exclude_and_name(memory: Any, tmp_path: Path) -> None:
    source = SourceSettings(store="memory://docs", name="kb", include=("**/*.txt",), exclude=("old/",))
    found = await taken(source, tmp_path)
    assert [(ref.uri, ref.item) for ref in found.documents] == [("kb/guide/b.txt", "guide/b.txt")]
    count, left_out = count_objects(source)
    assert (count, left_out) == (1, found.left_out)
    assert {left.rule for left in left_out} == {"include", "exclude"}


async def test_every_kind_of_source_is_taken_by_one_entry(memory: Any, tmp_path: Path) -> None:
    found = await take(SourceSettings(store="memory://docs"), tmp_path, {})
    assert contents(found) == FILES


async def test_a_zip_file_is_a_store(tmp_path: Path) -> None:
    file = tmp_path / "docs.zip"
    source = SourceSettings(store=f"zip://::{file}", name="archive")

    def pack(members: dict[str, bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
            link = zipfile.ZipInfo("link.txt")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "/etc/hostname")

    pack(FILES | {"../out.txt": b"out"})
    first = await taken(source, tmp_path / "one")
    assert contents(first) == FILES
    assert [(entry.item, "leads out" in entry.reason) for entry in first.quarantined] == [("../out.txt", True)]
    pack(FILES | {"a.md": b"# Another"})
    second = await taken(source, tmp_path / "two", {ref.id: ref.validator for ref in first.documents})
    assert contents(second) == {"a.md": b"# Another", "guide/b.txt": None, "guide/old/c.txt": None}
    assert names(tmp_path) == ["docs.zip", "one", "two"]


def test_a_bucket_is_listed_anew_every_night(bucket: Any) -> None:
    _, name, address = bucket
    environ = {"STORE_KEY": "access-key", "STORE_SECRET": "correct-horse"}
    source = s3_source(name, address)
    before = Store(source, environ, QUICK)
    assert len(before.objects()) == 3
    other = fsspec.filesystem("s3", endpoint_url=address, key="other", secret="other", skip_instance_cache=True)
    other.pipe(f"{name}/docs/new.txt", b"new")
    tonight = Store(source, environ, QUICK)
    assert len(tonight.objects()) == 4
    assert tonight._files is not before._files, "fsspec hands out the same instance again unless it is told not to"


async def test_an_object_that_is_too_large_is_quarantined_whatever_its_listing_says(tmp_path: Path) -> None:
    file = tmp_path / "bomb.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.txt", bytes(3_000_000))
    (tmp_path / "tonight").mkdir()
    source = SourceSettings(store=f"zip://::{file}", name="archive")
    found = await take_store(source, tmp_path / "tonight", {}, DownloadLimits(size_bytes=1_000_000))
    assert [entry.reason for entry in found.quarantined] == ["larger than 1000000 bytes"]
    assert list((tmp_path / "tonight").iterdir()) == []


def test_an_object_that_is_replaced_under_the_nights_hands_is_refused(memory: Any, tmp_path: Path) -> None:
    store = Store(SourceSettings(store="memory://docs"), {}, QUICK)
    (found,) = [entry for entry in store.objects() if entry.name == "a.md"]
    memory.pipe("/docs/a.md", b"# Another, longer")
    with pytest.raises(Exception, match="changed while the night ran"):
        store.fetch(found, tmp_path / "file")
    memory.rm("/docs/a.md")
    with pytest.raises(Exception, match="gone since it was listed"):
        store.fetch(found, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_large_object_is_read_in_pieces_and_checked_against_the_listing(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/docs/large.txt", b"x" * 9_000_000)
    store = Store(SourceSettings(store="memory://docs"), {}, QUICK)
    (found,) = [entry for entry in store.objects() if entry.name == "large.txt"]
    assert store.fetch(found, tmp_path / "file")[1] == 9_000_000
    time.sleep(0.001)
    memory.pipe("/docs/large.txt", b"y" * 9_000_000)
    with pytest.raises(Exception, match="changed while the night ran"):
        store.fetch(found, tmp_path / "file")


# --- what cannot be listed


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"store": "s4://bucket"}, "Protocol not known: s4"),
        ({"store": "memory://nowhere"}, "there is nothing"),
        ({"store": "zip://::/nowhere/docs.zip"}, "No such file"),
        ({"store": "s3://bucket", "options_env": {"secret": "NOT_SET_ANYWHERE"}}, "NOT_SET_ANYWHERE is not set"),
    ],
)
async def test_a_store_that_is_described_wrongly_is_refused(tmp_path: Path, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        await taken(SourceSettings.model_validate(keys), tmp_path)


@pytest.mark.parametrize(
    ("protocol", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gs"), ("az", "adlfs", "az")]
)
async def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    with pytest.raises(SourceError, match=rf"pip install 'nightloom\[{extra}\]'"):
        await taken(SourceSettings(store=f"{protocol}://bucket/docs"), tmp_path)


async def test_a_missing_bucket_is_an_error_and_a_server_that_is_down_may_come_back(
    bucket: Any, tmp_path: Path
) -> None:
    _, _, address = bucket
    with pytest.raises(SourceError, match="FileNotFoundError"):
        await taken(s3_source("no-such-bucket", address), tmp_path)
    quick = {"config_kwargs": {"connect_timeout": 1, "retries": {"max_attempts": 0}}}
    down = s3_source("bucket", "", options={"endpoint_url": "http://127.0.0.1:9", **quick})
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:9") as refused:
        await taken(down, tmp_path)
    assert "correct-horse" not in str(refused.value)


def test_secrets_are_in_no_error(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SourceSettings(store="memory://docs", options_env={"secret": "STORE_SECRET"})
    store = Store(source, {"STORE_SECRET": "correct-horse"}, QUICK)
    with pytest.raises(SourceUnavailable) as refused:
        store._asked(lambda: (_ for _ in ()).throw(RuntimeError("signed with correct-horse")))
    assert str(refused.value) == "cannot be read: RuntimeError: signed with ***"
