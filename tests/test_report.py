"""The run report: every field where it should be, and nothing in a document's name that a page or terminal obeys."""

import io
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from nightloom.history import NightRecord
from nightloom.report import (
    SHOWN_QUARANTINED,
    DocumentCounts,
    LeftOutEntry,
    NodeCounts,
    QuarantineEntry,
    QueryCounts,
    RunReport,
    escape,
    plain,
    to_markdown,
)
from nightloom.report_files import drop_reports, save_report
from nightloom.rows import Hit
from nightloom.screen import show_hits, show_report
from nightloom.tables import counts_table

NASTY = [
    "[x](javascript:alert(1))",
    "![x](https://tracker.example/pixel.png)",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "a | b || c",
    "`code` and ``more``",
    "*bold* _it_ ~~gone~~",
    "# heading",
    "<https://example.com>",
    "[ref]: javascript:x",
    "a\\",
    "&lt;b&gt; &amp; &#60;",
    "\\[x](y)",
    "[bold red]x[/]",
    "[/]",
]
HIDDEN = [
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;http://evil\x1b\\link",
    "a\x00b",
    "a\x07\x08b",
    "a\x7f\x9bb",
    "\u202egnp.exe",
    "\u2066x\u2069",
    "\u200f\u200e",
]
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Every character with the Unicode property Bidi_Control."""

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.lists(
    st.sampled_from([*"[]()<>!|`*_~#&;\\\"'=:/. \n\x1b\u202ea1", "javascript:", "&lt;", "http://"])
).map("".join)


def make_report(**fields: Any) -> RunReport:
    known: dict[str, Any] = {
        "corpus": "docs",
        "outcome": "promoted",
        "reason": "3 documents added",
        "started": datetime(2026, 11, 22, 22, tzinfo=UTC),
    }
    return RunReport.model_validate(known | fields)


class Page(HTMLParser):
    """The tags, links and visible words of a page."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.words = ""
        self.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name in {"href", "src"} or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words += data


def shown(text: str) -> str:
    """What a reader should see of a text: itself, with every control character in sight."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", "\ufffd", text)


def squeezed(text: str) -> str:
    return " ".join(text.replace("\ufffd", " ").split())


# --- Markdown


@settings(max_examples=300)
@given(TEXTS)
@example("a\\")
@example("a\\|b")
@example("&copy;")
def test_a_name_in_a_table_is_shown_as_it_is_and_is_never_markup(name: str) -> None:
    page = Page(f"| Document | Reason |\n| --- | --- |\n| {escape(name)} | end |\n")
    assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert squeezed(page.words) == squeezed(f"Document Reason {shown(name)} end")


@pytest.mark.parametrize("text", [*NASTY, *HIDDEN])
def test_a_report_obeys_nothing_in_uris_and_reasons(text: str) -> None:
    report = make_report(
        outcome="held",
        reason=f"reason {text}",
        quarantine=[QuarantineEntry(uri=text, reason=text), QuarantineEntry(uri="docs/a", reason="fine")],
    )
    markdown = to_markdown(report)
    plain_page = Page(to_markdown(make_report(outcome="held", quarantine=report.quarantine[1:])))
    page = Page(markdown)
    assert page.tags == plain_page.tags
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", markdown)
    assert squeezed(page.words).count(squeezed(shown(text))) >= 3
    assert "fine" in page.words, "the table goes on after the row"


@pytest.mark.parametrize(
    "character",
    [
        *BIDI[1:],
        "\u061c",
    ],
    ids=lambda character: f"U+{ord(character):04X}",
)
def test_no_direction_character_gets_through(character: str) -> None:
    assert escape(f"a{character}b") == plain(f"a{character}b") == "a\ufffdb"


def test_a_line_break_in_a_reason_is_a_space() -> None:
    assert escape("corpus.toml:\n  gate.keep") == "corpus.toml:   gate.keep"


@pytest.mark.parametrize("show", [escape, plain])
def test_what_is_shown_can_be_written(show: Any) -> None:
    assert show("caf\udce9.txt").encode()


def test_a_long_quarantine_is_cut_and_says_so() -> None:
    entries = [QuarantineEntry(uri=f"docs/{number}", reason="empty") for number in range(SHOWN_QUARANTINED + 7)]
    markdown = to_markdown(make_report(quarantine=entries))
    assert f"docs/{SHOWN_QUARANTINED - 1} " in markdown
    assert f"docs/{SHOWN_QUARANTINED} " not in markdown
    assert "and 7 more" in markdown


def test_a_page_says_what_the_night_did() -> None:
    page = Page(
        to_markdown(
            make_report(
                generation="docs_20261122t220000z_3f9a1c2b",
                documents=DocumentCounts(listed=11, added=3, quarantined=1),
                nodes=NodeCounts(embedded=21, total=77),
                scores={"nDCG@10": 0.39954},
                queries=QueryCounts(asked=9, set_aside=2, unjudged=5),
                quarantine=[QuarantineEntry(uri="docs/a", reason="empty")],
                seconds={"embed": 1.234},
            )
        )
    )
    for words in ("docs: promoted", "3 documents added", "docs_20261122t220000z_3f9a1c2b", "0.3995", "77", "1.23"):
        assert words in page.words
    assert "9 queries asked, 2 set aside, 5 without a judgement." in page.words


# --- terminal


def terminal(width: int = 500) -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    return Console(file=screen, width=width, force_terminal=False), screen


@given(TEXTS)
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", plain(text))
    assert plain(text).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    "text",
    [*NASTY, *HIDDEN, ":warning:"],
)
def test_a_night_on_the_terminal_shows_names_as_they_are(text: str) -> None:
    console, screen = terminal()
    left_out = [LeftOutEntry(rule="include", count=3, unit="files", kinds={}, says="3 files left out by include")]
    entries = [QuarantineEntry(uri=text, reason=text)]
    show_report(console, make_report(reason=text, quarantine=entries, left_out=left_out))
    assert screen.getvalue().count(shown(text)) == 3
    assert "left out          3 files left out by include" in screen.getvalue()
    assert "\x1b" not in screen.getvalue()


@pytest.mark.parametrize(
    "uri",
    [
        *(text for text in [*NASTY, *HIDDEN] if "\\" not in text),
        r"docs\[/]",
        r"docs\[bold]x",
        "docs\\",
        ":warning:",
    ],
)
def test_a_passage_is_shown_with_its_name_as_it_is(uri: str) -> None:
    console, screen = terminal()
    show_hits(console, [Hit("n-0", uri, uri, uri, 3, 0.5, f"text {uri}")])
    assert f"{shown(uri)}  node 3  score 0.5000\ntext {shown(uri)}\n" in screen.getvalue()
    assert "\x1b" not in screen.getvalue()


@pytest.mark.parametrize("folder", ["[docs]", "[/docs]"])
def test_the_path_of_a_report_is_shown_as_it_is(folder: str) -> None:
    console, screen = terminal()
    show_report(console, make_report(file=f"/srv/{folder}/docs.md"))
    assert f"/srv/{folder}/docs.md" in screen.getvalue()


def test_a_long_passage_is_cut() -> None:
    console, screen = terminal(100)
    show_hits(console, [Hit("n-0", "docs/a", "a", "", 0, 1.0, "word " * 1000)])
    assert screen.getvalue().count("word") < 200
    assert screen.getvalue().strip().endswith("...")


# --- data


def test_the_schema_has_the_keys_that_readers_rely_on() -> None:
    schema = RunReport.model_json_schema()

    def keys(name: str) -> set[str]:
        return set(schema["$defs"][name]["properties"])

    relied_on = "corpus outcome reason generation documents nodes truncated_tokens seconds scores"
    assert set(relied_on.split()) <= set(schema["properties"])
    assert keys("DocumentCounts") == {"listed", "added", "changed", "unchanged", "removed", "quarantined"}
    assert keys("NodeCounts") == {"embedded", "copied", "deleted", "total"}
    assert set(schema["properties"]["outcome"]["enum"]) == {"promoted", "unchanged", "held", "failed", "refused"}


def test_a_report_as_json_has_every_key_even_when_nothing_was_done() -> None:
    found = json.loads(make_report(outcome="refused").model_dump_json())
    assert set(found) == set(RunReport.model_fields)
    assert found["scores"] is None
    assert found["generation"] is None
    assert found["documents"] == dict.fromkeys(DocumentCounts.model_fields, 0)


def test_every_count_is_a_row_of_the_table() -> None:
    report = make_report(documents=DocumentCounts(listed=4, removed=1), nodes=NodeCounts(total=9))
    rows = {(row["what"], row["which"]): row["count"] for row in counts_table(report)}
    assert len(rows) == len(DocumentCounts.model_fields) + len(NodeCounts.model_fields)
    assert rows["documents", "listed"] == 4
    assert rows["documents", "removed"] == 1
    assert rows["nodes", "total"] == 9


def test_a_saved_report_is_the_same_as_page_and_as_data(tmp_path: Path) -> None:
    report = make_report(reason="größer", quarantine=[QuarantineEntry(uri="docs/漢.txt", reason="empty")])
    save_report(report, tmp_path / "new" / "reports")
    assert report.file is not None
    page = Path(report.file)
    assert page == tmp_path / "new" / "reports" / "docs_20261122t220000z.md"
    assert page.read_text(encoding="utf-8") == to_markdown(report, charts=False)
    again = RunReport.model_validate_json(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert again == report


def test_only_the_html_file_holds_charts(tmp_path: Path) -> None:
    nights = [NightRecord(started=datetime(2026, 11, day, tzinfo=UTC), outcome="promoted") for day in (1, 2)]
    report = make_report(history=nights)
    save_report(report, tmp_path)
    page = Path(str(report.file))
    assert "data:image" not in page.read_text(encoding="utf-8")
    assert "data:image" in page.with_suffix(".html").read_text(encoding="utf-8")
    assert "data:image" in to_markdown(report), "for the UI"


def test_old_reports_of_the_corpus_are_dropped_and_nothing_else(tmp_path: Path) -> None:
    kept = ["docs_20260901t000000z.md", "docs_20260831t235959z.txt", "docs2_20260101t000000z.md", "docs_notes.md"]
    gone = ["docs_20260831t235959z.md", "docs_20260831t235959z.html", "docs_20250101t000000z.json"]
    for name in (*kept, *gone):
        (tmp_path / name).touch()
    drop_reports("docs", tmp_path, datetime(2026, 9, 1, tzinfo=UTC))
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(kept)
