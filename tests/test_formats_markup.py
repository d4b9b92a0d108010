"""Markdown and reStructuredText: the text as it is written, with its sections, code and tables."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightloom.corpus import SourceSettings
from nightloom.documents import Scalar
from nightloom.errors import DocumentError
from nightloom.formats.assembly import Assembly
from nightloom.formats.front_matter import MAX_CHARACTERS, UNREADABLE
from nightloom.formats.markup import read_markdown, read_rst
from nightloom.metadata import renamed
from nightloom.reading import read_document
from nightloom.sources import list_source
from tests.builders import write_tree
from tests.format_files import check, read, sections, wholes

MARKDOWN = """\
Before any heading.

# Tides *of* the `sea`

The moon.

Spring tides
------------

Sun and moon in a line.

```python
# no heading
def tide(moon): ...
```

    # indented code

| Port  | Metres |
|-------|--------|
| Brest | 6.9    |

### Deep

Under the third level.

Neap tides
==========

> # a quoted heading is none

- item

  ```
  code in a list
  ```
"""

RST = """\
.. _top:

=====
Tides
=====

The moon, see :ref:`moon`.

Spring ``tides``
================

Sun and moon::

    Not a heading
    -------------

    code()

Deep
----

+------+--------+
| Port | Metres |
+======+========+
| Brest| 6.9    |
+------+--------+

=====  =====
A      B
=====  =====
1      2

3      4
=====  =====

.. code-block:: python
   :linenos:

   def tide(): ...

Neap tides
==========

.. include:: /etc/passwd
.. raw:: html
   :file: /etc/passwd

A paragraph
that goes on.
"""


# --- Markdown


def test_markdown_stays_as_it_is_written(tmp_path: Path) -> None:
    assert read(tmp_path, "page.md", MARKDOWN).text == MARKDOWN


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_markdown_has_sections_by_both_kinds_of_headings(tmp_path: Path, end: str) -> None:
    parsed = read(tmp_path, "page.md", MARKDOWN.replace("\n", end))
    assert parsed.title == "Tides of the sea"
    tides = "Tides of the sea"
    found = sections(parsed)
    assert [headings for headings, _ in found] == [
        (),
        (tides,),
        (tides, "Spring tides"),
        (tides, "Spring tides", "Deep"),
        ("Neap tides",),
    ]
    assert [text.replace(end, "\n").partition("\n")[0] for _, text in found] == [
        "Before any heading.",
        "# Tides *of* the `sea`",
        "Spring tides",
        "### Deep",
        "Neap tides",
    ]


def test_code_and_tables_of_markdown_stay_whole(tmp_path: Path) -> None:
    assert wholes(read(tmp_path, "page.md", MARKDOWN)) == [
        "```python\n# no heading\ndef tide(moon): ...\n```",
        "    # indented code",
        "| Port  | Metres |\n|-------|--------|\n| Brest | 6.9    |",
        "  ```\n  code in a list\n  ```",
    ]


@pytest.mark.parametrize(
    ("front", "title", "fields"),
    [
        ("---\ntitle: Of tides\ndate: 2026-11-22\n---", "Of tides", {"date": "2026-11-22"}),
        ("---\ndate: 2026-11-22\ntitle: \"Tides: a 'history'\"\n---", "Tides: a 'history'", {"date": "2026-11-22"}),
        ('+++\ntitle = "Of tides"\n+++', "Of tides", {}),
        ("---\r\ntitle: Of tides\r\n---\r", "Of tides", {}),
        (
            "---\nlang: no\nyear: 2026\nold: 007\ndraft: True\nnone:\n---",
            "",
            {"lang": "no", "year": 2026, "old": "007", "draft": "true"},
        ),
        (
            "---\ntags: [sea, moon]\nby:\n  - Ann\n  - 3\nauthor: {name: Ann}\ndeep: [[1]]\n---",
            "",
            {"tags": "sea, moon", "by": "Ann, 3"},
        ),
        (
            "+++\ndate = 2026-11-22\ndraft = true\nyear = 2026\ntags = ['a', 'b']\n[x]\ny = 1\n+++",
            "",
            {"date": "2026-11-22", "draft": "true", "year": 2026, "tags": "a, b"},
        ),
        ("---\ntitle: Tides of the sea\n---\n", "Tides of the sea", {}),
        ("---\n---", "", {}),
    ],
)
def test_front_matter_is_metadata_and_only_its_title_is_text(
    tmp_path: Path, front: str, title: str, fields: dict[str, Scalar]
) -> None:
    parsed = read(tmp_path, "page.md", f"{front}\n{MARKDOWN}")
    begins = f"{title}\n\n" if title not in {"", "Tides of the sea"} else ""
    assert (parsed.title, dict(parsed.metadata), parsed.notes) == (title or "Tides of the sea", fields, frozenset())
    assert parsed.text == f"{begins}{MARKDOWN}"
    assert {place.headings[0] for place in parsed.places} == {"Tides of the sea", "Neap tides"}
    assert "```python\n# no heading\ndef tide(moon): ...\n```" in wholes(parsed)


@pytest.mark.parametrize(
    ("front", "title", "is_noted"),
    [
        ("+++\nnot TOML\n+++", "Tides of the sea", True),
        ("---\ntitle: Tides: a history\n---", "Tides: a history", True),
        ("---\na: &a [x]\nb: [*a, *a]\n---", "Tides of the sea", True),
        (f"---\na: {'[' * 5_000}\n---", "Tides of the sea", True),
        (f"+++\na = {'[' * 5_000}\n+++", "Tides of the sea", True),
        (f"---\na: {'b' * MAX_CHARACTERS}\n---", "Tides of the sea", True),
        ("---\na: \x01\n---", "Tides of the sea", True),
        ("---\na: !!python/object/apply:os.system [x]\n---", "Tides of the sea", False),
        ("---\nA paragraph between rules.\n---", "Tides of the sea", False),
        ("---\n", "Tides of the sea", False),
    ],
)
def test_front_matter_that_cannot_be_read_stays_text_and_is_noted(
    tmp_path: Path, front: str, title: str, *, is_noted: bool
) -> None:
    parsed = read(tmp_path, "page.md", f"{front}\n{MARKDOWN}")
    assert (parsed.title, parsed.notes) == (title, frozenset({UNREADABLE} if is_noted else ()))
    assert "os.system" in front or parsed.text == f"{front}\n{MARKDOWN}"
    assert {place.headings[0] for place in parsed.places} >= {"Tides of the sea", "Neap tides"}


def test_fields_of_front_matter_are_fields_of_the_document_under_those_of_its_source(tmp_path: Path) -> None:
    long = "The tides follow the moon. " * 50
    front = f"---\ntitle: Tides\nlang: en\nsource: x\npage: 3\ntags: mine\nsummary: {long}\n---\n"
    write_tree(tmp_path, {"docs/page.qmd": front, "docs/empty.md": "---\nlang: en\n---\n"})
    found = list_source(SourceSettings(name="docs", path=tmp_path / "docs", tags=("ours",))).documents
    document = next(read_document(ref) for ref in found if ref.item == "page.qmd")
    assert (document.title, document.text) == ("Tides", f"Tides\n\n{long.strip()}")
    assert document.metadata == {"tags": "ours", "lang": "en", "source_": "x", "page_": 3}
    assert document.notes == {renamed("source", "source_"), renamed("page", "page_")}
    with pytest.raises(DocumentError, match="empty"):
        read_document(next(ref for ref in found if ref.item == "empty.md"))


def test_very_long_markdown_is_taken_as_plain_text(tmp_path: Path) -> None:
    text = "# Title\n" + "- a\n" * 2_500_000
    started = time.monotonic()
    assert read(tmp_path, "page.md", text).text == text
    assert time.monotonic() - started < 5


# --- reStructuredText


def test_rst_stays_as_it_is_written_and_includes_nothing(tmp_path: Path) -> None:
    parsed = read(tmp_path, "page.rst", RST)
    assert parsed.text == RST
    assert parsed.title == "Tides"


def test_rst_has_sections_by_the_styles_of_its_titles(tmp_path: Path) -> None:
    found = sections(read(tmp_path, "page.rst", RST))
    assert [headings for headings, _ in found] == [
        (),
        ("Tides",),
        ("Tides", "Spring tides"),
        ("Tides", "Spring tides", "Deep"),
        ("Tides", "Neap tides"),
    ]
    assert [text.split("\n")[0] for _, text in found[1:]] == ["=====", "Spring ``tides``", "Deep", "Neap tides"]


def test_code_and_tables_of_rst_stay_whole(tmp_path: Path) -> None:
    found = wholes(read(tmp_path, "page.rst", RST))
    assert [whole.strip().split("\n")[0].split()[0] for whole in found] == [
        "Not",
        "+------+--------+",
        "=====",
        ":linenos:",
    ]
    assert [whole.split()[-1] for whole in found] == ["code()", "+------+--------+", "=====", "..."]


@pytest.mark.parametrize(
    "text", ["====\n", "Title\n", "=====", "\n-----\n\n-----\n", "a\n--- ---\nb", "+---", "x::", "x::\n\n"]
)
def test_rst_without_a_title_has_no_sections(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, "page.rst", text).places == ()


# --- both


LINES = """\
# a,## b,====,----,+--+,| a | b |,|---|---|,```,~~~,    x,::,w,,> q,- i,=== ===,x::,.. code::,title: t,+++,\x0c,\u2028\
"""


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(LINES.split(","))).map("\n".join),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_places_and_wholes_lie_in_the_text(text: str, end: str) -> None:
    for reader in (read_markdown, read_rst):
        out = Assembly(1 << 20)
        title = reader(f"word{end}{text}".replace("\n", end), out)
        check(out.parsed(title))
