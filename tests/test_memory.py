"""What a night holds of its documents, packed: it says what a dict, a tuple or a list of the same would say."""

import ctypes
import errno
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightloom import document_table, spool, versions
from nightloom.allocator import bound_arenas, give_memory_back
from nightloom.document_table import DocumentTable
from nightloom.documents import DocumentRef, Scalar, Span, version_of
from nightloom.errors import NightFailed
from nightloom.heads import ChosenHeads, Head, HeadTable, Validators, rows_of, versions_of
from nightloom.night import ShardNodes
from nightloom.planning import Planned, Shard, Work
from nightloom.spool import Spool
from nightloom.versions import READ_AT_ONCE, Chosen, Versions, absent, among, differing

DIGESTS = st.sampled_from(["00" * 16, "00" * 15 + "01", "01" + "00" * 15, "ff" * 16, "ab" * 16]) | st.binary(
    min_size=16, max_size=16
).map(bytes.hex)
ODD = st.sampled_from(["", "none", "AB" * 16, "ab" * 15, "ab" * 17, "é" * 32, "\udc80", " " + "ab" * 15 + " "])
IDS = DIGESTS | ODD
DICTS = st.dictionaries(IDS, IDS, max_size=12)
NAMES = st.text(max_size=6) | st.sampled_from(["Grüße 夜空", "\udcff", "a\x00b"])


@pytest.fixture(autouse=True, scope="module")
def small_steps() -> Iterator[None]:
    """What goes by thousands goes by threes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "RECENT", 3)
        patch.setattr(versions, "READ_AT_ONCE", 3)
        patch.setattr("nightloom.planning.READ_AT_ONCE", 3)
        patch.setattr(document_table, "SORTED_AT_ONCE", 4)
        patch.setattr(spool, "BLOCK_RECORDS", 2)
        yield


# --- versions


@given(parts=st.lists(DICTS, max_size=4), unknown=st.lists(IDS, max_size=4))
def test_versions_are_as_in_a_dict(parts: list[dict[str, str]], unknown: list[str]) -> None:
    expected: dict[str, str] = {}
    found, joined = Versions(), Versions()
    for part in parts:
        expected |= part
        found.update(part)
        joined.update(Versions(part))
    keys = [*expected, *unknown]
    for one in (found, joined, Versions(found)):
        assert one == expected
        assert len(one) == len(expected)
        assert dict(one.pairs()) == expected
        assert sorted(one) == sorted(expected), "each once"
        assert one.among(keys) == among(expected, keys) == [expected.get(key) for key in keys]
        assert [key in one for key in unknown] == [key in expected for key in unknown]
        assert one.distinct == len(set(expected.values()))
        assert one.without(unknown) == {key: expected[key] for key in expected if key not in unknown}
        turned = one.inverted()
        assert turned.keys() == set(expected.values())
        assert all(expected[key] == version for version, key in turned.items())


def test_what_is_copied_from_versions_is_its_own() -> None:
    first = Versions({"ab" * 16: "01" * 16})
    second = Versions(first)
    second.update({"ab" * 16: "02" * 16})
    assert first == {"ab" * 16: "01" * 16}


@given(before=DICTS, after=DICTS)
def test_two_sets_of_versions_differ_where_dicts_do(before: dict[str, str], after: dict[str, str]) -> None:
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert sorted(differing(Versions(before), Versions(after))) == sorted(changed)
    assert set(absent(Versions(before), Versions(after))) == before.keys() - after.keys()


@given(known=DICTS, keys=st.lists(IDS, max_size=6), every=st.booleans())
def test_chosen_documents_and_those_that_are_left(known: dict[str, str], keys: list[str], every: bool) -> None:
    table = Versions(known)
    table.update(dict.fromkeys(list(known)[::3], "12" * 16))
    chosen = Chosen(table)
    chosen.add([])
    chosen.add(keys)
    wanted = {*keys, *known} if every else {*keys, *list(known)[::2]}
    chosen.add(sorted(wanted))
    assert chosen.versions == {key: version for key, version in table.pairs() if key in wanted}
    assert sorted(chosen.left) == sorted(known.keys() - wanted)


def test_all_of_them_chosen_take_no_memory_of_their_own() -> None:
    table = Versions({f"{at:032x}": f"{at:032x}" for at in range(READ_AT_ONCE * 8)})
    chosen = Chosen(table)
    chosen.add(list(table))
    assert np.shares_memory(chosen.versions._ids, table._ids)
    chosen.versions.update(dict.fromkeys(table, "12" * 16))
    assert all(key == version for key, version in table.pairs()), "what shares its memory leaves it as it is"


# --- heads

HEADS = st.builds(Head, IDS, IDS, st.sampled_from([0, 1, 7, -1, 1 << 32]), NAMES, NAMES, NAMES)
IN_ORDER = st.lists(st.builds(Head, DIGESTS, DIGESTS, st.integers(1, 9), NAMES, NAMES, NAMES), max_size=12).map(
    lambda heads: sorted(heads, key=lambda head: head.document)
)


def table_of(heads: Sequence[Head]) -> HeadTable:
    table = HeadTable()
    for head in heads:
        table.add(head)
    return table


@given(heads=st.lists(HEADS, max_size=12) | IN_ORDER, unknown=st.lists(IDS, max_size=4))
def test_heads_are_as_in_a_dict(heads: list[Head], unknown: list[str]) -> None:
    expected = {head.document: head for head in heads}
    table = table_of(heads)
    assert table == expected
    assert len(table) == len(expected)
    assert sorted(table) == sorted(expected), "each once"
    assert [table.get(key) for key in unknown] == [expected.get(key) for key in unknown]
    assert rows_of(table) == rows_of(expected) == sum(head.total for head in expected.values())
    assert versions_of(table) == versions_of(expected) == {key: head.version for key, head in expected.items()}

    validators = Validators(table, set(unknown))
    assert dict(validators) == {
        key: head.validator for key, head in expected.items() if head.validator and key not in unknown
    }
    assert len(validators) == len(dict(validators))
    assert [validators.get(key) for key in unknown] == [None] * len(unknown)

    some = {key: head for at, (key, head) in enumerate(expected.items()) if at % 2}
    chosen = ChosenHeads(table, versions_of(some))
    assert chosen == some
    assert rows_of(chosen) == rows_of(some)
    assert versions_of(chosen) == versions_of(some)
    assert [chosen.get(key) for key in expected] == [some.get(key) for key in expected]
    assert rows_of(ChosenHeads(expected, versions_of(some))) == rows_of(some)
    assert [key in table for key in unknown] == [key in expected for key in unknown]


def test_heads_that_come_in_order_are_packed() -> None:
    heads = [Head(f"{at:032x}", f"{at:032x}", 1, f"docs/{at}", str(at)) for at in range(0, 1000, 7)]
    assert not table_of(heads)._others


# --- documents

SCALARS: st.SearchStrategy[Scalar] = (
    NAMES | st.integers() | st.booleans() | st.floats(allow_nan=False) | st.sampled_from([1, 1.0, True, 0, -0.0])
)
SPANS = st.builds(Span, st.integers(0, 1 << 50), st.integers(0, 1 << 40), st.integers(1, 1 << 40), NAMES, NAMES)


@st.composite
def refs(draw: st.DrawFn) -> DocumentRef:
    item = draw(NAMES)
    return DocumentRef(
        draw(st.sampled_from([item, f"docs/{item}", "docs/other"])),
        item,
        draw(NAMES),
        draw(st.none() | DIGESTS | st.sampled_from(["ab" * 32, "no hash", "AB" * 16, ""])),
        draw(st.none() | st.sampled_from([Path("docs/a.txt"), Path("/tmp/Grüße\udcff")])),
        draw(st.integers(0, 1 << 50)),
        draw(st.sampled_from(["", "text/html"])),
        draw(NAMES),
        draw(st.none() | SPANS),
        draw(st.lists(st.tuples(NAMES, SCALARS), max_size=3).map(tuple)),
    )


def said(ref: DocumentRef) -> list[object]:
    """Everything that a document says; 1, 1.0 and True are equal, and not the same."""
    names = ("id", "uri", "item", "source", "content", "path", "size_bytes", "media_type", "validator", "span")
    return [*(getattr(ref, name) for name in names), [(name, type(value), value) for name, value in ref.metadata]]


@given(st.lists(refs(), max_size=12))
def test_documents_are_as_in_a_tuple(listed: list[DocumentRef]) -> None:
    table = DocumentTable(listed)
    assert list(map(said, table)) == list(map(said, listed))
    assert table == tuple(listed)
    assert table[1:-1] == listed[1:-1]
    assert [said(table[at]) for at in range(-len(listed), len(listed))] == [
        said(listed[at]) for at in range(-len(listed), len(listed))
    ]
    with pytest.raises(IndexError):
        table[len(listed)]
    assert table != [*listed, DocumentRef("more", "more", "", None, None, 0)]
    assert table.without({0, 2}) == [ref for at, ref in enumerate(listed) if at not in {0, 2}]


@given(st.lists(refs(), max_size=12))
def test_documents_go_in_order_of_their_names(listed: list[DocumentRef]) -> None:
    found, expected = DocumentTable(listed).by_uri(), sorted(listed, key=lambda ref: ref.uri)
    assert list(map(said, found)) == list(map(said, expected))
    assert found.by_uri() is found, "nothing is sorted twice"
    names = [ref.uri for ref in expected]
    assert list(found.twins()) == [(names.index(uri), at) for at, uri in enumerate(names) if names.index(uri) < at]


def test_records_come_back_from_memory_and_from_the_disk() -> None:
    records = [(at, f"{at}" * 40, None, b"\x00", (1.5, True)) for at in range(11)]
    kept = Spool()
    for at, record in enumerate(records):
        kept.add(record)
        assert len(kept) == at + 1
        assert [kept[number] for number in range(at + 1)] == records[: at + 1]
    assert kept._file is not None
    assert kept._waiting
    with pytest.raises(IndexError):
        kept[11]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(NightFailed, match=r"gone: No such file or directory; .* TMPDIR"):
        Spool().extend((at,) for at in range(2))


def test_what_cannot_be_written_any_more_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Spool()
    kept.extend((at,) for at in range(2))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept, "_file", SimpleNamespace(write=full, flush=full))
    with pytest.raises(NightFailed, match="No space left on device"):
        kept[0]
    with pytest.raises(NightFailed, match="No space left on device"):
        kept.extend((at,) for at in range(2))


# --- work


@given(listed=st.lists(refs(), max_size=12), data=st.data())
def test_work_is_as_in_a_tuple(listed: list[DocumentRef], data: st.DataObject) -> None:
    places = [at for at in range(len(listed)) if data.draw(st.booleans())]
    given_versions = {at: "given" for at in places if data.draw(st.booleans())}
    right = {at: given_versions.get(at) or version_of(listed[at].content or "", "print") for at in places}
    twins = {right[at]: "ab" * 16 for at in places if data.draw(st.booleans())}
    expected = tuple(Planned(listed[at], right[at], twins.get(right[at], "")) for at in places)
    work = Work(DocumentTable(listed), array("I", places), "print", given_versions, Versions(twins))
    assert work == expected
    assert work != (*expected, None)
    assert len(work) == len(expected)
    assert [work[at] for at in range(-len(places), len(places))] == [*expected, *expected]
    assert work[1:-1] == expected[1:-1]


def test_a_shard_lets_go_of_its_nodes_and_vectors() -> None:
    shard = ShardNodes(Shard(1, 1, ()), [], [])
    shard.nodes, shard.vectors = [object()], np.ones((1, 3), dtype=np.float32)  # type: ignore[list-item]
    vectors = weakref.ref(shard.vectors)
    shard.let_go()
    assert not shard.nodes
    assert vectors() is None


# --- the allocator


def test_the_allocator_is_told_only_where_nobody_has_told_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, ...]] = []
    library = SimpleNamespace(mallopt=lambda *given: told.append(given), malloc_trim=lambda *given: told.append(given))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    bound_arenas()
    assert told == []
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    bound_arenas()
    give_memory_back()
    assert told == [(-8, 3), (0,)]


def test_another_library_of_c_has_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    bound_arenas()
    give_memory_back()
