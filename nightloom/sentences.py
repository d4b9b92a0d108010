"""Sentences: where LlamaIndex cuts a text, which is where NLTK's Punkt does."""

import copy
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NOT_NEEDED = frozenset({"scipy", "sklearn"})
"""NLTK takes them along where they are installed, for functions that nobody calls here: 3 s and 80 MB of a night."""
MOST_ENDS = 20_000
"""Of sentences, that are remembered: the words on both sides of a full stop, which takes 3 MB."""
LONGEST_END = 60
"""Characters of one that is: without spaces it can be a whole text."""


class Refusing(MetaPathFinder):
    """Has one thread find none of the packages that are not needed; others find them as ever."""

    def __init__(self) -> None:
        """The thread that asks for it is the one."""
        self._thread = threading.get_ident()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Find nothing, or refuse: see `importlib.abc`."""
        if fullname.partition(".")[0] in NOT_NEEDED and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is not imported for NLTK", name=fullname)
        return None


@contextmanager
def finding_with(finder: MetaPathFinder) -> Iterator[None]:
    """Ask one finder before all others, inside the block."""
    # New lists: a thread that imports meanwhile goes through the old one, and would pass over what moves in it.
    sys.meta_path = [finder, *sys.meta_path]
    try:
        yield
    finally:
        sys.meta_path = [one for one in sys.meta_path if one is not finder]


def sentence_splitter() -> Callable[[str], list[str]]:
    """LlamaIndex's own cut into sentences; joined, they are the text.

    It takes two seconds the first time, for LlamaIndex's imports.
    """
    with finding_with(Refusing()):
        importlib.import_module("nltk.data")  # before LlamaIndex does

    from llama_index.core.node_parser.text.utils import split_by_sentence_tokenizer_internal  # noqa: PLC0415
    from llama_index.core.utils import globals_helper  # noqa: PLC0415

    punkt: Any = copy.copy(globals_helper.punkt_tokenizer)  # the original is for whoever else is in this process
    punkt.text_contains_sentbreak = remembering(punkt.text_contains_sentbreak)
    return partial(split_by_sentence_tokenizer_internal, tokenizer=punkt)


def remembering(is_end: Callable[[str], bool]) -> Callable[[str], bool]:
    """What decides whether a sentence ends within some words, and is asked only once about the same ones.

    That is most of the work of cutting, and they come again: four of five in the abstracts of Cranfield.
    """
    remembered = lru_cache(MOST_ENDS)(is_end)

    def decide(words: str) -> bool:
        return remembered(words) if len(words) <= LONGEST_END else is_end(words)

    return decide
