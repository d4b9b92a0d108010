"""HTML: the main text of a page with its headings, code and tables; nothing hidden, nothing run."""

import time
from pathlib import Path

import pytest

from tests.format_files import read, refusal, sections, wholes

TIDES = "The moon pulls the water of the seas, and the water follows it around the earth, twice a day."
SPRING = "When sun and moon stand in a line, the tides are high and the ebb is low; sailors know that and plan for it."
ARTICLE = f"""\
<!doctype html>
<html><head><title>Tides | The Sea</title>
<script>var secret = "scripted words";</script><style>.styled {{ color: red }}</style></head>
<body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/blog">Weblog</a></li></ul></nav>
<main><article>
<h1>Tides</h1><p>{TIDES}</p>
<h2>Spring <i>tides</i></h2><p>{SPRING}</p>
<pre><code>def tide(moon):
    return moon * 2
</code></pre>
<p>Use <code>tide(moon)</code> for it.</p>
<table><tr><th>Port</th><th>Metres</th></tr><tr><td>Brest</td><td>6.9</td></tr></table>
<h3>Lists</h3><ul><li>first thing to know</li><li>second thing to know</li></ul>
<p hidden>hidden by attribute</p><p style="color: red; DISPLAY : none">hidden by style</p>
<p style="visibility:hidden">hidden by visibility</p><span aria-hidden="true">hidden by aria</span>
<!-- a comment -->
<noscript>switch scripts on</noscript><template>a template</template>
</article></main>
<footer>Copyright, all rights reserved</footer>
</body></html>
"""
LEFT_OUT = ["scripted", "styled", "hidden", "comment", "scripts", "template", "Weblog", "Copyright"]


def test_the_main_text_of_a_page_is_taken_and_nothing_else(tmp_path: Path) -> None:
    parsed = read(tmp_path, "page.html", ARTICLE)
    assert parsed.title == "Tides | The Sea"
    assert TIDES in parsed.text
    assert SPRING in parsed.text
    assert "Use tide(moon) for it." in parsed.text
    assert "- first thing to know\n- second thing to know" in parsed.text
    assert [word for word in LEFT_OUT if word in parsed.text] == []


def test_what_surrounds_a_long_text_is_left_out_however_short_it_is(tmp_path: Path) -> None:
    long = ARTICLE.replace(TIDES, "</p><p>".join([TIDES, SPRING] * 20))
    parsed = read(tmp_path, "page.html", long)
    assert parsed.text.count(SPRING) == 21
    assert [word for word in LEFT_OUT if word in parsed.text] == []


def test_headings_of_a_page_are_places(tmp_path: Path) -> None:
    found = sections(read(tmp_path, "page.html", ARTICLE))
    assert [headings for headings, _ in found] == [
        ("Tides",),
        ("Tides", "Spring tides"),
        ("Tides", "Spring tides", "Lists"),
    ]
    assert found[0][1].startswith("Tides\n\nThe moon")


def test_code_and_tables_of_a_page_stay_whole(tmp_path: Path) -> None:
    assert wholes(read(tmp_path, "page.html", ARTICLE)) == [
        "def tide(moon):\n    return moon * 2",
        "Port | Metres\nBrest | 6.9",
    ]


def test_the_title_comes_first_where_the_text_does_not_begin_with_it(tmp_path: Path) -> None:
    article = f"<article><p>{TIDES}</p><p>{SPRING}</p></article>"
    page = f"<html><head><title>On tides</title></head><body>{article}</body></html>"
    assert read(tmp_path, "page.html", page).text == f"On tides\n\n{TIDES}\n\n{SPRING}"
    assert read(tmp_path, "page.html", ARTICLE).text.count("Tides") == 1


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<p>Hello", "Hello"),
        ("Hello<br>world", "Hello\nworld"),
        ("<h1>Hello</h1>", "Hello"),
        ("<h1>C# <a href='#c'>#</a></h1>words", "C#\n\nwords"),
        ("<h1>Hello<a class='headerlink' href='#hello'>¶</a></h1>words", "Hello\n\nwords"),
        ("<div>Hello <b>big</b>\n   world</div><div>again</div>", "Hello big world\n\nagain"),
        ("<table><tr><td>a<td>b<tr><td>c<td>d</table>", "a | b\nc | d"),
        ("<p>Hello<script>evil()</script><p style='display:none'>gone", "Hello"),
        ("<p>&lt;b&gt; &amp;&nbsp;&eacute; &#xD800;", "<b> & é \ufffd"),
        ("<ul><li>one<li>two</ul>", "- one\n- two"),
        ("<ul><li><p>one</p><p>more</p></li><li><p>two</p></li></ul>after", "- one\n\nmore\n\n- two\n\nafter"),
    ],
)
def test_a_small_page_gives_all_of_its_visible_text(tmp_path: Path, body: str, text: str) -> None:
    assert read(tmp_path, "page.html", f"<html><body>{body}</body></html>").text == text


@pytest.mark.parametrize(
    "body",
    ["", "<script>evil()</script>", "<p hidden>words</p>", "<img src='x.png'>", "<div style='display:none'>a</div>"],
)
def test_a_page_without_visible_text_is_refused(tmp_path: Path, body: str) -> None:
    assert "without visible text" in refusal(
        tmp_path, "page.html", f"<html><head><title>App</title></head><body>{body}</body></html>"
    )


@pytest.mark.parametrize(
    ("head", "encoding", "declared"),
    [
        ("", "utf-8", ""),
        ("", "utf-8-sig", ""),
        ("", "utf-16", ""),
        ("", "utf-16-le", ""),
        ("<meta charset=windows-1250>", "cp1250", ""),
        ("<meta http-equiv='Content-Type' content='text/html; charset=windows-1250'>", "cp1250", ""),
        ("", "cp1250", "text/html; charset=windows-1250"),
        ("<meta charset='windows-1250'>", "cp1250", "text/html; charset=utf-8"),
        ("<meta charset='windows-1250'>", "utf-8", ""),
        ("<meta charset='nonsense'>", "utf-8", ""),
        ("<meta charset='unicode_escape'>", "utf-8", ""),
    ],
)
def test_the_encoding_of_a_page_is_found(tmp_path: Path, head: str, encoding: str, declared: str) -> None:
    page = f"<html><head>{head}<title>Příliš</title></head><body><p>žluťoučký kůň úpěl ďábelské ódy</p></body></html>"
    parsed = read(tmp_path, "page.html", page.encode(encoding), declared)
    assert (parsed.title, parsed.text) == ("Příliš", "Příliš\n\nžluťoučký kůň úpěl ďábelské ódy")


def test_xhtml_is_read_and_its_entities_are_not_expanded(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    entities = f'<!ENTITY file SYSTEM "{secret.as_uri()}"><!ENTITY a "boom">'
    head = f'<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html [{entities}]>\n'
    page = f'{head}<html xmlns="http://www.w3.org/1999/xhtml"><body><p>words &file; &a; end</p></body></html>'
    text = read(tmp_path, "page.xhtml", page).text
    assert "words" in text
    assert "a secret" not in text
    assert "boom" not in text.replace('"boom"', "")


def test_deep_nesting_ends_neither_in_a_crash_nor_in_a_hang(tmp_path: Path) -> None:
    started = time.monotonic()
    for tag in ("div", "table><tr><td", "ul><li", "b"):
        page = f"<html><body><p>{TIDES}</p>" + f"<{tag}>" * 10_000 + "words" + "</body></html>"
        assert TIDES in read(tmp_path, "page.html", page).text
    assert time.monotonic() - started < 20


def test_a_login_page_is_refused_where_a_document_was_named(tmp_path: Path) -> None:
    assert "login" in refusal(tmp_path, "report.pdf", ARTICLE, "text/html")


def test_layout_tables_are_no_data(tmp_path: Path) -> None:
    page = f"<html><body><table><tr><td><h1>Tides</h1><p>{TIDES}</p></td></tr></table></body></html>"
    parsed = read(tmp_path, "page.html", page)
    assert TIDES in parsed.text
    assert wholes(parsed) == []
