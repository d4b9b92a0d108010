"""What is live, for applications that read it with LlamaIndex: vector store, index, retriever.

Each query goes to the generation that the alias names at that moment, in the corpus's own way of retrieval, and is
embedded by the model that this generation was made with: what it finds is what `nightloom ask` shows.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from pydantic import PrivateAttr, SecretStr

from nightloom.corpus import Corpus, FilterValue
from nightloom.corpus_file import load_corpus
from nightloom.embedding import Embedder
from nightloom.engines import Access
from nightloom.errors import CorpusFileError, IndexInputError, IndexRefused, IndexUnavailable, InputError
from nightloom.filters import condition
from nightloom.fingerprint import fingerprint
from nightloom.generations import Generation
from nightloom.index import Index
from nightloom.live import embedder_of
from nightloom.milvus import Connection
from nightloom.retrieval import Question
from nightloom.rows import among, nodes_among
from nightloom.secrets import SecretPlace, from_environment

Result = TypeVar("Result")
_log = logging.getLogger(__name__)

CORPORA = Path("corpora")
"""Where the names of corpora lead, below the working folder."""
READ_ONLY = "a reader only reads: what the index holds is what the nights find in the sources"


@dataclass(frozen=True, slots=True)
class Live:
    """The generation that readers see, and what it is asked with.

    Attributes:
        corpus: The corpus file as it was when this generation was found to be live.
        embedder: The embedder that this generation was made with.
    """

    generation: Generation
    corpus: Corpus
    index: Index
    embedder: Embedder


class Reader:
    """What is live of one corpus. Close it, or use it in a `with` block.

    It may be used by threads and by event loops, several at a time. It opens Milvus at the first query, and keeps it
    open: of a Milvus Lite file, no other process can use it before `close`.

    Attributes:
        corpus: The corpus file as it was when the reader was made.
        vector_store: For LlamaIndex; it cannot be written to.
        embed_model: For LlamaIndex: embeds questions with what the live generation was made with.
    """

    def __init__(self, file: Path, *, token: Any = None, embedder_key: Any = None) -> None:
        """A reader of a corpus; nothing is opened yet.

        Args:
            file: The corpus file.
            token: The token of Milvus, as text or as a Prefect Secret block; None for that in NIGHTLOOM_MILVUS_TOKEN.
            embedder_key: The key of the embedder's endpoint, as text or as a block; None for that in
                NIGHTLOOM_EMBEDDER_KEY.

        Raises:
            CorpusFileError: The file is none, or names a block, which is opened by nights alone.
        """
        self._file = file
        self.corpus = load_corpus(file)
        self._access = Access()
        self._connection = Connection(self.corpus.milvus, _secret(token, self.corpus.milvus.secret, "token"))
        if self.corpus.embedder.is_remote:
            self._access = Access(_secret(embedder_key, self.corpus.embedder.secret, "embedder_key"))
        self._live: Live | None = None
        self._before = ""
        self._finding = asyncio.Lock()
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self.vector_store = LiveStore(self)
        self.embed_model = LiveEmbedding(self)

    def index(self) -> "LiveIndex":
        """The index as LlamaIndex knows it: `as_retriever`, `as_query_engine` and `as_chat_engine` follow promotions.

        They find as many nodes as `retrieval.top_k` of the corpus file says, unless `similarity_top_k` is given.
        """
        index: LiveIndex = LiveIndex.from_vector_store(self.vector_store, embed_model=self.embed_model)
        index.top_k = self.corpus.retrieval.top_k
        return index

    def retriever(
        self, top_k: int | None = None, filters: "Mapping[str, FilterValue] | MetadataFilters | None" = None
    ) -> BaseRetriever:
        """A retriever: `retrieve` and `aretrieve` give nodes with their scores, best first.

        Args:
            top_k: Nodes at most; default the corpus's.
            filters: Metadata that they must have, such as {"source": "handbook"}, or filters of LlamaIndex; over the
                corpus's own, key by key.
        """
        wanted = _as_filters(filters) if isinstance(filters, Mapping) else filters
        return self.index().as_retriever(similarity_top_k=top_k or self.corpus.retrieval.top_k, filters=wanted)

    def generation(self) -> str:
        """Name of the collection that is live now: the alias is resolved."""
        return self.run(self._find()).generation.name

    def close(self) -> None:
        """Close Milvus; a Milvus Lite file is then free for another process."""
        with self._starting:
            self._is_closed, loop, self._loop = True, self._loop, None
        if loop:
            asyncio.run_coroutine_threadsafe(self._connection.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Wait in this thread for what the reader's own loop does."""
        return asyncio.run_coroutine_threadsafe(work, self._started(work)).result()

    async def arun(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Wait for it in the running loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._started(work)))

    def _started(self, work: Coroutine[Any, Any, object]) -> asyncio.AbstractEventLoop:
        """The loop that all clients belong to: those of Milvus and of endpoints work in one loop only."""
        with self._starting:
            if self._is_closed:
                work.close()
                raise InputError(f"the reader of {self.corpus.name!r} is closed; make another one")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(self._loop,), name="nightloom-reader", daemon=True).start()
            return self._loop

    async def embed(self, text: str, *, is_query: bool) -> list[float]:
        """Embed a text as the live generation was."""
        embedder = (await self._find()).embedder
        (vector,) = await (embedder.embed_queries([text]) if is_query else embedder.embed_texts([text]))
        found: list[float] = vector.tolist()
        return found

    async def answer(self, query: VectorStoreQuery) -> VectorStoreQueryResult:
        """The nodes that answer a query of LlamaIndex's best, best first.

        Raises:
            InputError: It asks for what a corpus file decides, or with filters that are not known here.
            IndexInputError: Milvus cannot be reached, nothing is live, or the model is not to be had.
        """
        if query.mode not in {VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.HYBRID}:
            raise InputError(f"mode {query.mode.value!r}: how it is searched is said by retrieval.mode of {self._file}")
        text = query.query_str or ""
        if not text and query.query_embedding is None:
            raise InputError("the question is empty")
        try:
            found = await self._search(await self._find(), text, query)
        except (IndexUnavailable, IndexRefused):
            # It was released, or dropped after another one was promoted, between two requests.
            found = await self._search(await self._find(again=True), text, query)
        nodes, scores = [node for node, _ in found], [score for _, score in found]
        return VectorStoreQueryResult(nodes=nodes, similarities=scores, ids=[node.node_id for node in nodes])

    async def _search(self, live: Live, text: str, query: VectorStoreQuery) -> list[tuple[Any, float]]:
        given = query.query_embedding
        if given is None:
            (vector,) = await live.embedder.embed_queries([text])
        else:
            vector = np.asarray(given, dtype=np.float32)
        wanted = _condition(query, live.corpus)
        return await live.index.contents.find(
            live.generation.name, Question(text, vector), query.similarity_top_k, wanted
        )

    async def _find(self, *, again: bool = False) -> Live:
        """What is live now: one request where it is what it was at the last query."""
        async with self._finding:
            if self._live and not again:
                try:
                    if await self._live.index.is_live(self._live.generation.name):
                        return self._live
                except (IndexUnavailable, IndexRefused):
                    pass  # it may have been dropped
            if self._live is None and not self._connection.is_absent:
                await self._connection.call(self._connection.open)
            generation = await Index(self._connection, self.corpus.name).live()
            if generation is None:
                raise IndexInputError(
                    f"{self.corpus.milvus.place}: no index named {self.corpus.name!r} yet; build it with"
                    f" `nightloom run {self._file}`"
                )
            self._live = await self._taken_up(generation, again=again)
            return self._live

    async def _taken_up(self, generation: Generation, *, again: bool) -> Live:
        """Another generation: it may have been made with another model, and for another way of retrieval."""
        name = generation.name
        if again:
            self._connection.forget(name)
        corpus = await asyncio.to_thread(self._corpus_now)
        embedder = await asyncio.to_thread(self._embedder_of, corpus, generation)
        index = Index(self._connection, self.corpus.name, corpus.retrieval)
        self._connection.search_given = corpus.index.search
        metric = await self._connection.call(lambda: self._connection.metric(name))
        self._connection.settings = self._connection.settings.model_copy(update={"metric": metric})
        await self._connection.load(name)
        if self._live and self._live.generation.name != name:
            # The one before may still be asked by who came a moment ago; the one before that is not.
            self._connection.forget(self._before)
            self._before = self._live.generation.name
        return Live(generation, corpus, index, embedder)

    def _corpus_now(self) -> Corpus:
        """As the file says now, which the night that promoted has read; as it said, where somebody is changing it."""
        try:
            return load_corpus(self._file)
        except CorpusFileError as error:
            _log.warning("the corpus file is wrong now, and is read as it was: %s", error)
            return self._live.corpus if self._live else self.corpus

    def _embedder_of(self, corpus: Corpus, live: Generation) -> Embedder:
        embedder = embedder_of(corpus, live, self._access)
        if fingerprint(corpus, embedder) == live.fingerprint:
            return embedder
        made_with = embedder.other(live.embedder)
        if made_with is None:
            raise IndexInputError(
                f"{live.name} was made with another model than {self._file} names, which cannot be had here, and its"
                " vectors cannot be compared with a question's; run `nightloom run`, or put the corpus file back"
            )
        _log.warning("%s says otherwise than when %s was made, which is asked as it was made", self._file, live.name)
        return made_with


class LiveIndex(VectorStoreIndex):  # type: ignore[misc]  # LlamaIndex carries no types
    """LlamaIndex's index over a vector store, but for how many nodes it finds by default.

    Attributes:
        top_k: So many.
    """

    top_k: int | None = None

    def as_retriever(self, **kwargs: Any) -> BaseRetriever:
        """As in LlamaIndex, whose query and chat engines ask for it, too."""
        given = {"similarity_top_k": self.top_k, **kwargs} if self.top_k else kwargs
        return super().as_retriever(**given)


class LiveStore(BasePydanticVectorStore):  # type: ignore[misc]  # LlamaIndex carries no types
    """The generation that is live at each query, as a vector store of LlamaIndex."""

    stores_text: bool = True
    is_embedding_query: bool = True
    _reader: Reader = PrivateAttr()

    def __init__(self, reader: Reader) -> None:
        """That of a reader."""
        super().__init__(stores_text=True)
        self._reader = reader

    @classmethod
    def class_name(cls) -> str:
        """As LlamaIndex names classes."""
        return "NightloomLiveStore"

    @property
    def client(self) -> Any:
        """The reader."""
        return self._reader

    def query(self, query: VectorStoreQuery, **_: Any) -> VectorStoreQueryResult:
        """The nodes that answer best."""
        return self._reader.run(self._reader.answer(query))

    async def aquery(self, query: VectorStoreQuery, **_: Any) -> VectorStoreQueryResult:
        """The same, awaited."""
        return await self._reader.arun(self._reader.answer(query))

    def add(self, nodes: Sequence[Any], **_: Any) -> list[str]:
        """Refuse."""
        raise InputError(f"{len(nodes)} nodes are not added: {READ_ONLY}")

    def delete(self, ref_doc_id: str, **_: Any) -> None:
        """Refuse."""
        raise InputError(f"{ref_doc_id} is not deleted: {READ_ONLY}")


class LiveEmbedding(BaseEmbedding):  # type: ignore[misc]  # LlamaIndex carries no types
    """The model that the live generation was made with, as an embedding model of LlamaIndex."""

    _reader: Reader = PrivateAttr()

    def __init__(self, reader: Reader) -> None:
        """That of a reader."""
        super().__init__(model_name=reader.corpus.embedder.model)
        self._reader = reader

    @classmethod
    def class_name(cls) -> str:
        """As LlamaIndex names classes."""
        return "NightloomLiveEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._reader.run(self._reader.embed(query, is_query=True))

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await self._reader.arun(self._reader.embed(query, is_query=True))

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._reader.run(self._reader.embed(text, is_query=False))

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await self._reader.arun(self._reader.embed(text, is_query=False))


def file_of(corpus: str | Path) -> Path:
    """The corpus file that is meant: by its path, or by its name in corpora/ of the working folder.

    Raises:
        CorpusFileError: There is none.
    """
    given = Path(corpus)
    file = given if given.suffix == ".toml" or len(given.parts) != 1 else CORPORA / f"{given}.toml"
    if file.is_file():
        return file.resolve()
    names = ", ".join(sorted(one.stem for one in CORPORA.glob("*.toml"))) or "none"
    raise CorpusFileError(
        f"{corpus}: there is no file {file} below {Path.cwd()}; give the path of a corpus file, or the name of one in"
        f" {CORPORA}/, where there are: {names}"
    )


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _secret(given: Any, place: SecretPlace, argument: str) -> SecretStr | None:
    """A secret as it is given: text, pydantic's, or a block of Prefect's, whose `get` gives either."""
    value = given.get() if hasattr(given, "get") else given
    if value is not None:
        return value if isinstance(value, SecretStr) else SecretStr(str(value))
    found = from_environment(place)
    if found is None and place.block:
        raise CorpusFileError(
            f"{place.key}: a reader opens no Prefect block; set {place.variables[0]}, or give the block itself:"
            f' reader(..., {argument}=Secret.load("{place.block}"))'
        )
    return found


def _as_filters(filters: Mapping[str, FilterValue]) -> MetadataFilters:
    """Values as text, which stands for the number or the boolean that it reads as, too."""

    def text(value: object) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    return MetadataFilters(
        filters=[
            MetadataFilter(key=key, value=[text(one) for one in value], operator=FilterOperator.IN)
            if isinstance(value, tuple | list)
            else MetadataFilter(key=key, value=text(value))
            for key, value in filters.items()
        ]
    )


def _condition(query: VectorStoreQuery, corpus: Corpus) -> str:
    """What nodes must meet, as an expression of Milvus: the corpus's filter, but for keys that the query has its own
    for."""
    given = query.filters or MetadataFilters(filters=[])
    own = {key: value for key, value in corpus.retrieval.filter.items() if key not in _keys(given)}
    parts = [condition(own, corpus.sources), _expression(given, corpus)]
    if query.doc_ids:
        parts.append(among(query.doc_ids))
    if query.node_ids:
        parts.append(nodes_among(query.node_ids))
    return " and ".join(part for part in parts if part)


def _keys(filters: MetadataFilters) -> set[str]:
    found: set[str] = set()
    for one in filters.filters:
        found |= _keys(one) if isinstance(one, MetadataFilters) else {one.key}
    return found


def _expression(filters: MetadataFilters, corpus: Corpus) -> str:
    """What LlamaIndex's own expressions say, with their texts escaped.

    Raises:
        InputError: There is an operator in them that is not known here.
    """
    sign = {FilterCondition.AND: " and ", FilterCondition.OR: " or "}.get(filters.condition or FilterCondition.AND)
    if sign is None:
        raise InputError(f"filters with {filters.condition!r} are not known here; there are and, or")
    parts = [_part(one, corpus) for one in filters.filters]
    return f"({sign.join(parts)})" if parts else ""


def _part(one: MetadataFilter | MetadataFilters, corpus: Corpus) -> str:
    if isinstance(one, MetadataFilters):
        return _expression(one, corpus)
    if one.value is None or one.operator not in {FilterOperator.EQ, FilterOperator.IN}:
        raise InputError(f"filter {one.key!r}: {one.operator.value!r} is not known here; there are == and in")
    return condition({one.key: tuple(one.value) if isinstance(one.value, list) else one.value}, corpus.sources)
