"""What each step of a night does: sources, documents, nodes, embeddings, index, evaluation. Knows no Prefect.

Only its parts `nightloom.flows` and `nightloom.tasks` know Prefect; in the repository these are links to flows/ and
tasks/. Applications need `reader` alone.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from nightloom.live_reader import Reader

__all__ = ["reader"]


def reader(corpus: "str | Path", *, token: Any = None, embedder_key: Any = None) -> "Reader":
    """What is live of a corpus, for LlamaIndex: vector store, index and retriever that follow every promotion.

    Args:
        corpus: A corpus file, or the name of one: "company" is corpora/company.toml below the working folder.
        token: The token of Milvus, as text or as a Prefect Secret block; default is that in NIGHTLOOM_MILVUS_TOKEN.
        embedder_key: The key of an embedder's endpoint, as text or as a block; default is that in
            NIGHTLOOM_EMBEDDER_KEY.

    Raises:
        CorpusFileError: There is no such file, or a key in it is wrong.
    """
    from nightloom.live_reader import Reader, file_of  # noqa: PLC0415  LlamaIndex takes seconds to import

    return Reader(file_of(corpus), token=token, embedder_key=embedder_key)
