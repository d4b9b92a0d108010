"""Listing sources: the same documents for the same bytes, on every machine."""

import csv
import gzip
import hashlib
import io
import json
import os
import re
import socket
import tempfile
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from nightloom.corpus import SourceSettings
from nightloom.documents import DocumentRef, Listing, Quarantined, document_id
from nightloom.errors import DocumentError, SourceError
from nightloom.left_out import KINDS, LeftOutCounter
from nightloom.reading import read_document
from nightloom.sources import list_source, one_listing, tables
from nightloom.sources.listing import LINKS
from tests.builders import write_jsonl, write_tree

TREE: dict[str, bytes | str] = {
    "start.md": "# Start",
    "guide/first.md": "first",
    "guide/second.txt": "second",
    "guide/drafts/third.md": "third",
    "drafts/fourth.txt": "fourth",
    "picture.png": b"\x89PNG",
}
NAMES = st.text(st.characters(exclude_characters="/\x00\n", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in {".", ".."}
)

FILES: st.SearchStrategy[dict[str, bytes]] = st.dictionaries(NAMES, st.binary(max_size=40), min_size=1, max_size=6)


def folder_source(folder: Path, **keys: Any) -> Listing:
    return list_source(SourceSettings.model_validate({"name": "docs", "path": folder, **keys}))


def rows_source(file: Path, **keys: Any) -> Listing:
    return list_source(SourceSettings.model_validate({"name": "rows.jsonl", "jsonl": file, **keys}))


def uris(listing: Listing) -> list[str]:
    return [ref.uri for ref in listing.documents]


def identity(listing: Listing) -> list[tuple[str, str, str, str | None, int]]:
    return [(ref.uri, ref.item, ref.id, ref.content, ref.size_bytes) for ref in listing.documents]


# --- folders and files


@settings(max_examples=25)
@given(FILES)
def test_the_same_tree_elsewhere_and_later_is_the_same_corpus(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as there:
        first = write_tree(Path(here), files)
        second = write_tree(Path(there, "deeper", "down"), dict(reversed(files.items())))
        for age, file in enumerate(second.iterdir()):
            os.utime(file, (1_000_000 + age, 2_000_000 + age))
        found = folder_source(first)
        assert identity(found) == identity(folder_source(second))
        assert {ref.item: ref.content for ref in found.documents} == {
            name: hashlib.sha256(content).hexdigest() for name, content in files.items()
        }


def test_a_document_is_known_by_source_and_path(tmp_path: Path) -> None:
    found = folder_source(write_tree(tmp_path, TREE))
    assert set(uris(found)) == {f"docs/{name}" for name in TREE}
    (first,) = [ref for ref in found.documents if ref.item == "guide/first.md"]
    assert first.uri == "docs/guide/first.md"
    assert first.id == hashlib.sha256(b"docs/guide/first.md").hexdigest()[:32]
    assert first.path == tmp_path / "guide" / "first.md"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_ids_are_hex_of_one_length_and_differ_where_uris_do(one: str, other: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", document_id(one))
    assert (document_id(one) == document_id(other)) == (one == other)


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        (["**/*"], [], set(TREE)),
        (["*.md"], [], {"start.md", "guide/first.md", "guide/drafts/third.md"}),
        (["**/*.md", "**/*.txt"], ["**/drafts/**"], {"start.md", "guide/first.md", "guide/second.txt"}),
        (["**/*.md", "**/*.txt"], ["/drafts/"], {*TREE} - {"picture.png", "drafts/fourth.txt"}),
        (["guide/*.md"], [], {"guide/first.md"}),
        (["**/*"], ["*.md", "!start.md"], {"start.md", "guide/second.txt", "drafts/fourth.txt", "picture.png"}),
    ],
)
def test_include_takes_and_exclude_leaves(
    tmp_path: Path, include: list[str], exclude: list[str], taken: set[str]
) -> None:
    found = folder_source(write_tree(tmp_path, TREE), include=include, exclude=exclude)
    assert {ref.item for ref in found.documents} == taken
    assert sum(left.kinds.total() for left in found.left_out) == len(TREE) - len(taken)
    assert {left.rule for left in found.left_out} <= {"include", "exclude"}


def test_what_rules_leave_out_is_counted_by_rule_and_kind(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = dict.fromkeys((f"{n}.DOCX" for n in range(6)), "")
    files |= {f"{n}.xlsx": "" for n in range(3)}
    files |= {f"n/{n}{end}": "" for n, end in enumerate((".a", ".b", ".c", ".d", "", ". odd", ".log"))}
    files |= {"page.md": "page", "draft.md": "draft", ".gitignore": "*.log\n/built/\n", "built/x": "", ".git/x": ""}
    one = folder_source(write_tree(tmp_path / "one", files), include=["*.md"], exclude=["draft*"], gitignore=True)
    assert uris(one) == ["docs/page.md"]
    assert [str(left) for left in one.left_out] == [
        "1 file left out by .gitignore: 1 .log",
        "1 folder left out by .gitignore",
        "1 file left out by exclude: 1 .md",
        "16 files left out by include: 6 .docx, 3 .xlsx, 3 without an ending, 1 .a, 1 .b, 2 others",
    ]
    two = list_source(SourceSettings(name="two", path=write_tree(tmp_path / "two", {"page.md": "", "x.docx": ""})))
    assert one_listing([one, two]).left_out == one.left_out
    none = folder_source(tmp_path / "one", include=["*.txt"])
    with pytest.raises(SourceError, match=r"no document found .* 21 files left out by include: 6 \.docx"):
        one_listing([none], [SourceSettings(path=tmp_path)])
    counter = LeftOutCounter()
    for number in range(KINDS + 50):
        counter.file("include", f"page.{number}")
    assert (len(counter.found[0].kinds), counter.found[0].kinds["others"]) == (KINDS + 1, 50)


@pytest.mark.parametrize(
    ("name", "include"),
    [
        ('it\'s "quoted" \\ here.txt', "**/*.txt"),
        ("two\nlines.txt", "**/*.txt"),
        ("two\nlines/page.txt", "**/*"),
        ("[a] {b} *?!.txt", "**/*.txt"),
        ("two\nlines/page.txt", "**/*.txt"),
        ("\n", "**/*"),
    ],
)
def test_a_name_of_any_characters_is_listed(tmp_path: Path, name: str, include: str) -> None:
    found = folder_source(write_tree(tmp_path, {name: "text"}), include=[include])
    assert uris(found) == [f"docs/{name}"]
    assert re.fullmatch("[0-9a-f]{32}", found.documents[0].id)


def test_a_file_is_a_source_of_one_document(tmp_path: Path) -> None:
    write_tree(tmp_path, TREE)
    found = list_source(SourceSettings(name="start.md", path=tmp_path / "start.md"))
    assert identity(found) == [
        ("start.md", "start.md", document_id("start.md"), hashlib.sha256(b"# Start").hexdigest(), 7)
    ]


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    outside = write_tree(tmp_path / "outside", {"secret.txt": "secret", "more/also.txt": "also"})
    inside = write_tree(tmp_path / "inside", {"page.txt": "page"})
    (inside / "file.txt").symlink_to(outside / "secret.txt")
    (inside / "folder").symlink_to(outside / "more", target_is_directory=True)
    (inside / "dangling.txt").symlink_to(tmp_path / "nowhere")
    (inside / "loop").symlink_to(inside, target_is_directory=True)
    found = folder_source(inside)
    assert uris(found) == ["docs/page.txt"]
    assert [str(left) for left in found.left_out] == [f"4 links left out by {LINKS}"]


def test_what_is_no_regular_file_is_not_listed(tmp_path: Path) -> None:
    write_tree(tmp_path, {"page.txt": "page"})
    os.mkfifo(tmp_path / "pipe.txt")
    assert uris(folder_source(tmp_path)) == ["docs/page.txt"]


def test_gitignore_files_on_the_way_are_heeded_where_that_is_asked_for(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        ".gitignore": "*.log\n/build/\n!important.log\n",
        ".git/config": "[core]",
        "page.md": "page",
        "debug.log": "log",
        "important.log": "log",
        "build/page.md": "built",
        "guide/build/page.md": "a guide",
        "guide/.gitignore": "*.md\n!keep.md\n!debug.log\n",
        "guide/drop.md": "drop",
        "guide/keep.md": "keep",
        "guide/debug.log": "kept here",
        "guide/deep/debug.log": "kept here as well",
    }
    folder = write_tree(tmp_path, files)
    kept = {"page.md", "important.log", "guide/keep.md", "guide/debug.log", "guide/deep/debug.log"}
    found = folder_source(folder, gitignore=True)
    assert {ref.item for ref in found.documents} == kept | {".gitignore", "guide/.gitignore"}
    chosen = folder_source(folder, gitignore=True, include=["*.md"])
    assert {ref.item for ref in chosen.documents} == {"page.md", "guide/keep.md"}
    assert {ref.item for ref in folder_source(folder).documents} == set(files)


def test_the_longest_name_and_one_of_emoji_are_listed_and_read(tmp_path: Path) -> None:
    names = {"a" * 251 + ".txt", "\U0001f319" * 60 + ".txt", "'\"\n.txt"}
    write_tree(tmp_path, dict.fromkeys(names, "text"))
    found = folder_source(tmp_path)
    assert {ref.item for ref in found.documents} == names
    assert {read_document(ref).text for ref in found.documents} == {"text"}


def test_a_socket_and_a_link_in_a_circle_are_not_listed(tmp_path: Path) -> None:
    write_tree(tmp_path, {"page.txt": "page"})
    (tmp_path / "one.txt").symlink_to(tmp_path / "two.txt")
    (tmp_path / "two.txt").symlink_to(tmp_path / "one.txt")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.txt"))
        assert uris(folder_source(tmp_path)) == ["docs/page.txt"]


def test_a_file_that_may_not_be_read_is_quarantined_with_the_reason(tmp_path: Path) -> None:
    write_tree(tmp_path, {"page.txt": "page", "secret.txt": "secret"})
    (tmp_path / "secret.txt").chmod(0)
    if os.access(tmp_path / "secret.txt", os.R_OK):
        pytest.skip("this user may read everything")
    (entry,) = folder_source(tmp_path).quarantined
    assert (entry.uri, entry.reason) == ("docs/secret.txt", "cannot be read: Permission denied")


def test_tags_are_metadata_and_the_time_of_a_file_is_not(tmp_path: Path) -> None:
    (ref,) = folder_source(write_tree(tmp_path, {"page.txt": "page"}), tags=["a", "b"]).documents
    assert ref.metadata == (("tags", "a b"),)


def test_a_name_that_is_no_utf8_is_quarantined_and_can_be_shown(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("x")
    write_tree(tmp_path, {"page.txt": "page"})
    found = folder_source(tmp_path)
    assert uris(found) == ["docs/page.txt"]
    (entry,) = found.quarantined
    assert entry.uri.encode().startswith(b"docs/caf")
    assert "not valid UTF-8" in entry.reason


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=re.escape(str(tmp_path / "nowhere"))):
        folder_source(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=re.escape(str(tmp_path / "nowhere.jsonl"))):
        rows_source(tmp_path / "nowhere.jsonl")


# --- all sources as one


def test_one_listing_is_in_the_order_of_uris_whatever_the_order_of_sources(tmp_path: Path) -> None:
    one = folder_source(write_tree(tmp_path / "one", TREE), name="b")
    other = folder_source(write_tree(tmp_path / "other", TREE), name="a")
    assert uris(one_listing([one, other])) == uris(one_listing([other, one])) == sorted(uris(one) + uris(other))


def test_a_document_of_two_sources_is_refused_and_both_files_are_named(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        write_tree(tmp_path / folder, {"page.txt": folder})
    with pytest.raises(SourceError, match=r"docs/page\.txt") as refused:
        one_listing([folder_source(tmp_path / "one"), folder_source(tmp_path / "other")])
    assert str(tmp_path / "one" / "page.txt") in str(refused.value)
    assert str(tmp_path / "other" / "page.txt") in str(refused.value)


def test_the_same_bytes_under_two_names_are_two_documents(tmp_path: Path) -> None:
    found = one_listing([folder_source(write_tree(tmp_path, {"one.txt": "same", "two.txt": "same"}))])
    assert len({ref.id for ref in found.documents}) == 2
    assert len({ref.content for ref in found.documents}) == 1


def test_no_document_at_all_is_refused_but_one_in_quarantine_is_a_document(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no document found"):
        one_listing([folder_source(tmp_path)])
    entry = Quarantined("docs/a.txt", "a.txt", "cannot be read")
    assert one_listing([Listing((), (entry,))]).quarantined == (entry,)


# --- JSONL

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ROWS = st.dictionaries(st.text("abcXYZ019-_.", min_size=1, max_size=8), st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)


@settings(max_examples=50)
@given(rows=ROWS, ascii_only=st.booleans(), ends=st.sampled_from([b"\n", b"\r\n", b"\n\n \n"]), mark=st.booleans())
def test_every_row_is_given_back_as_it_was(
    rows: dict[str, tuple[str, str]], ascii_only: bool, ends: bytes, mark: bool
) -> None:
    lines = [
        json.dumps({"_id": key, "title": title, "text": text}, ensure_ascii=ascii_only).encode()
        for key, (title, text) in rows.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.jsonl")
        file.write_bytes((b"\xef\xbb\xbf" if mark else b"") + ends.join(lines))
        found = rows_source(file)
        assert {ref.item for ref in found.documents} == rows.keys()
        for ref in found.documents:
            title, text = rows[ref.item]
            assert ref.uri == f"rows.jsonl#{ref.item}"
            shown_title, shown = title.replace("\x00", "").strip(), text.replace("\x00", "")
            if not (shown_title + shown).strip():
                with pytest.raises(DocumentError, match="empty"):
                    read_document(ref)
                continue
            given_back = read_document(ref).text
            assert given_back.strip().startswith(shown_title)
            assert given_back.endswith(shown) or not shown.strip()
            assert "".join(given_back.split()) == "".join((shown_title + shown).split())


def test_the_content_is_title_and_text_and_nothing_else_of_the_line(tmp_path: Path) -> None:
    def content(*rows: dict[str, Any]) -> list[str | None]:
        return [ref.content for ref in rows_source(write_jsonl(tmp_path / "rows.jsonl", rows)).documents]

    row = {"_id": "1", "title": "a", "text": "b"}
    first, reordered, with_more = content(
        row, {"text": "b", "_id": "2", "title": "a"}, row | {"_id": "3", "seen": "2026-11-22"}
    )
    assert first == reordered == with_more
    moved, without = content(row | {"title": "ab", "text": ""}, {"_id": "2", "text": "b"})
    assert len({first, moved, without}) == 3, "what is title and what is text counts"


def test_other_fields_can_be_named(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"key": 7, "head": "Head", "body": "Body"}])
    (ref,) = rows_source(file, id_field="key", title_field="head", text_field="body").documents
    assert (ref.uri, ref.item) == ("rows.jsonl#7", "7")
    assert read_document(ref).text == "Head\n\nBody"


DEEP = '{"_id": "2", "text": "x", "more": ' + "[" * 10_000 + "]" * 10_000 + "}"
SURROGATE = '{"_id": "2", "text": "x", "more": "\\ud800"}'


@pytest.mark.parametrize(
    ("line", "item"),
    [
        ("{", "line-3"),
        ("[1]", "line-3"),
        ('"text"', "line-3"),
        ("null", "line-3"),
        (b'{"_id": "\xff"}', "line-3"),
        (b'{"_id": "2", "text": "\xff"}', "2"),
        ('{"_id": "2", "text": 3}', "2"),
        ('{"_id": 2, "title": []}', "2"),
        ('{"_id": "2", "text": "cut of', "2"),
        ('{"text": "x", "_id": "2", "more": NaN}', "line-3"),
        ('{"_id": "2", "text": "x", "more": -Infinity}', "2"),
        (DEEP, "2"),
        (SURROGATE, "2"),
        ('{"_id": "\\ud800", "text": "x"}', "line-3"),
        ('{"_id": "1", "text": "the id of line 1"}', "line-3"),
        ('{"_id": "1", "text": "cut of', "line-3"),
        ('{"text": "y"}', "line-3"),
        ('{"_id": "", "text": "y"}', "line-3"),
        ('{"_id": true, "text": "y"}', "line-3"),
        ('{"_id": 1.5, "text": "y"}', "line-3"),
        ('{"_id": ["1"], "text": "y"}', "line-3"),
    ],
)
def test_a_row_that_cannot_be_taken_is_quarantined_with_its_line(tmp_path: Path, line: str | bytes, item: str) -> None:
    rows: list[Any] = [{"_id": "1", "text": "x"}, "", line, {"_id": "4", "text": "z"}]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    found = rows_source(file)
    assert [ref.item for ref in found.documents] == ["1", "4"], "the others are taken"
    (entry,) = found.quarantined
    assert (entry.uri, entry.item) == (f"rows.jsonl#{item}", item)
    assert entry.reason.startswith(f"{file}: line 3: ")
    assert [read_document(ref).text for ref in found.documents] == ["x", "z"]


def test_an_id_twice_names_both_lines(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"_id": "1"}, {"_id": "2"}, {"_id": 1, "text": "number"}])
    found = rows_source(file)
    assert [ref.item for ref in found.documents] == ["1", "2"]
    assert re.search("line 3: its id '1' is that of line 1", found.quarantined[0].reason)


def test_rows_none_of_which_has_an_id_are_refused_by_field(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"key": "1", "text": "x"}, {"key": "2", "text": "y"}])
    with pytest.raises(SourceError, match=r"line 1: no id in the field '_id'; name the right one as id_field"):
        rows_source(file)


def test_a_line_that_is_too_long_is_quarantined_and_the_next_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROW_BYTES", 1_000)
    monkeypatch.setattr(tables, "SKIP_BYTES", 64)
    file = write_jsonl(tmp_path / "rows.jsonl", [{"_id": "1", "text": "x" * 5_000}, {"_id": "2", "text": "y"}])
    found = rows_source(file)
    assert [read_document(ref).text for ref in found.documents] == ["y"]
    assert "line 1: longer than 1000 bytes" in found.quarantined[0].reason


# --- rows of every format

BOOKS: list[dict[str, Any]] = [
    {"_id": "1", "title": "Tides", "text": 'The moon, "so they say",\npulls the sea.', "year": 1687, "lang": "en"},
    {"_id": "2", "title": "", "text": "Ein Flügel hat 88 Tasten.", "year": 1709, "lang": "de"},
    {"_id": "3", "title": "象", "text": "一二三", "year": 1, "lang": "zh"},
]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the format and compression that the name of the file says."""
    kinds = [suffix for suffix in file.suffixes if suffix not in {".gz", ".zst"}]
    if kinds == [".parquet"]:
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=2)
        return file
    text = io.StringIO()
    if kinds == [".jsonl"]:
        text.writelines(json.dumps(row) + "\n" for row in rows)
    else:
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if kinds == [".tsv"] else ",")
        writer.writeheader()
        writer.writerows(rows)
    data = text.getvalue().encode()
    squeeze: Any = {".gz": gzip.compress, ".zst": zstandard.compress}.get(file.suffix, bytes)
    file.write_bytes(squeeze(data))
    return file


def listed_rows(file: Path, **keys: Any) -> Listing:
    kind = next(kind for kind in ("jsonl", "parquet", "csv") if f".{kind}" in file.name or kind == "csv")
    folder = file.parent / "tonight"
    folder.mkdir(exist_ok=True)
    return list_source(SourceSettings.model_validate({"name": "rows", kind: file, **keys}), folder)


@pytest.mark.parametrize(
    "name", ["b.jsonl", "b.jsonl.gz", "b.jsonl.zst", "b.csv", "b.csv.gz", "b.tsv.zst", "b.parquet"]
)
def test_rows_of_every_format_are_the_same_documents(tmp_path: Path, name: str) -> None:
    found = listed_rows(write_rows(tmp_path / name, BOOKS))
    plain = listed_rows(write_rows(tmp_path / "plain.jsonl", BOOKS))
    assert [(ref.uri, ref.item, ref.content) for ref in found.documents] == [
        (ref.uri, ref.item, ref.content) for ref in plain.documents
    ]
    assert [read_document(ref).text for ref in found.documents] == [read_document(ref).text for ref in plain.documents]
    assert [ref.span.line for ref in found.documents if ref.span] == (
        [2, 4, 5] if ".csv" in name or ".tsv" in name else [1, 2, 3]
    )
    as_text = ".csv" in name or ".tsv" in name
    assert [dict(ref.metadata) for ref in found.documents] == [
        {"year": str(row["year"]) if as_text else row["year"], "lang": row["lang"]} for row in BOOKS
    ]


def test_a_million_short_rows_are_listed_in_less_than_500_mb(tmp_path: Path) -> None:
    rows = 20_000
    file = write_jsonl(tmp_path / "rows.jsonl", ({"_id": f"{n:07}", "text": f"{n} " * 40} for n in range(rows)))
    rows_source(file)  # what is imported and cached once does not count
    tracemalloc.start()
    try:
        assert len(rows_source(file).documents) == rows
        assert tracemalloc.get_traced_memory()[1] / rows < 500, "bytes a row"
    finally:
        tracemalloc.stop()


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=50)
@given(
    rows=st.dictionaries(st.text("abcXYZ01", min_size=1, max_size=6), st.tuples(CELLS, CELLS), min_size=1, max_size=6)
)
def test_whatever_csv_can_hold_comes_out_of_it_as_it_was(rows: dict[str, tuple[str, str]]) -> None:
    books = [{"_id": key, "title": title, "text": text} for key, (title, text) in rows.items()]
    with tempfile.TemporaryDirectory() as folder:
        found = listed_rows(write_rows(Path(folder, "rows.csv"), books))
        plain = listed_rows(write_rows(Path(folder, "rows.jsonl"), books))
        assert [(ref.item, ref.content) for ref in found.documents] == [
            (ref.item, ref.content) for ref in plain.documents
        ]


def test_metadata_is_every_short_scalar_or_what_is_named(tmp_path: Path) -> None:
    more = {"yes": True, "share": 0.5, "none": None, "list": [1], "table": {"a": 1}, "blank": "", "long": "x" * 1_001}
    file = write_jsonl(tmp_path / "rows.jsonl", [{"_id": "1", "text": "x", "n": 1, **more}])
    (ref,) = rows_source(file, tags=["a"]).documents
    assert dict(ref.metadata) == {"n": 1, "yes": True, "share": 0.5, "tags": "a"}
    (ref,) = rows_source(file, metadata_fields=["n", "list"]).documents
    assert dict(ref.metadata) == {"n": 1}


def test_metadata_of_one_row_is_never_that_of_another(tmp_path: Path) -> None:
    values: list[Any] = [1, True, 1.0, "1", 0, False, "", 2]
    rows = [{"_id": str(number), "text": "x", "n": value} for number, value in enumerate(values)]
    found = rows_source(write_jsonl(tmp_path / "rows.jsonl", rows)).documents
    assert repr([dict(ref.metadata).get("n", "") for ref in found]) == repr(values)


def test_values_of_parquet_become_what_can_be_filtered_on(tmp_path: Path) -> None:
    when = datetime(2026, 11, 22, 22, tzinfo=UTC)
    table = pa.table(
        {
            "_id": pa.array([1], pa.int64()),
            "text": pa.array(["x"], pa.dictionary(pa.int32(), pa.string())),
            "when": pa.array([when], pa.timestamp("ns", "UTC")),
            "day": pa.array([when.date()]),
            "price": pa.array([Decimal("1.50")]),
            "missing": pa.array([float("nan")]),
            "raw": pa.array([b"x"]),
            "nested": pa.array([[1]]),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    (ref,) = listed_rows(tmp_path / "rows.parquet").documents
    assert dict(ref.metadata) == {"when": "2026-11-22T22:00:00+00:00", "day": "2026-11-22", "price": "1.50"}


@pytest.mark.parametrize(
    ("data", "item", "reason"),
    [
        (b'_id,text\n1,x\n2,"cut', "line-3", "not CSV"),
        (b"_id,text\n1,x\n2,y,z", "2", "3 fields where the header has 2"),
        (b"_id,text\n1,x\n2", "2", "1 fields where the header has 2"),
        (b"_id,text\n1,x\n2,caf\xe9", "line-3", "not UTF-8"),
        (b"_id,text\n1,x\n1,y", "line-3", "its id '1' is that of line 2"),
        (b"_id,text\n1,x\n,y", "line-3", "no id"),
    ],
)
def test_a_bad_row_of_csv_is_quarantined_with_its_line(tmp_path: Path, data: bytes, item: str, reason: str) -> None:
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbf" + data + b"\n")
    found = listed_rows(tmp_path / "rows.csv")
    assert [read_document(ref).text for ref in found.documents] == ["x"]
    (entry,) = found.quarantined
    assert entry.item == item
    assert "line 3: " in entry.reason
    assert reason in entry.reason


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("rows.csv", b"id,text\n1,x\n", "no column '_id'; it has 'id', 'text'.*mend its id_field"),
        ("rows.csv", b"_id;text\n1;x\n", "no column '_id'; it has '_id;text'"),
        ("rows.csv", b"", "no column at all"),
        ("rows.parquet", b"_id,text\n1,x\n", "cannot be read as Parquet"),
        ("rows.jsonl.gz", b"not gzip", "[Nn]ot a gzipped file"),
        ("rows.jsonl.gz", gzip.compress(b'{"_id": "1", "text": "x"}\n' * 50, mtime=0)[:-12], "ended before"),
        ("rows.jsonl.zst", zstandard.compress(b'{"_id": "1", "text": "x"}\n' * 50)[:-3], "Truncated"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_refused(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=says) as refused:
        listed_rows(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)


def test_a_parquet_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the column 'text' holds int64, not text"):
        listed_rows(write_rows(tmp_path / "rows.parquet", [{"_id": "1", "text": 3}]))


def test_columns_that_the_corpus_file_names_must_be_there(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.csv", BOOKS)
    for key, value in (("title_field", "head"), ("text_field", "body"), ("metadata_fields", ["lang", "pages"])):
        with pytest.raises(SourceError, match=f"no column '(head|body|pages)'.*{key}"):
            listed_rows(file, **{key: value})
    assert len(listed_rows(file, text_field="lang", metadata_fields=["year"]).documents) == 3


def test_a_delimiter_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("_id;text\n1;x\n")
    assert [ref.item for ref in listed_rows(tmp_path / "rows.csv", delimiter=";").documents] == ["1"]


def test_a_row_without_text_is_listed_and_then_quarantined(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"_id": "471", "title": "", "text": " "}, {"_id": "472"}])
    found = rows_source(file)
    assert [ref.item for ref in found.documents] == ["471", "472"]
    for ref in found.documents:
        with pytest.raises(DocumentError, match="empty"):
            read_document(ref)


def test_cranfield_has_1400_documents_and_two_of_them_are_empty(shared_data: Path) -> None:
    found = one_listing([rows_source(shared_data / "cranfield" / "corpus.jsonl")])
    assert len(found.documents) == len({ref.id for ref in found.documents}) == 1400

    def taken(ref: DocumentRef) -> bool:
        try:
            return bool(read_document(ref).text.strip())
        except DocumentError:
            return False

    assert [ref.item for ref in found.documents if not taken(ref)] == ["471", "995"]
