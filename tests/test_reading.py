"""From bytes to text: every encoding, and a reason for whatever is no text."""

import io
import mimetypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pypdf
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nightloom.corpus import SourceSettings
from nightloom.documents import DocumentRef
from nightloom.errors import DocumentError
from nightloom.formats.text import decode
from nightloom.reading import read_document
from nightloom.sources import list_source
from tests.builders import listed, write_jsonl

FRENCH = "Le café à côté était fermé; nous avons donc mangé une crêpe à l'hôtel. "
SPANISH = "El niño comió una manzana en la montaña mañana por la tarde. "
GERMAN = "Die Größe der Straße überrascht die Bürger; schöne Häuser säumen sie. "


def make_pdf(words: str) -> bytes:
    """A PDF of one page, with the table of positions that readers want."""
    content = f"BT /F1 12 Tf 20 50 Td ({words}) Tj ET".encode()
    font = b"<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 100]/Contents 4 0 R/Resources" + font + b">>",
        b"<</Length %d>>stream\n%b\nendstream" % (len(content), content),
    ]
    data, positions = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        positions.append(len(data))
        data += b"%d 0 obj%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % position for position in positions)
    end = b"trailer<</Root 1 0 R/Size 5>>\nstartxref\n%d\n%%%%EOF\n" % len(data)
    return data + b"xref\n0 5\n0000000000 65535 f \n" + table + end


def read(folder: Path, name: str, data: bytes, media_type: str = "") -> str:
    file = folder / name
    file.write_bytes(data)
    ref = listed(file)
    ref.media_type = media_type
    return read_document(ref).text


def refusal(folder: Path, name: str, data: bytes, media_type: str = "") -> str:
    with pytest.raises(DocumentError) as refused:
        read(folder, name, data, media_type)
    return str(refused.value)


def row(folder: Path, **fields: Any) -> Any:
    file = write_jsonl(folder / "rows.jsonl", [{"_id": "1", **fields}])
    (ref,) = list_source(SourceSettings(name="rows.jsonl", jsonl=file)).documents
    return read_document(ref)


# --- encodings


@settings(max_examples=100)
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_unicode_text_is_read_as_it_was_written(text: str, encoding: str) -> None:
    assume(not text.startswith("\ufeff"))
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize(
    "data",
    [
        "Zoë 😀 漢字".encode(),
        b"\xef\xbb\xbf" + "Zoë 😀 漢字".encode(),
        b"\xff\xfe" + "Zoë 😀 漢字".encode("utf-16-le"),
        b"\xfe\xff" + "Zoë 😀 漢字".encode("utf-16-be"),
    ],
    ids=["utf-8", "utf-8 with a mark", "utf-16-le", "utf-16-be"],
)
def test_a_byte_order_mark_is_understood_and_dropped(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path, "page.txt", data) == "Zoë 😀 漢字"


WRONG_DETECTION = "one word is too little to tell one alphabet from another by"


@pytest.mark.parametrize(
    "text",
    [
        GERMAN,
        FRENCH,
        SPANISH,
        pytest.param("café", marks=pytest.mark.xfail(strict=True, reason=WRONG_DETECTION)),
    ],
    ids=["German", "French", "Spanish", "one word"],
)
def test_latin_1_is_detected_with_every_letter(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, "page.txt", text.encode("latin-1")) == text


def test_another_alphabet_is_detected(tmp_path: Path) -> None:
    text = "Привет, мир! Это текст на русском языке, достаточно длинный, чтобы его узнать."  # noqa: RUF001  Russian
    assert read(tmp_path, "page.txt", text.encode("cp1251")) == text


# --- what is no text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t ", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "a picture"),
        (b"words, and then \x00 a NUL", "binary"),
        (b"\xff\xfeh\x00i", "begins as utf-16 but is not"),
        (b"\xef\xbb\xbf\xff\xff", "begins as utf-8-sig but is not"),
        (bytes(range(1, 256)) * 8, "neither UTF-8 nor any encoding"),
    ],
)
def test_what_is_no_text_is_refused_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path, "page.txt", data)


def test_nul_in_a_row_is_stripped(tmp_path: Path) -> None:
    assert row(tmp_path, title="ti\x00tle", text="te\x00xt\x00").text == "title\n\ntext"


def test_nul_in_a_title_is_stripped(tmp_path: Path) -> None:
    assert row(tmp_path, title="ti\x00tle", text="text").title == "title"


@pytest.mark.parametrize("field", ["title", "text"])
def test_a_lone_surrogate_is_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(DocumentError, match="lone surrogate"):
        row(tmp_path, **{"text": "text", field: "a \ud800 b"})


def test_the_title_comes_first_and_is_enough(tmp_path: Path) -> None:
    assert row(tmp_path, title=" Title ", text="Text").text == "Title\n\nText"
    assert row(tmp_path, title="Title", text=" \n").text == "Title"
    assert row(tmp_path, title=None, text="Text").text == "Text"


# --- formats


@pytest.mark.parametrize("media_type", ["application/zip", "image/png"])
def test_a_declared_type_that_has_no_text_is_refused(tmp_path: Path, media_type: str) -> None:
    assert f"its source calls it {media_type}" in refusal(tmp_path, "page.txt", b"text", media_type)


@pytest.mark.parametrize(
    "name", ["a.txt", "a.md", "a.py", "a.csv", "a.json", "a.yaml", "a.toml", "README", "a.unheard"]
)
def test_text_of_every_kind_is_read(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, name, b"a few words") == "a few words"


@pytest.fixture
def machine_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The mime.types file of a machine, read anew by `mimetypes.init()`."""
    file = tmp_path / "mime.types"
    monkeypatch.setattr(mimetypes, "knownfiles", [str(file)])
    yield file
    monkeypatch.undo()
    mimetypes.init()


def test_two_machines_read_the_same_documents(tmp_path: Path, machine_types: Path) -> None:
    def outcome(declared: str) -> str:
        machine_types.write_text(declared)
        mimetypes.init()
        try:
            return read(tmp_path, "query.sql", b"select 1")
        except DocumentError as error:
            return str(error)

    assert outcome("application/sql sql\n") == outcome("")


# --- PDF


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("attention_is_all_you_need.pdf", "The Transformer achieves better BLEU scores"),
        ("noisebridge_receipt.pdf", "Receipt number 2721"),
        ("saas_slide.pdf", "Monthly Recurring Revenue"),
    ],
)
def test_real_pdfs_are_read(shared_data: Path, name: str, words: str) -> None:
    text = read_document(listed(shared_data / "pdf" / name)).text
    assert words in text
    assert len(text.split()) > 20


def test_a_pdf_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    assert read(tmp_path, "page.pdf", make_pdf("A page of words")) == "A page of words"
    assert read(tmp_path, "page.txt", make_pdf("A page of words")) == "A page of words"
    assert read(tmp_path, "page", make_pdf("A page of words"), "application/octet-stream") == "A page of words"


def written(writer: pypdf.PdfWriter) -> bytes:
    stream = io.BytesIO()
    writer.write(stream)
    return stream.getvalue()


def test_a_pdf_of_images_only_has_no_text(tmp_path: Path) -> None:
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    assert "no text" in refusal(tmp_path, "scan.pdf", written(writer))


def test_an_encrypted_pdf_is_refused(tmp_path: Path) -> None:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(make_pdf("A page of words")))
    writer.encrypt("password", algorithm="RC4-128")
    assert "encrypted" in refusal(tmp_path, "locked.pdf", written(writer))


@pytest.mark.parametrize("data", [b"%PDF-", b"%PDF-1.4\ngarbage\n%%EOF", b"%PDF-1.7\n" + b"\x00\xff" * 500])
def test_a_broken_pdf_is_refused(tmp_path: Path, data: bytes) -> None:
    assert "PDF" in refusal(tmp_path, "broken.pdf", data)


def test_half_a_pdf_is_refused_or_read_but_never_a_crash(shared_data: Path, tmp_path: Path) -> None:
    data = (shared_data / "pdf" / "attention_is_all_you_need.pdf").read_bytes()
    assert "PDF cannot be read" in refusal(tmp_path, "half.pdf", data[: len(data) // 2])


def test_what_is_only_called_a_pdf_is_refused_for_what_it_is(tmp_path: Path) -> None:
    assert "no reader" not in refusal(tmp_path, "page.pdf", b"<p>Please log in</p>")


# --- what changes under the night's hands


def test_a_file_that_changed_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "page.txt"
    file.write_text("as listed")
    ref = listed(file)
    assert read_document(ref).text == "as listed"
    file.write_text("as it is")
    with pytest.raises(DocumentError, match="changed while the night ran"):
        read_document(ref)
    file.unlink()
    with pytest.raises(DocumentError, match="cannot be read"):
        read_document(ref)


@pytest.mark.parametrize(
    "after",
    [
        [{"_id": "0", "text": "a longer row before it"}, {"_id": "1", "text": "as listed"}],
        [{"_id": "1", "text": "as it is!"}],
        ["not JSON"],
        [],
    ],
)
def test_a_row_that_changed_since_it_was_listed_is_refused(tmp_path: Path, after: list[Any]) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"_id": "1", "text": "as listed"}])
    (ref,) = list_source(SourceSettings(name="rows.jsonl", jsonl=file)).documents
    assert read_document(ref).text == "as listed"
    write_jsonl(file, after)
    with pytest.raises(DocumentError, match="changed while the night ran"):
        read_document(ref)


def test_a_document_that_its_source_calls_unchanged_has_nothing_to_read() -> None:
    with pytest.raises(DocumentError, match="nothing to read"):
        read_document(DocumentRef("page.txt", "page.txt", "page.txt", None, None, 0))
