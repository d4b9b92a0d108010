"""The report as a page of HTML: it shows what the Markdown says, obeys nothing in it, and asks nobody for anything."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nightloom.charts import as_data_uri, scores_chart
from nightloom.history import NightRecord
from nightloom.page import PICTURE, to_html
from nightloom.report import QuarantineEntry, RunReport, escape, to_markdown
from nightloom.report_files import save_report

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://tracker.example/pixel.png)",
    "[x](javascript:alert(1))",
    "[x](https://example.com)",
    "<https://example.com>",
    "[x]: https://example.com\n\n[x]",
    "![x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](data:image/svg+xml;base64,PHN2Zz4=)",
    "</style><style>*{display:none}</style>",
    "a | b",
    "</title><script>alert(1)</script>",
]


class Page(HTMLParser):
    """What a browser would make of a page: tags, attributes, visible text, title."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: dict[str, str] = {"title": "", "style": "", "body": ""}
        self.at = "body"
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag in self.words:
            self.at = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in self.words:
            self.at = "body"

    def handle_data(self, data: str) -> None:
        self.words[self.at] += data


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_corpus_stays_text(text: str) -> None:
    harmless = Page(to_html(f"# docs\n\n| a | b |\n| --- | --- |\n| {escape('x')} | y |\n", "docs"))
    page = Page(to_html(f"# docs\n\n| a | b |\n| --- | --- |\n| {escape(text)} | y |\n", text))
    assert page.tags == harmless.tags
    assert squeezed(text) in squeezed(page.words["body"])
    assert squeezed(page.words["title"]) == squeezed(text)
    assert page.words["style"] == harmless.words["style"]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_that_nobody_escaped_runs_nothing_and_fetches_nothing(text: str) -> None:
    page = Page(to_html(f"{text}\n\nend", "docs"))
    assert {"script", "img", "a", "link", "iframe"}.isdisjoint(page.tags)
    assert not [name for name, _ in page.attributes if name in {"src", "href", "style"} or name.startswith("on")]
    assert page.words["body"].strip().endswith("end")


def test_a_page_asks_nobody_for_anything_and_shows_its_charts() -> None:
    night = NightRecord(started=datetime(2026, 11, 22, 22, tzinfo=UTC), outcome="promoted", scores={"R@10": 0.9})
    picture = as_data_uri(scores_chart([night]))
    found = to_html(f"# docs\n\n![Scores of the last nights]({picture})\n", "docs")
    page = Page(found)
    assert [value for name, value in page.attributes if name == "src"] == [picture]
    assert ("alt", "Scores of the last nights") in page.attributes
    rest = found.replace(picture, "")
    assert not re.search(r"https?:|//|url\(|@import|<script", rest)
    assert "default-src 'none'" in rest
    assert picture.startswith(PICTURE)


def test_a_report_is_saved_as_a_page_beside_the_others(tmp_path: Path) -> None:
    report = RunReport(
        corpus="docs",
        outcome="held",
        reason="too many documents are gone: größer als erlaubt",
        started=datetime(2026, 11, 22, 22, tzinfo=UTC),
        scores={"nDCG@10": 0.39954},
        quarantine=[QuarantineEntry(uri="docs/<b>.txt", reason="empty")],
    )
    save_report(report, tmp_path)
    page = Page((tmp_path / "docs_20261122t220000z.html").read_text(encoding="utf-8"))
    assert page.words["title"] == "docs: held"
    for words in ("docs: held", "größer als erlaubt", "0.3995", "docs/<b>.txt", "2026-11-22 22:00:00 UTC"):
        assert words in page.words["body"]
    assert {"h1", "h2", "table", "th", "td", "code"} - {"code"} <= set(page.tags)
    assert to_html(to_markdown(report), "docs: held") == (tmp_path / "docs_20261122t220000z.html").read_text("utf-8")
