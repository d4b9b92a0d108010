"""How texts are measured: a model's own tokenizer, or an encoding of OpenAI's."""

import importlib.util
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from nightloom.errors import EmbedderError
from nightloom.extras import lacking
from nightloom.vectors import Tokens

SPACES = " \t\n\r"
"""White space to every tokenizer; what else Python strips may be nothing at all to it."""
MOST_WORDS = 20_000
"""Whose tokens are kept, which takes 5 MB."""
LONGEST_WORD = 30
"""Characters of a word that is kept: longer ones are addresses, or text without spaces, and seldom come again."""

_WORDS = re.compile(f"[^{SPACES}]+")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Measures texts.

    Attributes:
        tokens: The tokens of a text, special ones included: as many as there are, read by the model or not.
        keeps_words: Whether a word has its tokens whatever stands beside it, and each text one special token at each
            end: BERT's, which most models for sentences have.
    """

    tokens: Callable[[str], Tokens]
    keeps_words: bool = False

    def joined(self, parts: Sequence[Tokens]) -> Tokens | None:
        """The tokens of texts that stand behind each other with white space between them.

        Args:
            parts: The tokens of each, one text at least.

        Returns:
            None where they do not follow from those of the parts.
        """
        if not self.keeps_words:
            return None
        return np.concatenate((parts[0][:1], *(part[1:-1] for part in parts), parts[0][-1:]))


class Words:
    """A tokenizer that keeps words, and remembers their tokens: looking a word up takes a quarter of making them."""

    def __init__(self, tokenizer: Any) -> None:
        """For a tokenizer of the package tokenizers, one that `_keeps_words`."""
        self._tokenizer = tokenizer
        self._first, self._last = tokenizer.encode("").ids
        self._known: dict[str, tuple[int, ...]] = {}

    def tokens(self, text: str) -> Tokens:
        """The tokens of a text, special ones included."""
        words = _WORDS.findall(text)
        if max(map(len, words), default=0) > LONGEST_WORD:
            return _tokens(self._tokenizer, text)
        known = self._known
        new = set(words).difference(known)
        if len(known) + len(new) > MOST_WORDS:
            known = self._known = {}  # a new one: another thread may be reading the other
            new = set(words)
        if new:
            known.update(self._made(new))
        found = chain.from_iterable(map(known.__getitem__, words))
        return np.array((self._first, *found, self._last), dtype=np.int64)

    def _made(self, words: Collection[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Words and their tokens, which are none for one that the tokenizer leaves out."""
        made = self._tokenizer.encode(" ".join(words), add_special_tokens=False)
        ids, starts = made.ids, [start for start, _ in made.offsets]
        first = ends = 0
        for word in words:
            ends += len(word) + 1
            after = bisect_left(starts, ends, first)
            yield word, tuple(ids[first:after])
            first = after


ENCODINGS = ("cl100k_base", "o200k_base")
"""Of OpenAI's models, by name; their files come with LlamaIndex."""


def tokenizer_in(folder: Path, name: str) -> Tokenizer:
    """The tokenizer among the files of a model.

    Raises:
        EmbedderError: It has none that is fast; the text names the model.
    """
    import tokenizers  # noqa: PLC0415  a night without work needs no tokenizer

    file = folder / "tokenizer.json"
    tokenizer: Any
    if file.exists():
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    else:
        if missing := lacking("local"):
            raise EmbedderError(f"{name}: has no tokenizer.json, and to make one {missing}")
        from transformers import AutoTokenizer  # noqa: PLC0415  seconds to import, and few models need it

        tokenizer = getattr(AutoTokenizer.from_pretrained(str(folder)), "backend_tokenizer", None)
        if tokenizer is None:
            raise EmbedderError(f"{name}: has no fast tokenizer; nodes cannot be measured with it")
    tokenizer.no_truncation()
    tokenizer.no_padding()

    if _keeps_words(tokenizer):
        return Tokenizer(Words(tokenizer).tokens, keeps_words=True)
    return Tokenizer(partial(_tokens, tokenizer))


def _tokens(tokenizer: Any, text: str) -> Tokens:
    return np.array(tokenizer.encode(text).ids, dtype=np.int64)


def _keeps_words(tokenizer: Any) -> bool:
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.model)
    is_of_bert = [type(part).__name__ for part in parts] == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]
    added = tokenizer.get_added_tokens_decoder().values()
    takes_spaces = any(one.lstrip or one.rstrip or _WORDS.findall(one.content) != [one.content] for one in added)
    return is_of_bert and not takes_spaces and tokenizer.encode("a").special_tokens_mask == [1, 0, 1]


def tokenizer_of_encoding(name: str) -> Tokenizer:
    """One of `ENCODINGS`; what looks like a special token in a text is text."""
    import tiktoken  # noqa: PLC0415  few need it

    package = importlib.util.find_spec("llama_index.core")
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "_static" / "tiktoken_cache"
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))  # else it is fetched from the network
    encoding = tiktoken.get_encoding(name)
    return Tokenizer(lambda text: np.array(encoding.encode(text, disallowed_special=()), dtype=np.int64))
