"""What the generations of an index hold: rows written, copied, deleted, checked, searched."""

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from uuid import uuid4

import numpy as np

from nightloom.audit import NAMED_DOCUMENTS, Audit, audit, named, read_heads
from nightloom.columns import Columns, in_requests, select, wanted
from nightloom.embedding import Vectors
from nightloom.errors import IndexInconsistent, IndexTaken
from nightloom.generations import HELD, WHOLE, WRITER
from nightloom.milvus import Connection, translated
from nightloom.planning import Head, rows_of, versions_of
from nightloom.retrieval import Question, Ranking
from nightloom.rows import (
    HEAD_FIELDS,
    HEADS,
    NOT_HEADS,
    REQUEST_BYTES,
    Hit,
    Row,
    among,
    beyond,
    checked_node_id,
    head_of,
    hit_of,
    parts,
    text_node,
)
from nightloom.splitting import Node

WRITES_IN_FLIGHT = 3


class Contents:
    """The rows of every generation.

    Methods name the physical collection, never the alias. Every write is an upsert or a delete by document, and may be
    made again. Only the writer that a collection names may write to it: whoever claims it later wins, and the one
    before stops at its next write.
    """

    def __init__(self, connection: Connection) -> None:
        """The rows of an open Milvus, for a writer of its own."""
        self.connection = connection
        self.writer = uuid4().hex
        # Milvus Lite is not safe under concurrent writers; a server is.
        self._writers_count = 1 if connection.settings.is_lite else WRITES_IN_FLIGHT
        self._writers = asyncio.Semaphore(self._writers_count)

    async def claim(self, collection: str) -> None:
        """Be the one who writes; a night that wrote before stops, and what it found to be whole is so no more."""
        claimed = {WRITER: self.writer, WHOLE: "", HELD: ""}
        await self.connection.call(lambda: self.connection.set_properties(collection, claimed))

    async def check_claim(self, collection: str) -> None:
        """Check that nobody has claimed the collection since.

        Raises:
            IndexTaken: Another night has.
        """
        await self.connection.call(lambda: self._check_claim(collection))

    def _check_claim(self, collection: str) -> None:
        if self.connection.properties(collection).get(WRITER) != self.writer:
            raise IndexTaken(f"another night has taken up {collection}, and goes on with it; this one stops writing")

    async def dim(self, collection: str) -> int:
        """Dimensions of a generation's embeddings."""

        def dim() -> int:
            fields = self.connection.client.describe_collection(collection)["fields"]
            return next(int(field["params"]["dim"]) for field in fields if field["name"] == "embedding")

        return await self.connection.call(dim)

    async def read(self, collection: str) -> tuple[int, dict[str, Head]]:
        """Rows, physical duplicates included, and the head of every indexed document by document id."""
        rows = await self.connection.count(collection)
        return rows, await self.connection.call(lambda: read_heads(self.connection, collection))

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
        conditions = [f"id in {json.dumps([checked_node_id(key) for key in part])}" for part in parts(sorted(keys))]
        rows = await self._rows(collection, conditions, ("document_id", "text", "embedding"))
        return {row["id"]: row for row in rows}

    async def texts(self, collection: str, documents: Collection[str]) -> dict[str, str]:
        """The texts of all nodes of some documents, joined in their order, by document id."""
        conditions = [among(part) for part in parts(sorted(documents))]
        found: dict[str, dict[int, str]] = {}
        for row in await self._rows(collection, conditions, ("document_id", "position", "text")):
            found.setdefault(row["document_id"], {})[row["position"]] = row["text"]
        return {key: " ".join(texts[at] for at in sorted(texts)) for key, texts in found.items()}

    async def _rows(self, collection: str, conditions: Sequence[str], fields: Sequence[str]) -> list[Row]:
        """Rows that meet one of the conditions, as the last strong read left them."""

        def read() -> list[Row]:
            return [
                row
                for condition in conditions
                for batch in self.connection.scan(collection, condition, fields)
                for row in batch
            ]

        await self.connection.load(collection)
        return await self.connection.call(read)

    async def audit(self, collection: str) -> Audit:
        """Look at every row."""
        await self.connection.load(collection)
        return await self.connection.call(lambda: audit(self.connection, collection))

    async def verify(self, collection: str, expected: Mapping[str, str], *, every_row: bool = False) -> int:
        """Check that a generation holds these documents in these versions, each with all its rows, and nothing else.

        Args:
            collection: Physical name.
            expected: Version by document id.
            every_row: Look at every row, where somebody else may have written too; else at the heads and count(*).

        Returns:
            Rows.

        Raises:
            IndexInconsistent: Names the documents.
        """
        rows, heads = await self.read(collection)
        versions = versions_of(heads)
        total = rows_of(heads.values())
        counted = versions == dict(expected) and rows == total
        if counted and not every_row:
            return rows
        found = await self.audit(collection)
        if counted and not found.findings:
            return rows
        other = sorted(key for key in {*versions, *expected} if versions.get(key) != expected.get(key))
        names = [heads[key].uri if key in heads else key for key in other if key not in found.damaged]
        says = [named(found.findings)] if found.findings else []
        says += [f"not of tonight's version: {', '.join(names[:NAMED_DOCUMENTS])}"] if names else []
        raise IndexInconsistent(
            f"{collection} holds {rows} rows where its heads count {total}; wrong documents:"
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
        await self._add(collection, [pair for pair in pairs if not pair[0].position])
        return len(pairs)

    async def _add(self, collection: str, pairs: Sequence[tuple[Node, Vectors]]) -> None:
        if not pairs:
            return
        store = await self.connection.store(collection)
        text_nodes = [text_node(node, vector) for node, vector in pairs]
        async with self._writers:
            await self.check_claim(collection)
            async with translated(self.connection.timeout_seconds):
                await store.async_add(text_nodes)

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
            source: Physical name of the generation to read.
            target: Physical name of the generation to write.
            versions: Version to copy by document id; rows of other documents or versions stay behind.

        Returns:
            Rows acknowledged.

        Raises:
            IndexTaken: Another night has claimed the target.
        """
        if not versions:
            return 0
        await self.connection.count(source)
        others = await self.connection.call(lambda: self._copy(source, target, NOT_HEADS, versions))
        return others + await self.connection.call(lambda: self._copy(source, target, HEADS, versions))

    def _copy(self, source: str, target: str, part: str, versions: Mapping[str, str]) -> int:
        """Read in this thread while others write: memory is bounded by the batches in flight."""
        rows, writing = 0, set[Future[int]]()

        def write(request: Columns) -> int:
            self._check_claim(target)
            return self.connection.write_columns(target, request)

        with ThreadPoolExecutor(self._writers_count) as pool:
            for batch in self.connection.read_columns(source, part):
                for request in in_requests(select(batch, wanted(batch, versions)), REQUEST_BYTES):
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

    async def flush(self, collection: str) -> None:
        """Seal what was written, where it pays: on Milvus Lite a search over unsealed rows takes 200 ms."""
        if self.connection.settings.is_lite:
            await self.connection.call(
                lambda: self.connection.client.flush(collection, timeout=self.connection.timeout_seconds)
            )

    async def rank(self, collection: str, questions: Sequence[Question], limit: int) -> list[Ranking]:
        """The nodes nearest to each question by the URIs of their documents, best first: one request for all.

        They are as the last strong read left them.

        Args:
            collection: Physical name.
            questions: Of one embedder.
            limit: Nodes at most, for each; up to 16,384.
        """
        await self.connection.load(collection)
        vectors = [question.vector for question in questions]
        return await self.connection.call(lambda: self.connection.nearest(collection, vectors, limit, "uri"))

    async def search(self, collection: str, question: Question, limit: int) -> list[Hit]:
        """The nodes nearest to a question as passages, best first.

        Args:
            collection: Physical name.
            question: It.
            limit: Nodes at most, up to 16,384.
        """
        from llama_index.core.vector_stores.types import VectorStoreQuery  # noqa: PLC0415  seconds to import

        store = await self.connection.store(collection)
        query = VectorStoreQuery(
            query_str=question.text,
            query_embedding=question.vector.tolist(),
            similarity_top_k=limit,
            output_fields=["text", "_node_content", "_node_type"],
        )
        async with translated(self.connection.timeout_seconds):
            found = await store.aquery(query)
        return [hit_of(node, score) for node, score in zip(found.nodes or [], found.similarities or [], strict=True)]
