"""Keywords: the same of a text and of a question about it, within what Milvus holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightloom.documents import Document, DocumentRef, Place
from nightloom.errors import CorpusFileError
from nightloom.keywords import MAX_KEYWORDS_BYTES, Keywords
from nightloom.splitting import Node

ENGLISH = Keywords("english")


@pytest.mark.parametrize(
    ("language", "text", "keywords"),
    [
        ("english", "The flights of the wings were tested.", "flight wing were test"),
        ("english", "part XK-4711_b, Café", "part xk 4711 b cafe"),
        ("none", "The flights of the wings", "the flights of the wings"),
        ("german", "Die Häuser und das Haus", "haus haus"),
        ("english", "the 機械学習 of", "機械 械学 学習"),
        ("english", "of the", ""),
        ("english", f"a {'x' * 101} hash", "hash"),
    ],
)
def test_words_are_stemmed_and_stop_words_left_out(language: str, text: str, keywords: str) -> None:
    assert Keywords(language).of_text(text) == keywords


def test_a_node_has_the_title_of_its_document_and_the_headings_above_it() -> None:
    ref = DocumentRef("a", "a", "s", "", None, 0)
    document = Document(ref, "Wings", "Lift is a force.")
    node = Node("0-0", document, "0", 0, 1, "Lift is a force.", Place(0, ("Forces", "Lifting")))
    assert ENGLISH.of_node(node) == "wing forc lift lift forc"


@given(st.text(max_size=50), st.integers(1, 4000))
def test_keywords_fit_into_a_field_whatever_the_text(text: str, times: int) -> None:
    found = ENGLISH.of_text(" ".join([text] * times))
    assert len(found.encode()) <= MAX_KEYWORDS_BYTES
    assert set(found.split()) <= set(ENGLISH.of_text(text).split())


@pytest.mark.parametrize("language", ["klingon", "", "xx"])
def test_a_language_without_a_stemmer_is_refused_by_name(language: str) -> None:
    with pytest.raises(CorpusFileError, match=r"retrieval.language.*english.*none"):
        Keywords(language)
