"""What the generations of an index hold: rows written, copied, deleted, checked, searched."""

import asyncio
import json
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from nightloom.audit import NAMED_DOCUMENTS, Audit, audit, count_expected, named, read_heads
from nightloom.batches import Batch, Row, in_requests, wanted
from nightloom.corpus import IndexSettings
from nightloom.errors import IndexInconsistent, IndexTaken, IndexUnavailable
from nightloom.generations import HELD, NONCE, WHOLE, WRITER
from nightloom.heads import Head, rows_of, versions_of
from nightloom.keywords import Keywords
from nightloom.milvus import Connection, Snapshot
from nightloom.reranking import Reranker
from nightloom.retrieval import Question, Ranking
from nightloom.rows import (
    ALL_ROWS,
    HEAD_FIELDS,
    HEADS,
    NODE_FIELDS,
    NOT_HEADS,
    REQUEST_BYTES,
    Hit,
    among,
    beyond,
    head_of,
    hit_of,
    node_of,
    nodes_among,
    parts,
    row_of,
)
from nightloom.splitting import Node
from nightloom.vector_index import ExactAnswers, fitting
from nightloom.vectors import Vectors

WRITES_IN_FLIGHT = 3
LEAST_ROWS = 250
"""Of one write, where there are more: each asks for the claim, and costs a request."""
FRESH_READS = 5
"""Times that properties are written and read back until they are those that were written."""
SEALED_ROWS = 5_000
"""From so many on, a server's searches gain from sealed rows; on Milvus Lite, from one."""


class Sealed(NamedTuple):
    """What a generation is once its rows are sealed.

    Attributes:
        rows: As count(*) gives them, physical duplicates included; reads after it see every write before it.
        warning: Of an index over the vectors that does not fit the rows and stays; "" where it fits.
    """

    rows: int
    warning: str = ""


class Contents:
    """The rows of every generation.

    Methods name the physical collection, never the alias. Every write is an upsert or a delete by document, and may be
    made again. Only the writer that a collection names may write to it: whoever claims it later wins, and the one
    before stops at its next write.
    """

    def __init__(
        self, connection: Connection, keywords: Keywords | None = None, reranker: Reranker | None = None
    ) -> None:
        """The rows of an open Milvus, for a writer of its own.

        Args:
            connection: To Milvus.
            keywords: For hybrid retrieval: what makes the keywords of nodes and of questions.
            reranker: What orders the best nodes of a question anew.
        """
        self.connection = connection
        self.keywords = keywords
        self.reranker = reranker
        self.writer = uuid4().hex
        self._refreshing = threading.Lock()

    @property
    def _writers_count(self) -> int:
        return WRITES_IN_FLIGHT if self.connection.capabilities.takes_concurrent_writers else 1

    @cached_property
    def _writers(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(self._writers_count)

    async def claim(self, collection: str) -> None:
        """Be the one who writes; a night that wrote before stops, and what it found to be whole is so no more."""
        claimed = {WRITER: self.writer, WHOLE: "", HELD: ""}
        await self.connection.call(lambda: self.connection.set_properties(collection, claimed))

    async def check_claim(self, collection: str) -> None:
        """Check that nobody has claimed the collection since.

        Raises:
            IndexTaken: Another night has.
        """
        await self.connection.call(lambda: self._check_claim(collection, now=True))

    def _check_claim(self, collection: str, *, now: bool = False) -> None:
        """Check it in this thread.

        Args:
            collection: Physical name.
            now: Whether it must be as it is at this moment, where Milvus may answer as it was a moment ago: right
                before what commits.
        """
        asks = now and self.connection.capabilities.describes_from_cache
        kept = self._fresh_properties(collection) if asks else self.connection.properties(collection)
        if kept.get(WRITER) != self.writer:
            raise IndexTaken(f"another night has taken up {collection}, and goes on with it; this one stops writing")

    def _fresh_properties(self, collection: str) -> Mapping[str, str]:
        """What is kept with a collection, and no older answer from a cache: it holds what was just written."""
        for _ in range(FRESH_READS):
            with self._refreshing:  # other shards of this night would read back each other's
                nonce = uuid4().hex
                self.connection.set_properties(collection, {NONCE: nonce})
                found = self.connection.properties(collection)
            if found.get(NONCE) == nonce:
                return found
        raise IndexUnavailable(
            f"the properties of {collection} were read back {FRESH_READS} times as they were before; is another night"
            " writing to it?"
        )

    async def dim(self, collection: str) -> int:
        """Dimensions of a generation's embeddings."""

        def dim() -> int:
            fields = self.connection.client.describe_collection(collection)["fields"]
            return next(int(field["params"]["dim"]) for field in fields if field["name"] == "embedding")

        return await self.connection.call(dim)

    async def read(self, collection: str, *, by: int = 0, finished: int = 0) -> tuple[int, Mapping[str, Head]]:
        """Rows, physical duplicates included, and the head of every indexed document by document id.

        Args:
            collection: Physical name.
            by: As `Connection.count`.
            finished: Of the generation, where no night has claimed it since: its heads are then read while the rows
                are waited for, and again where these show that somebody else has written meanwhile.
        """
        await self.connection.load(collection)

        def heads_of(rows: int) -> Mapping[str, Head]:
            return read_heads(self.connection, collection, rows)

        def heads_ahead() -> Mapping[str, Head]:
            return heads_of(self.connection.count_now(collection, by=finished))  # which waits for no tick

        counting = self.connection.count(collection, by=by)
        if finished:
            rows, heads = await asyncio.gather(counting, self.connection.call(heads_ahead))
            if rows == rows_of(heads):
                return rows, heads
        else:
            rows = await counting
        return rows, await self.connection.call(lambda: heads_of(rows))

    async def heads(self, collection: str, documents: Collection[str]) -> dict[str, Head]:
        """The heads of some documents, by document id; of those that are there."""
        return {
            head.document: head
            for head in map(
                head_of,
                await self._rows(
                    collection, [f"{HEADS} and {among(part)}" for part in parts(sorted(documents))], HEAD_FIELDS
                ),
            )
        }

    async def nodes(self, collection: str, keys: Collection[str]) -> dict[str, Row]:
        """Some nodes by primary key, with document_id, text and embedding; of those that are there."""
        conditions = [nodes_among(part) for part in parts(sorted(keys))]
        rows = await self._rows(collection, conditions, ("document_id", "text", "embedding"))
        return {row["id"]: row for row in rows}

    async def texts(self, collection: str, documents: Collection[str]) -> dict[str, str]:
        """The texts of all nodes of some documents, joined in their order, by document id."""
        conditions = [among(part) for part in parts(sorted(documents))]
        found: dict[str, dict[int, str]] = {}
        for row in await self._rows(collection, conditions, ("document_id", "position", "text")):
            found.setdefault(row["document_id"], {})[row["position"]] = row["text"]
        return {key: " ".join(texts[at] for at in sorted(texts)) for key, texts in found.items()}

    async def _passages(self, collection: str, keys: Collection[str]) -> dict[str, str]:
        """The texts of nodes by primary key: no answer is too large, as with the texts of all that a search finds."""
        conditions = [f"id in {json.dumps(part, ensure_ascii=False)}" for part in parts(sorted(keys))]
        return {row["id"]: row["text"] for row in await self._rows(collection, conditions, ("text",))}

    async def _rows(self, collection: str, conditions: Sequence[str], fields: Sequence[str]) -> list[Row]:
        """Rows that meet one of the conditions, all of one snapshot, as the last strong read left them."""

        def read() -> list[Row]:
            snapshot = Snapshot()
            return [
                row
                for condition in conditions
                for batch in self.connection.scan(collection, condition, fields, snapshot=snapshot)
                for row in batch
            ]

        await self.connection.load(collection)
        return await self.connection.call(read)

    async def audit(self, collection: str) -> Audit:
        """Look at every row."""
        await self.connection.load(collection)
        return await self.connection.call(lambda: audit(self.connection, collection))

    async def verify(
        self,
        collection: str,
        expected: Mapping[str, str],
        rows: int | None = None,
        *,
        every_row: bool = False,
        uri_of: Callable[[str], str] = str,
    ) -> int:
        """Check that a generation holds these documents in these versions, each with all its rows, and nothing else.

        Args:
            collection: Physical name.
            expected: Version by document id.
            rows: As `seal` has just counted them; None to count them here.
            every_row: Look at every row, where somebody else may have written too; else at the heads and count(*).
            uri_of: The URI of an expected document by its id, for those whose heads are lost; else ids are named.

        Returns:
            Rows.

        Raises:
            IndexInconsistent: Names the documents.
        """
        rows = await self.connection.count(collection) if rows is None else rows
        total = await self.connection.call(lambda: count_expected(self.connection, collection, expected))
        if rows == total and not every_row:
            return rows
        found = await self.audit(collection)
        if rows == total and not found.findings:
            return rows
        _, heads = await self.read(collection)
        versions = versions_of(heads)
        other = sorted(key for key in {*versions, *expected} if versions.get(key) != expected.get(key))
        wrong = [key for key in other if key not in found.damaged][:NAMED_DOCUMENTS]
        names = [heads[key].uri if key in heads else uri_of(key) for key in wrong]
        says = [named(found.findings, uri_of)] if found.findings else []
        says += [f"not of tonight's version: {', '.join(names)}"] if names else []
        raise IndexInconsistent(
            f"{collection} holds {rows} rows where {rows_of(heads)} are expected; wrong documents:"
            f" {'; '.join(says) or 'none that a scan can name'}; run again to mend them"
        )

    async def upsert(
        self, collection: str, nodes: Sequence[Node], vectors: Vectors, trim: Mapping[str, int] | None = None
    ) -> int:
        """Write the nodes of whole documents, heads last; writing them again changes nothing.

        Args:
            collection: Physical name.
            nodes: n nodes; every node of each of their documents is among them.
            vectors: float32, shape (n, dim), in the order of the nodes.
            trim: New total by document id, for documents that had more nodes: the rest is deleted before the heads.

        Returns:
            Rows acknowledged, always n.

        Raises:
            IndexTaken: Another night has claimed the collection.
        """
        pairs = list(zip(nodes, vectors, strict=True))
        await self._add(collection, [pair for pair in pairs if pair[0].position])
        if trim:
            await self._delete(collection, [beyond(dict(part)) for part in parts(list(trim.items()))])
        await self.check_claim(collection)
        await self._add(collection, [pair for pair in pairs if not pair[0].position])
        return len(pairs)

    async def _add(self, collection: str, pairs: Sequence[tuple[Node, Vectors]]) -> None:
        """Write rows, as many at once as may be in flight: while Milvus takes some, others are made.

        Raises:
            IndexTaken: Another night has claimed the collection.
        """
        if not pairs:
            return
        keywords = await self._keywords(collection)

        def write(some: Sequence[tuple[Node, Vectors]]) -> None:
            rows = [row_of(node, vector, keywords) for node, vector in some]
            self._check_claim(collection)
            self.connection.upsert_now(collection, rows)

        async def send(some: Sequence[tuple[Node, Vectors]]) -> None:
            async with self._writers:
                await self.connection.call(lambda: write(some))

        size = max(LEAST_ROWS, -(-len(pairs) // self._writers_count))
        sent = [send(pairs[at : at + size]) for at in range(0, len(pairs), size)]
        # Each has ended before an error is raised: what is deleted for it would else be written once more.
        for error in await asyncio.gather(*sent, return_exceptions=True):
            if error is not None:
                raise error

    async def _keywords(self, collection: str) -> Keywords | None:
        """What makes keywords for a generation; None where it holds none, or the corpus wants none."""
        return self.keywords if self.keywords and await self.connection.is_hybrid(collection) else None

    async def delete_documents(self, collection: str, documents: Collection[str]) -> None:
        """Delete every row of documents.

        Raises:
            IndexTaken: Another night has claimed the collection.
        """
        await self._delete(collection, [among(part) for part in parts(sorted(documents))])

    async def _delete(self, collection: str, conditions: Sequence[str]) -> None:
        """By filter at once: asking for the keys first would not see rows that were just written."""

        def delete() -> None:
            for condition in conditions:
                self._check_claim(collection)
                self.connection.client.delete(collection, filter=condition, timeout=self.connection.timeout_seconds)

        async with self._writers:
            await self.connection.call(delete)

    async def copy(self, source: str, target: str, versions: Mapping[str, str]) -> int:
        """Copy documents, vectors and all, from one generation to another; heads after all other rows.

        Args:
            source: Physical name of the generation to read, as the last strong read left it.
            target: Physical name of the generation to write.
            versions: Version to copy by document id; rows of other documents or versions stay behind.

        Returns:
            Rows acknowledged.

        Raises:
            IndexTaken: Another night has claimed the target.
        """
        if not versions:
            return 0
        await self.connection.load(source)
        snapshot = Snapshot()
        others = await self.connection.call(lambda: self._copy(source, target, NOT_HEADS, versions, snapshot))
        await self.check_claim(target)
        return others + await self.connection.call(lambda: self._copy(source, target, HEADS, versions, snapshot))

    def _copy(self, source: str, target: str, part: str, versions: Mapping[str, str], snapshot: Snapshot) -> int:
        """Read in this thread while others write: memory is bounded by the batches in flight."""
        rows, writing = 0, set[Future[int]]()

        def write(request: Batch) -> int:
            self._check_claim(target)
            return self.connection.write(target, request)

        with ThreadPoolExecutor(self._writers_count) as pool:
            for batch in self.connection.read_batches(source, part, snapshot=snapshot):
                for request in in_requests(batch.select(wanted(batch, versions)), REQUEST_BYTES):
                    if len(writing) == self._writers_count:
                        done, writing = wait(writing, return_when=FIRST_COMPLETED)
                        rows += sum(future.result() for future in done)
                    writing.add(pool.submit(write, request))
            return rows + sum(future.result() for future in writing)

    async def vectors(self, collection: str, documents: Collection[str]) -> dict[tuple[str, str], Vectors]:
        """The embeddings of documents, by version and text: what another document of the same content would get.

        Returns:
            float32, shape (dim,), by (version, text).
        """
        conditions = [among(part) for part in parts(sorted(documents))]
        rows = await self._rows(collection, conditions, ("version", "text", "embedding"))
        return {(row["version"], row["text"]): np.asarray(row["embedding"], dtype=np.float32) for row in rows}

    async def seal(self, collection: str, settings: IndexSettings, *, may_rebuild: bool) -> Sealed:
        """Seal what was written, where that pays, and have the index over the vectors fit the rows that are there.

        Args:
            collection: Physical name.
            settings: What the corpus file wants.
            may_rebuild: Whether nobody reads the collection yet.
        """
        does = self.connection.capabilities
        rows = await self.connection.count(collection)
        wanted = fitting(settings, rows, does)
        kind = await self.connection.index_kind(collection)
        rebuilds = may_rebuild and kind != wanted.kind  # and only what is sealed is indexed
        waits = rebuilds or does.reads_need_flush
        if waits or (may_rebuild and rows >= SEALED_ROWS):
            await self.connection.flush(collection, wait=waits)
        if rebuilds:
            await self.connection.rebuild_index(collection, wanted)
        if waits:
            rows = await self.connection.count(collection)
        if does.only_autoindex and settings.type not in {"auto", wanted.kind}:
            return Sealed(
                rows, f"index.type: {does.kind} has {wanted.kind} alone, and takes no {settings.type}; remove the key"
            )
        if rebuilds or kind == wanted.kind:
            return Sealed(rows)
        return Sealed(
            rows,
            f"the index over the vectors is {kind}, and {rows} rows should have {wanted.kind}; readers read it, so it"
            ' stays: a night with index.update = "generation" builds it',
        )

    async def is_exact(self, collection: str) -> bool:
        """Whether the index over the vectors compares a question with every one of them."""
        if self.connection.capabilities.only_autoindex:  # which says what was asked for, and builds something else
            return False
        return await self.connection.index_kind(collection) == "FLAT"

    async def measure_index_recall(self, collection: str, questions: Sequence[Question], limit: int = 10) -> float:
        """How much of the exact answer the index over the vectors finds: 1 for FLAT, which is exact.

        Every vector is read, in batches: for a sample of questions, after a strong read.

        Args:
            collection: Physical name.
            questions: Some.
            limit: Rows to compare, for each.

        Returns:
            Share of the nearest rows that are among those found, from 0 to 1.
        """
        vectors = np.stack([question.vector for question in questions])

        def measure() -> float:
            found = self.connection.nearest(collection, list(vectors), limit, ["id"])
            keys = [[row["id"] for row, _ in rows] for rows in found]
            exact = ExactAnswers(self.connection.settings.metric, vectors, keys)
            for batch in self.connection.scan(collection, ALL_ROWS, ("id", "embedding")):
                exact.see([row["id"] for row in batch], np.asarray([row["embedding"] for row in batch], np.float32))
            return exact.recall()

        await self.connection.load(collection)
        return await self.connection.call(measure)

    async def rank(self, collection: str, questions: Sequence[Question], limit: int) -> list[Ranking]:
        """The nodes that answer each question best by the URIs of their documents, best first: a request for all.

        They are as the last strong read left them.

        Args:
            collection: Physical name.
            questions: Of one embedder.
            limit: Nodes at most, for each; up to 16,384.
        """
        await self.connection.load(collection)
        words = await self._words(collection, questions)
        if self.reranker is None:
            found = await self.connection.call(lambda: self._rank(collection, questions, words, limit, ["uri"]))
            return [[(row["uri"], score) for row, score in rows] for rows in found]
        read = self.reranker.candidates
        depth = max(limit, read)
        found = await self.connection.call(lambda: self._rank(collection, questions, words, depth, ["id", "uri"]))
        texts = await self._passages(collection, {row["id"] for rows in found for row, _ in rows[:read]})
        passages = [[texts.get(row["id"], "") for row, _ in rows] for rows in found]
        orders = await self.reranker.orders([question.text for question in questions], passages)
        return [
            [(rows[at][0]["uri"], score) for at, score in order[:limit]]
            for rows, order in zip(found, orders, strict=True)
        ]

    def _rank(
        self,
        collection: str,
        questions: Sequence[Question],
        words: Sequence[str],
        limit: int,
        fields: Sequence[str],
        condition: str = "",
    ) -> list[list[tuple[Row, float]]]:
        """By embedding alone where a question has no keywords."""
        found: dict[int, list[tuple[Row, float]]] = {}
        worded = [at for at, word in enumerate(words) if word]
        if worded:
            vectors = [questions[at].vector for at in worded]
            rows = self.connection.fused(collection, vectors, [words[at] for at in worded], limit, fields, condition)
            found |= dict(zip(worded, rows, strict=True))
        others = [at for at, word in enumerate(words) if not word]
        if others:
            vectors = [questions[at].vector for at in others]
            rows = self.connection.nearest(collection, vectors, limit, fields, condition)
            found |= dict(zip(others, rows, strict=True))
        return [found[at] for at in range(len(questions))]

    async def _words(self, collection: str, questions: Sequence[Question]) -> list[str]:
        """The keywords of questions; "" for all where the generation holds none."""
        keywords = await self._keywords(collection)
        return [keywords.of_text(question.text) if keywords else "" for question in questions]

    async def search(self, collection: str, question: Question, limit: int, condition: str = "") -> list[Hit]:
        """The nodes that answer a question best as passages, best first.

        Args:
            collection: Physical name.
            question: It.
            limit: Nodes at most, up to 16,384.
            condition: That they meet: see `nightloom.filters`.
        """
        return [hit_of(row, score) for row, score in await self._found(collection, question, limit, condition)]

    async def find(
        self, collection: str, question: Question, limit: int, condition: str = ""
    ) -> list[tuple[Any, float]]:
        """The same as nodes of LlamaIndex, each with its score."""
        return [(node_of(row), score) for row, score in await self._found(collection, question, limit, condition)]

    async def _found(self, collection: str, question: Question, limit: int, condition: str) -> list[tuple[Row, float]]:
        await self.connection.load(collection)
        words = await self._words(collection, [question])
        depth = max(limit, self.reranker.candidates) if self.reranker else limit
        (found,) = await self.connection.call(
            lambda: self._rank(collection, [question], words, depth, NODE_FIELDS, condition)
        )
        if self.reranker is None:
            return found
        (order,) = await self.reranker.orders([question.text], [[row["text"] for row, _ in found]])
        return [(found[at][0], score) for at, score in order[:limit]]
