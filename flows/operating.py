"""What the flows for an operator work on, and what is told where one of them fails."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from nightloom.corpus import Corpus
from nightloom.corpus_file import corpus_name
from nightloom.errors import NightloomError
from nightloom.operate import NOT_ASKED, readers_of
from nightloom.tasks.own_corpus import load_own_corpus
from nightloom.tasks.secrets import find_secret


@asynccontextmanager
async def operating(
    corpus_file: Path | None, sections: Mapping[str, Any] | None = None
) -> AsyncIterator[tuple[Corpus, SecretStr | None]]:
    """Load the corpus of a flow run, and the token of its Milvus.

    An error that ends the run is given the name of the corpus and what readers see now: somebody is called with it.

    Args:
        corpus_file: As for `load_corpus`.
        sections: As for `load_corpus`.
    """
    try:
        corpus = await load_own_corpus(corpus_file, sections)
        token = await find_secret(corpus.milvus.secret)
    except NightloomError as error:
        error.corpus, error.readers = corpus_name(corpus_file), NOT_ASKED
        raise
    try:
        yield corpus, token
    except NightloomError as error:
        error.corpus, error.readers = corpus.name, await readers_of(corpus, token)
        raise
