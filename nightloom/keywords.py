"""Keywords: the words of a text as BM25 compares them, lower-case, stemmed and without stop words."""

import re
from functools import cached_property
from importlib.metadata import version
from typing import Any

from nightloom.errors import CorpusFileError
from nightloom.splitting import Node

KEYWORDS_VERSION = 1
"""Part of the fingerprint of a hybrid corpus: raise it whenever the keywords of the same text change."""

NO_LANGUAGE = "none"
MAX_KEYWORDS_BYTES = 65_535
"""What a text field of Milvus holds."""
MAX_WORD_BYTES = 100
"""A longer word is a hash or encoded data, and nobody asks for it."""

UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
"""Runs of letters that are written without spaces: Han, Hiragana, Katakana."""


class Keywords:
    """Makes keywords of nodes and of questions, the same way.

    Milvus splits them at the spaces and does nothing more: every kind of Milvus then has the same ones, whatever its
    own analyzers know.
    """

    def __init__(self, language: str) -> None:
        """Keywords of a language.

        Args:
            language: Its English name, lower-case; "none" to keep every word as it is written.

        Raises:
            CorpusFileError: There are no stop words and no stemmer for it.
        """
        self.language = language
        self._analyzer = _analyzer(language)

    @cached_property
    def identity(self) -> list[str | int]:
        """What the keywords of a text depend on: part of the fingerprint."""
        return [KEYWORDS_VERSION, self.language, version("tantivy")]

    def of_node(self, node: Node) -> str:
        """Keywords of a node with a space between: its document's title, the headings above it, and its text."""
        return self.of_text(" ".join((node.document.title, *node.place.headings, node.text)))

    def of_text(self, text: str) -> str:
        """Keywords of any text with a space between, in its order; "" where it has none.

        Returns:
            At most `MAX_KEYWORDS_BYTES` bytes in UTF-8; what is beyond is left out.
        """
        words = " ".join(self._analyzer.analyze(UNSPACED.sub(_pairs, text))).encode()
        if len(words) > MAX_KEYWORDS_BYTES:
            words = words[: MAX_KEYWORDS_BYTES + 1].rpartition(b" ")[0]
        return words.decode()


def _analyzer(language: str) -> Any:
    from tantivy import Filter, TextAnalyzerBuilder, Tokenizer  # noqa: PLC0415  only hybrid retrieval needs it

    builder = TextAnalyzerBuilder(Tokenizer.simple()).filter(Filter.remove_long(MAX_WORD_BYTES))
    builder = builder.filter(Filter.lowercase())
    if language != NO_LANGUAGE:
        try:
            builder = builder.filter(Filter.stopword(language)).filter(Filter.stemmer(language))
        except ValueError:
            raise CorpusFileError(
                f"retrieval.language: {language!r} has no stop words or no stemmer; give the English name of a"
                f' language, such as "english" or "german", or "{NO_LANGUAGE}"'
            ) from None
    return builder.filter(Filter.ascii_fold()).build()


def _pairs(run: re.Match[str]) -> str:
    """Letters two by two, each with the next: what stands for words where no spaces do."""
    letters = run[0]
    return f" {' '.join(letters[at : at + 2] for at in range(max(1, len(letters) - 1)))} "
